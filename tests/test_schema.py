"""Every column of a table gets its kind, and every row comes back from numbers as it was."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from snippets import blocks

from diffeo.cli import main
from diffeo.data.tables.describing import describe
from diffeo.data.tables.frames import decode, encode
from diffeo.data.tables.grids import find_decimals, grid_of, round_decimals
from diffeo.data.tables.kind_files import dump_kinds, read_kinds
from diffeo.data.tables.kinds import find_schema
from diffeo.data.tables.opening import TableOptions
from diffeo.data.tables.reading import read_frame
from diffeo.schema import CategoryColumn, DateColumn, LeftOutColumn, NumberColumn, Schema
from diffeo.utils.config import from_config, to_config

ROWS = 400
SHARED = Path(__file__).parents[2] / "shared" / "data"


def kind_of(cells, **kinds):
    """The column that is found for the cells of one column, `x`, near one of full floats."""
    values = pd.Series(cells).reset_index(drop=True)
    frame = pd.DataFrame({"x": values, "z": np.random.default_rng(9).normal(size=len(values))})
    return find_schema(frame, kinds).columns[0]


def refusal(work) -> list[str]:
    with pytest.raises(ValueError, match=r"\w") as caught:
        work()
    return str(caught.value).split("\n")


def random_numbers(rows=ROWS, seed=0):
    return np.random.default_rng(seed).normal(size=rows)


# Numbers


@pytest.mark.parametrize("step", [0.01, 0.1, 0.18, 0.25, 1.0, 25.0, 1.15078, 1 / 3])
@pytest.mark.parametrize("offset", [-4.0, 0.0, 7.3])
def test_the_grid_of_rounded_values_is_found(step, offset):
    values = offset + np.rint(20 * random_numbers()) * step
    column = kind_of(values)
    assert column.step == pytest.approx(step, rel=1e-9)
    places = (values - column.origin) / column.step
    assert places == pytest.approx(np.rint(places), abs=1e-6)


def test_computed_decimals_are_a_grid_and_come_back_to_the_last_bit():
    values = np.arange(-50, 50) * 0.1  # 0.30000000000000004
    column = kind_of(np.tile(values, 4))
    assert (column.step, column.decimals) == (0.1, None)
    schema = Schema((column,))
    frame = pd.DataFrame({"x": values})
    assert decode(schema, encode(schema, frame)).equals(frame)


def test_decimals_that_were_float32_once_are_a_grid_and_come_back():
    values = np.round(10 + 20 * random_numbers(), 1)
    once = values.astype(np.float32).astype(float)
    column = kind_of(once)
    assert column.step == 0.1
    frame = pd.DataFrame({"x": once})
    assert decode(Schema((column,)), encode(Schema((column,)), frame)).equals(frame)


def test_minutes_of_an_hour_have_their_ends_and_measurements_do_not():
    assert (kind_of(np.arange(ROWS) % 60).low, kind_of(np.arange(ROWS) % 60).high) == (0.0, 59.0)
    lengths = np.rint(200 + 8 * random_numbers())
    assert kind_of(lengths).high is None


@pytest.mark.parametrize("values", [random_numbers(), 1e6 * random_numbers().round(4)])
def test_full_floats_have_no_grid(values):
    column = kind_of(values)
    assert (column.step, column.atoms) == (0.0, ())
    assert column.low is None


def test_a_fine_decimal_grid_is_found_where_half_of_the_values_are_alone():
    values = np.round(random_numbers(5_000) * 30, 2)
    assert (np.unique(values, return_counts=True)[1] == 1).sum() > 2_000
    assert kind_of(values).step == 0.01


def test_long_decimals_are_written_so_and_have_no_grid():
    column = kind_of(np.round(random_numbers(), 6))
    assert (column.step, column.decimals) == (0.0, 6)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (random_numbers(), None, None),
        (np.abs(random_numbers()), 0.0, None),
        (50 + random_numbers(), 0.0, None),
        (1 / (1 + np.exp(-3 * random_numbers())), 0.0, 1.0),
        (100 / (1 + np.exp(-3 * random_numbers())), 0.0, 100.0),
        (np.clip(60 + 20 * random_numbers(), 0, 90), 0.0, 90.0),
        (np.clip(random_numbers(), -1, None), -1.0, None),
        (np.arange(ROWS) % 12 + 1, 1.0, 12.0),
        (np.arange(ROWS) % 24, 0.0, 23.0),
        (np.array([3, 4, 5, 6, 8])[np.arange(ROWS) % 5], 3.0, 8.0),
        (np.r_[np.tile([1, 2, 3, 4, 5, 6, 7, 8], 50), 9, 10, 11], 1.0, None),
        (np.random.default_rng(0).poisson(400, ROWS), 0.0, None),
    ],
)
def test_the_support_follows_from_the_values(values, low, high):
    column = kind_of(values)
    assert (column.low, column.high) == (low, high)


def test_zero_inflated_and_clipped_columns_have_atoms():
    x = random_numbers(1_000)
    assert kind_of(np.where(x < 0, 0.0, x)).atoms == (0.0,)
    assert kind_of(np.clip(x, -1.5, 1.5)).atoms == (-1.5, 1.5)
    heaped = np.where(np.arange(1_000) % 5 == 0, 2 / 3, x)
    assert kind_of(heaped).atoms == (2 / 3,)
    assert kind_of(np.random.default_rng(0).choice(x, 1_000)).atoms == ()  # a bootstrap


def test_a_handful_of_numbers_on_no_grid_are_categories():
    column = kind_of(np.array([0.0, 1.0, np.pi])[np.arange(ROWS) % 3])
    assert isinstance(column, CategoryColumn)
    assert column.values == (0.0, 1.0, np.pi)


@pytest.mark.parametrize(
    ("cells", "integer", "dtype"),
    [
        (["1", "2", "3"], True, ""),
        (["1.0", "2.0", "3.0"], False, ""),
        ([1, 2, 3], True, ""),
        ([1.0, 2.0, 3.0], False, ""),
        (pd.array([1, 2, None], dtype="Int64"), True, ""),
        (pd.array([1, 2, None], dtype="Int16"), True, "Int16"),
        (pd.array([1.5, 2, None], dtype="Float64"), False, "Float64"),
        (np.array([0.1, 0.2, 0.7], dtype=np.float32), False, "float32"),
        (np.array([1, 2, 7], dtype=np.uint8), True, "uint8"),
        (pd.Series([1, 2.5, None], dtype=object), False, ""),
    ],
)
def test_numbers_are_found_whatever_their_type(cells, integer, dtype):
    column = kind_of(pd.concat([pd.Series(cells)] * 20))
    assert isinstance(column, NumberColumn)
    assert (column.integer, column.dtype) == (integer, dtype)
    assert column.missing == pd.isna(cells).any()


def test_text_that_a_number_would_lose_stays_text():
    column = kind_of(["00501", "10001", "90210"] * 20)
    assert column.values == ("00501", "10001", "90210")


# Dates


@pytest.mark.parametrize(
    ("form", "unit", "step"),
    [
        ("%Y-%m-%d", "day", 1.0),
        ("%Y/%m/%d", "day", 1.0),
        ("%d.%m.%Y", "day", 1.0),
        ("%m/%d/%Y", "day", 1.0),
        ("%-m/%-d/%Y", "day", 1.0),
        ("%d-%b-%y", "day", 1.0),
        ("%Y-%m-%dT%H:%M:%SZ", "second", 3600.0),
        ("%Y-%m-%d %H:%M", "second", 3600.0),
        ("%d.%m.%Y %H:%M:%S", "second", 3600.0),
        ("%Y-%m-%dT%H:%M:%S+00:00", "second", 3600.0),
        ("%m/%d/%Y %I:%M %p", "second", 3600.0),
        ("%H:%M", "second", 3600.0),
    ],
)
def test_dates_are_found_in_the_form_in_which_they_are_written(form, unit, step):
    hours = np.random.default_rng(0).integers(0, 20_000, ROWS)
    times = pd.Timestamp("2012-01-01") + pd.to_timedelta(hours, unit="h")
    texts = pd.DataFrame({"x": times.strftime(form)})
    column = kind_of(texts["x"])
    assert isinstance(column, DateColumn)
    assert (column.form, column.unit, column.step) == (form, unit, step)
    schema = Schema((column,))
    assert decode(schema, encode(schema, texts)).equals(texts)


@pytest.mark.parametrize(
    "dtype", ["datetime64[ns]", "datetime64[s]", "datetime64[us, UTC]", "timestamp[us][pyarrow]"]
)
def test_pandas_times_keep_their_type(dtype):
    times = pd.Series(pd.date_range("2020-01-01", periods=ROWS, freq="90s"))
    times = times.dt.tz_localize("UTC") if "UTC" in dtype else times
    frame = pd.DataFrame({"x": times.astype(dtype)})
    frame.loc[3, "x"] = pd.NaT
    schema = find_schema(frame)
    assert (schema.columns[0].step, schema.columns[0].missing) == (90.0, True)
    pd.testing.assert_frame_equal(decode(schema, encode(schema, frame)), frame)


@pytest.mark.parametrize(("months", "step"), [(12, 12.0), (3, 3.0), (1, 1.0)])
def test_dates_at_the_first_of_months_are_counted_in_months(months, step):
    dates = pd.date_range("1970-01-01", periods=40, freq=f"{months}MS").strftime("%d.%m.%Y")
    frame = pd.DataFrame({"x": np.tile(dates, 3)})
    schema = find_schema(frame)
    assert (schema.columns[0].unit, schema.columns[0].step) == ("month", step)
    assert decode(schema, encode(schema, frame)).equals(frame)
    between = np.linspace(0, 200, 50)[:, None]  # what a model may draw
    known = pd.date_range("1970-01-01", periods=400, freq=f"{months}MS").strftime("%d.%m.%Y")
    assert set(decode(schema, between)["x"]) <= {*known}
    bad = pd.DataFrame({"x": ["15.02.1970"]})
    assert "not on its grid" in refusal(lambda: encode(schema, bad))[0]


def test_python_dates_come_back_as_such():
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(i * i) for i in range(30)]
    frame = pd.DataFrame({"x": pd.Series(days, dtype=object)})
    schema = find_schema(frame)
    assert schema.columns[0].unit == "day"
    assert decode(schema, encode(schema, frame))["x"].tolist() == days


# Categories and columns that are left out


def test_categories_have_their_order_and_their_type():
    sizes = pd.Categorical(["L", "S", "M"] * 20, categories=["S", "M", "L"], ordered=True)
    assert kind_of(sizes).values == ("S", "M", "L")
    assert kind_of([True, False] * 20).values == (False, True)
    assert kind_of(pd.Series([True, None] * 20, dtype=object)).values == (True,)
    assert kind_of(["b", "a", None] * 20).values == ("a", "b")
    assert kind_of(["b", "a", None] * 20).missing
    frame = pd.DataFrame({"x": sizes})
    schema = find_schema(frame)
    assert decode(schema, encode(schema, frame))["x"].dtype == frame["x"].dtype


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([7] * ROWS, "every value is 7"),
        (["yes"] * ROWS, "every value is yes"),
        ([None] * ROWS, "every cell is empty"),
        ([" ", "NA", "n/a", ""] * 100, "every cell is empty"),
        (range(ROWS), "it counts the rows"),
        ([f"name {i}" for i in range(ROWS)], "400 of 400 texts are different"),
        ([f"{i % 1500}x" for i in range(9_000)], "1,500 different texts are too many"),
        ([str(float(x)) for x in range(99, 3)] + ["?", *map(str, random_numbers())], "holds '?'"),
        ([[1], [2]] * 200, "its cells are lists"),
        ([2**60 + 3 * i * i for i in range(ROWS)], "too long for floats"),
    ],
)
def test_columns_of_no_use_are_left_out_with_a_reason(cells, reason):
    column = kind_of(pd.Series(cells))
    assert isinstance(column, LeftOutColumn)
    assert reason in column.reason


def test_a_column_without_a_name_is_left_out():
    schema = find_schema(pd.DataFrame({"": random_numbers(), "a": random_numbers()}))
    assert schema.columns[0] == LeftOutColumn("", "it has no name")
    assert [column.name for column in schema.modelled] == ["a"]


# Corrections


def test_words_and_fields_correct_what_is_found():
    frame = pd.DataFrame({"a": np.arange(ROWS) % 3, "b": ["1", "2"] * 200, "c": random_numbers()})
    frame["d"] = [f"name {i}" for i in range(ROWS)]
    kinds = {"a": "category", "b": {"low": 0, "high": 9, "missing": True}, "c": "left out"}
    schema = find_schema(frame, kinds | {"d": {"kind": "category", "other": True}})
    a, b, c, d = schema.columns
    assert a == CategoryColumn("a", (0, 1, 2))
    assert (b.low, b.high, b.step, b.missing) == (0.0, 9.0, 1.0, True)
    assert c == LeftOutColumn("c", "as asked")
    assert d.count == ROWS + 1
    with_new = frame.assign(d="new", b=pd.NA)
    assert encode(schema, with_new)[0, 2] == ROWS
    assert np.isnan(encode(schema, with_new)[:, 1]).all()


def test_a_step_that_is_asked_for_brings_its_origin_and_its_decimals():
    frame = pd.DataFrame(
        {"a": np.round(np.round(random_numbers(), 1) + 0.05, 2), "b": random_numbers()}
    )
    column = find_schema(frame, {"a": {"step": 0.05}}).columns[0]
    assert (column.step, column.origin, column.decimals) == (0.05, 0.0, 2)
    column = find_schema(frame, {"a": {"step": 0}}).columns[0]
    assert column.step == 0.0
    assert len(column.atoms) > 5  # which repeat, if the column is taken for a continuous one


def test_all_problems_of_a_table_are_reported_at_once():
    frame = pd.DataFrame({"a": [1.0, np.inf] * 10, "b": ["1", "x"] * 10, "c": [1, 2] * 10})
    frame = pd.concat([frame, frame[["c"]]], axis=1)
    kinds = {"b": "number", "cc": "category", "a": {"step": 0.3}}
    assert refusal(lambda: find_schema(frame, kinds)) == [
        "there is no column 'cc' (did you mean 'c'?): the table has a, b, c, c.",
        "2 columns are named 'c': give each its own name.",
        "column 'a' holds 'inf' in row 2 and 9 more, not finite: correct or empty it.",
        "column 'b' holds 'x' in row 2 and 9 more, no number: correct it.",
    ]
    frame = pd.DataFrame({"a": [0, 1] * 10, "b": list("xy") * 10})
    frame["c"], frame["d"] = 1.5 * frame["a"], frame["a"]
    kinds = {"a": "numbr", "b": {"kind": "category", "stp": 1}, "c": "integer", "d": 7}
    assert refusal(lambda: find_schema(frame, kinds)) == [
        "column 'a' is to be 'numbr' (did you mean 'number'?): choose one of number, integer, "
        "category, date, left out.",
        "column 'b' has no 'stp': a column of its kind has dtype, missing, other, values.",
        "column 'c' holds '1.5' in row 2 and 9 more, no whole number: correct it, or ask for "
        "number.",
        "column 'd' is to be 7: choose one of number, integer, category, date, left out.",
    ]


def test_a_table_with_nothing_to_model_says_why():
    frame = pd.DataFrame({"a": [1] * 20, "b": [f"n{i}" for i in range(20)]})
    first, *reasons = refusal(lambda: find_schema(frame))
    assert first == "no column is left to model: ask for one by its kind, such as a=category."
    assert reasons[0] == "column 'a' is left out: every value is 1."


def test_all_cells_that_a_schema_does_not_allow_are_reported_at_once():
    frame = pd.DataFrame(
        {
            "sex": ["male", "female"] * 200,
            "age": np.abs(np.round(50 + 10 * random_numbers())),
            "when": pd.date_range("2020-01-01", periods=ROWS).strftime("%Y-%m-%d"),
        }
    )
    schema = find_schema(frame, {"age": {"high": 100}})
    bad = frame.astype(object)
    bad.loc[3, "sex"], bad.loc[4, "age"], bad.loc[5, "age"] = "mael", 40.5, 130
    bad.loc[6, "age"], bad.loc[7, "age"], bad.loc[8, "when"] = None, "old", "2020/01/05"
    assert refusal(lambda: encode(schema, bad)) == [
        "column 'sex' holds 'mael' in row 4, none of its values (did you mean 'male'?): correct it "
        "to one of female, male, or ask for other values (other: true).",
        "column 'age' has an empty cell in row 7: fill it in, or allow empty cells "
        "(missing: true).",
        "column 'age' holds 'old' in row 8, no number: correct it.",
        "column 'age' holds '130' in row 6, not in its range, 0 to 100: correct it.",
        "column 'age' holds '40.5' in row 5, not on its grid of step 1: correct it, or set step: "
        "0.",
        "column 'when' holds '2020/01/05' in row 9, no date of the form %Y-%m-%d: correct it.",
    ]
    assert "there is no column 'sex'" in refusal(lambda: encode(schema, frame[["age"]]))[0]


# Round trips


def random_table(seed: int) -> pd.DataFrame:
    """A table of columns of every kind, some with gaps."""
    rng = np.random.default_rng(seed)
    rows, start = int(rng.integers(60, 300)), pd.Timestamp("2000-01-01")
    makers = {
        "float": lambda: rng.normal(size=rows) * 10.0 ** rng.integers(-8, 8),
        "decimal": lambda: np.round(rng.normal(size=rows) * 20, rng.integers(0, 5)),
        "grid": lambda: rng.integers(-30, 30, rows) * rng.uniform(0.1, 9),
        "whole": lambda: rng.integers(-9, 1000, rows),
        "small": lambda: rng.integers(0, 9, rows).astype("int8"),
        "single": lambda: rng.normal(size=rows).astype("float32"),
        "zeros": lambda: np.where(rng.random(rows) < 0.6, 0, rng.exponential(size=rows)),
        "text": lambda: rng.choice(["a", "b b", "ü", "[x]"], rows),
        "truth": lambda: rng.random(rows) < 0.5,
        "level": lambda: pd.Categorical(rng.choice(["z", "y", "x"], rows), ["z", "y", "x"]),
        "day": lambda: start + pd.to_timedelta(rng.integers(0, 9999, rows), "D"),
        "time": lambda: start + pd.to_timedelta(rng.integers(0, 1 << 30, rows), "s"),
        "written": lambda: [
            f"{y}-06-1{d}" for y, d in rng.integers([1990, 0], [2030, 9], (rows, 2))
        ],
    }
    frame = pd.DataFrame({name: make() for name, make in makers.items()})
    for name in frame.columns:
        if rng.random() < 0.4:
            column = frame[name]
            nullable = {"int64": "Int64", "int8": "Int8", "bool": "boolean"}
            frame[name] = column.astype(nullable.get(str(column.dtype), column.dtype)).mask(
                rng.random(rows) < 0.2
            )
    return frame[rng.permutation(frame.columns)]


@pytest.mark.parametrize("seed", range(12))
def test_rows_come_back_as_they_were(seed):
    frame = random_table(seed)
    schema = find_schema(frame)
    matrix = encode(schema, frame)
    back = decode(schema, matrix)
    pd.testing.assert_frame_equal(back, frame[[c.name for c in schema.modelled]], check_exact=True)
    np.testing.assert_array_equal(encode(schema, back), matrix)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_model_draws_becomes_a_table_that_loads_back(seed, tmp_path):
    schema = find_schema(random_table(seed))
    noise = np.random.default_rng(seed).normal(size=(200, len(schema.modelled))) * 50
    drawn = decode(schema, noise)
    again = encode(schema, drawn)
    pd.testing.assert_frame_equal(decode(schema, again), drawn)
    drawn.to_csv(tmp_path / "drawn.csv", index=False)
    read = read_frame(TableOptions(str(tmp_path / "drawn.csv")))
    np.testing.assert_allclose(encode(schema, read), again, rtol=1e-6)


def test_decimals_are_exact_and_limits_hold():
    frame = pd.DataFrame({"x": np.clip(np.round(np.abs(random_numbers()) * 40, 1), 0, 100)})
    schema = find_schema(frame, {"x": {"high": 100}})
    values = decode(schema, np.array([[0.1 + 0.2], [-5.0], [1e9]]))["x"].tolist()
    assert values == [0.3, 0.0, 100.0]


def test_helpers_of_grids():
    assert find_decimals(np.array([0.5, 0.25])) == 2
    assert find_decimals(np.array([1e300])) is None
    assert round_decimals(np.array([0.1 + 0.2, 1e300]), 1).tolist() == [0.3, 1e300]
    assert grid_of(np.array([3.0, 5.0, 11.0])) == (2.0, 1.0)
    assert grid_of(np.array([0.0, 1.0, np.pi])) == (0.0, 0.0)


# In words and in files


def table_of_every_kind(rows=ROWS):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "id": [f"P{i}" for i in range(rows)],
            "age": rng.integers(18, 80, rows),
            "height": np.round(rng.normal(170, 9, rows), 1),
            "sex": rng.choice(["f", "m"], rows),
            "rain": np.where(rng.random(rows) < 0.5, 0.0, rng.exponential(size=rows)),
            "when": (pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(rows) // 2, "D")),
            "at": [f"{hour:02d}:{rng.choice([15, 30])}" for hour in rng.integers(0, 24, rows)],
        }
    )
    frame.loc[:9, "height"] = np.nan
    return frame


def test_a_schema_is_described_in_words():
    frame = table_of_every_kind()
    rows = {row["column"]: row for row in describe(find_schema(frame), frame)}
    assert rows["id"]["kind"] == "left out"
    assert rows["id"]["values"].startswith("400 of 400 texts are different")
    assert rows["height"] == {
        "column": "height",
        "kind": "number",
        "values": "from 0 on",
        "step": "0.1",
        "gaps": "2.5 %",
        "masses": "",
        "example": f"{frame['height'][10]:.6g}",
    }
    assert rows["sex"]["values"] == "f, m"
    assert rows["rain"]["masses"].startswith("0 (48.")
    assert rows["when"]["values"] == "2020-01-01 to 2020-07-18 here"
    assert (rows["when"]["step"], rows["at"]["step"]) == ("1 day", "15 minutes")
    without = {row["column"]: row for row in describe(find_schema(frame))}
    assert (without["height"]["gaps"], without["rain"]["masses"]) == ("possible", "0")


@pytest.mark.parametrize("frame", [table_of_every_kind(), *map(random_table, range(4))])
def test_kinds_that_are_written_give_the_same_schema(frame, tmp_path):
    schema = find_schema(frame)
    (tmp_path / "kinds.yaml").write_text(dump_kinds(schema), encoding="utf-8")
    assert find_schema(frame, read_kinds(str(tmp_path / "kinds.yaml"))) == schema
    assert from_config(to_config(schema)) == schema


def test_kinds_in_words():
    assert read_kinds("a=integer, b c=left out") == {"a": "integer", "b c": "left out"}
    for text in ("a", "a=integer,b", "missing.yaml"):
        assert refusal(lambda text=text: read_kinds(text))


def test_the_command_prints_a_schema_and_writes_its_kinds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table_of_every_kind().to_csv("t.csv", index=False)
    assert main(["schema", "t.csv", "--save", "k.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "400 rows, 6 columns to model" in printed
    assert "2020-01-01 to 2020-07-18" in printed
    assert main(["schema", "t.csv", "--kinds", "k.yaml", "--data.columns", "age,sex"]) == 2
    assert "there is no column 'height'" in capsys.readouterr().err
    assert main(["schema", "t.csv", "--kinds", "sx=category,at=number"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "did you mean 'sex'?" in first
    assert second.startswith("column 'at' holds")
    assert main(["schema"]) == 2
    assert "FILE is missing" in capsys.readouterr().err


def test_the_page_shows_what_the_command_prints(tmp_path, monkeypatch, capsys):
    page = Path(__file__).parents[1] / "docs" / "how-to" / "schema.md"
    made, shown = (
        next(block.text for block in blocks(page) if block.language == language)
        for language in ("python", "text")
    )
    monkeypatch.chdir(tmp_path)
    exec(made, {})
    assert main(["schema", "patients.csv"]) == 0
    lines = [[line.rstrip() for line in s.splitlines()] for s in (capsys.readouterr().out, shown)]
    assert lines[0][1:] == lines[1][1:]


# Reading


def test_a_csv_is_read_with_text_gaps_and_leading_zeros(tmp_path):
    (tmp_path / "t.csv").write_text("n;t;b;z;f\n1;a;True;007;1,5\n;b;;010;2,5\n3;;False;100;\n")
    frame = read_frame(TableOptions(str(tmp_path / "t.csv"), decimal=","))
    assert [str(frame[c].dtype) for c in "nbf"] == ["Int64", "boolean", "float64"]
    assert frame["z"].tolist() == ["007", "010", "100"]
    assert frame["t"].isna().tolist() == [False, False, True]
    assert len(read_frame(TableOptions(str(tmp_path / "t.csv"), decimal=",", rows=2))) == 2


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "parquet"])
def test_every_format_gives_the_same_frame(tmp_path, ending):
    frame = pd.DataFrame({"a": [1, None, 3], "b": ["x", None, "z"], "c": [1.5, 2.0, 2.5]})
    frame = frame.astype({"a": "Int64"})
    path = tmp_path / f"t.{ending}"
    if ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    pd.testing.assert_frame_equal(read_frame(TableOptions(str(path))), frame)


def test_arrays_generators_and_bundled_tables_are_frames(tmp_path):
    np.save(tmp_path / "t.npy", np.ones((4, 2)))
    assert read_frame(TableOptions(str(tmp_path / "t.npy"))).columns.tolist() == ["x0", "x1"]
    assert read_frame(TableOptions("moons", rows=9)).shape == (9, 2)
    assert read_frame(TableOptions("moons", rows=9, context=["label"])).shape == (9, 3)
    assert "target" not in read_frame(TableOptions("iris"))


# Real tables

KNOWN = {
    "tables/cars": {"Name": "are different", "Year": "date", "Cylinders": "integer"},
    "tables/credit_cards": {"LateSept": "integer", "BillApril": "number"},
    "tables/nyc-flights": {"year": "every value", "tailnum": "too many", "time_hour": "date"},
    "tables/nyc-weather": {"year": "every value", "origin": "category", "precip": "number"},
    "tables/penguins": {"species": "category", "island": "category", "sex": "category"},
    "tables/restaurant_inspections": {"business_name": "too many", "Weekend": "category"},
    "tables/seattle-weather": {"date": "date", "weather": "category", "wind": "number"},
    "tables/wage": {"region": "every value", "maritl": "category", "logwage": "number"},
    "uci/power-plant": {"AT": "number", "PE": "number"},
    "uci/protein-tertiary-structure": {"F8": "integer", "RMSD": "number"},
}


@pytest.mark.parametrize("name", KNOWN)
def test_real_tables_have_sensible_schemas_and_come_back(name):
    path = SHARED / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    frame = read_frame(TableOptions(str(path), rows=10_000))
    schema = find_schema(frame)
    columns = {column.name: column for column in schema.columns}
    for column, kind in KNOWN[name].items():
        found = columns[column]
        if isinstance(found, LeftOutColumn):
            assert kind in found.reason
        elif isinstance(found, NumberColumn) and not isinstance(found, DateColumn):
            assert kind == ("integer" if found.integer else "number")
        else:
            assert kind == ("date" if isinstance(found, DateColumn) else "category")
    back = decode(schema, encode(schema, frame))
    pd.testing.assert_frame_equal(back, frame[[c.name for c in schema.modelled]], check_exact=True)

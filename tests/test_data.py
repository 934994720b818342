"""Tables: the truth of the densities, of what is read, and of every refusal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffeo.context import ContextSpec, Number
from diffeo.data import (
    GENERATORS,
    TableOptions,
    check_writable,
    generate,
    load_table,
    moons_log_density,
    stream,
    write_table,
)
from diffeo.data.tables.loading import step_size


def normal(rows: int = 50, columns: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns))


def frame(rows: int = 50) -> pd.DataFrame:
    return pd.DataFrame(normal(rows), columns=["a", "b", "c"])


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def rows_of(batches) -> tuple[torch.Tensor, list[int]]:
    xs = [x for x, _ in batches]
    return torch.cat(xs), [len(x) for x in xs]


# Generators


@pytest.mark.parametrize(("rows", "seed"), [(1_000, 0), (7, 3)])
def test_moons_are_those_of_scikit_learn_to_the_last_bit(rows, seed):
    from sklearn.datasets import make_moons

    points, _, labels = generate("moons", rows, seed)
    truth, classes = make_moons(rows, noise=0.05, random_state=seed)
    assert np.array_equal(points, truth)
    assert np.array_equal(labels, classes)


def test_moons_floor_is_the_known_one():
    from sklearn.datasets import make_moons

    x, _ = make_moons(10_000, noise=0.05, random_state=1)
    log_density = moons_log_density(x, 0.05) + np.log(x.std(axis=0)).sum()
    assert -log_density.mean() == pytest.approx(1.1325, abs=5e-4)


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_moons_density_integrates_to_one(noise):
    x = np.arange(-1 - 6 * noise, 2 + 6 * noise, 0.025)
    y = np.arange(-0.5 - 6 * noise, 1 + 6 * noise, 0.025)
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    assert np.exp(moons_log_density(grid, noise)).sum() * 0.025**2 == pytest.approx(1, abs=1e-4)


def test_moons_density_agrees_with_adaptive_quadrature():
    from scipy.integrate import quad

    noise = 0.1

    def integrand(t, x, y):
        upper = (x - np.cos(t)) ** 2 + (y - np.sin(t)) ** 2
        lower = (x - 1 + np.cos(t)) ** 2 + (y - 0.5 + np.sin(t)) ** 2
        both = np.exp(-upper / (2 * noise**2)) + np.exp(-lower / (2 * noise**2))
        return both / (2 * np.pi) / (2 * np.pi * noise**2)

    points = np.array([[0.0, 1.0], [0.9, 0.2], [1.0, -0.4], [-1.1, -0.1], [0.5, 0.25]])
    expected = [
        quad(integrand, 0, np.pi, args=tuple(p), epsabs=1e-14, limit=500)[0] for p in points
    ]
    np.testing.assert_allclose(moons_log_density(points, noise), np.log(expected), atol=1e-8)


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_are_seeded_and_leave_the_global_state_alone(name):
    before = np.random.get_state()[1].copy()
    first, columns, labels = generate(name, 100, seed=3)
    again, _, _ = generate(name, 100, seed=3)
    other, _, _ = generate(name, 100, seed=4)
    assert first.shape == (100, 2) and first.dtype == np.float64 and len(columns) == 2
    assert (first == again).all() and (first != other).any()
    assert labels is None or labels.shape == (100,)
    assert (np.random.get_state()[1] == before).all()


def test_a_column_of_a_file_is_a_number_whatever_it_is_called(tmp_path):
    random = np.random.default_rng(0)
    names = ["a", "temp=C", "temp=F", "label=3"]
    frame = pd.DataFrame(random.normal(size=(50, 4)), columns=names)
    frame.to_csv(tmp_path / "t.csv", index=False)
    table = load_table(TableOptions(str(tmp_path / "t.csv"), context=names[1:]))
    assert table.context.variables == tuple(map(Number, names[1:]))
    assert table.context.columns == names[1:] and table.context.category is None
    one = load_table(TableOptions(str(tmp_path / "t.csv"), columns=["a"], context=["temp=C"]))
    assert one.context.category is None and one.train.context.shape == (40, 1)


def test_the_label_is_context_only_when_asked_for():
    plain = load_table(TableOptions("moons", rows=1000))
    assert plain.columns == ["x", "y"] and plain.train.context is None and plain.notes == []
    labelled = load_table(TableOptions("moons", rows=1000, context=["label"]))
    assert labelled.context == ContextSpec((Number("label"),))
    assert labelled.train.context.unique().tolist() == [0.0, 1.0]
    assert (labelled.train.x == plain.train.x).all()
    upper = labelled.train.context[:, 0] == 0
    assert labelled.train.x[upper, 1].mean() > labelled.train.x[~upper, 1].mean()


def test_default_rows_of_a_generator():
    assert len(load_table(TableOptions()).train) == 160_000


# Bundled tables


@pytest.mark.parametrize(
    ("name", "rows", "features"),
    [("iris", 150, 4), ("wine", 178, 13), ("breast_cancer", 569, 30), ("diabetes", 442, 10)],
)
def test_bundled_tables(name, rows, features):
    table = load_table(TableOptions(name, context=["target"]))
    assert table.features == features and "target" not in table.columns
    assert len(table.train) + len(table.val) + len(table.test) == rows


def test_the_target_can_be_modelled():
    table = load_table(TableOptions("iris", columns=["petal width (cm)", "target"]))
    assert set(table.train.x[:, 1].tolist()) == {0.0, 1.0, 2.0}


# Files


def save(path: Path, values: pd.DataFrame) -> Path:
    if path.suffix == ".csv":
        values.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        values.to_parquet(path)
    elif path.suffix == ".npy":
        np.save(path, values.to_numpy())
    else:
        np.savez(path, **{name: values[name].to_numpy() for name in values})
    return path


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npy", ".npz"])
def test_a_file_is_split_without_loss(tmp_path, ending):
    values = frame()
    table = load_table(TableOptions(str(save(tmp_path / f"t{ending}", values))))
    assert table.columns == (["x0", "x1", "x2"] if ending == ".npy" else ["a", "b", "c"])
    assert [len(table.split(name)) for name in ("train", "val", "test")] == [40, 5, 5]
    x = torch.cat([table.split(name).x for name in ("train", "val", "test")])
    assert x.dtype == torch.float32 and table.train.x.is_contiguous()
    expected = values.to_numpy().astype(np.float32)
    np.testing.assert_array_equal(x[x[:, 0].argsort()], expected[expected[:, 0].argsort()])


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npy", ".npz"])
def test_streaming_keeps_the_order_of_rows(tmp_path, ending):
    values = frame()
    path = save(tmp_path / f"t{ending}", values)
    names = ["x2", "x0"] if ending == ".npy" else ["c", "a"]
    x, sizes = rows_of(stream(str(path), names, batch_rows=20))
    assert sizes == [20, 20, 10]
    np.testing.assert_array_equal(x, values[["c", "a"]].to_numpy().astype(np.float32))


@pytest.mark.parametrize("source", ["moons", "iris"])
def test_streaming_what_is_in_memory(source):
    options = TableOptions(source, rows=60, seed=1)
    columns = load_table(options).columns
    context = ["target"] if source == "iris" else ["label"]
    batches = list(stream(options, columns, context, batch_rows=50))
    assert [tuple(c.shape) for _, c in batches] == [(50, 1), (10, 1)]
    if source == "moons":
        expected = generate("moons", 60, seed=1)[0].astype(np.float32)
        np.testing.assert_array_equal(torch.cat([x for x, _ in batches]), expected)


def test_streaming_a_constant_and_unneeded_text(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("note,b,a\nhello,1,2\nyou,1,3\n")
    ((x, context),) = stream(str(path), ["a"], ["b"])
    assert x.tolist() == [[2.0], [3.0]] and context.tolist() == [[1.0], [1.0]]


def test_unnamed_columns_are_matched_by_position(tmp_path):
    path = save(tmp_path / "t.npy", frame())
    ((x, context),) = stream(str(path), ["left", "right"], ["top"])
    values = frame().to_numpy().astype(np.float32)
    np.testing.assert_array_equal(x, values[:, :2])
    np.testing.assert_array_equal(context, values[:, 2:])
    assert "3 columns" in refusal(lambda: stream(str(path), ["left", "right"]))


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters(tmp_path, delimiter):
    path = tmp_path / "t.csv"
    values = frame().rename(columns={"c": "c, in EUR"})
    values.to_csv(path, index=False, sep=delimiter)
    assert load_table(TableOptions(str(path))).columns == ["a", "b", "c, in EUR"]
    x, _ = rows_of(stream(str(path), ["b"]))
    np.testing.assert_array_equal(x[:, 0], values["b"].to_numpy().astype(np.float32))
    path.write_text(f"a,b (1{delimiter}2)\n1,2\n3,4\n")
    assert [x.tolist() for x, _ in stream(str(path), ["a"])] == [[[1.0], [3.0]]]


def test_csv_with_byte_order_mark_blank_lines_and_quotes(tmp_path):
    path = tmp_path / "t.CSV"
    path.write_text('\ufeffa, "b"\n\n1,2\n\n3,5\n', encoding="utf-8")
    ((x, _),) = stream(str(path), ["a"])
    assert x.tolist() == [[1.0], [3.0]]


def test_the_first_rows_of_a_file(tmp_path):
    path = save(tmp_path / "t.csv", frame(20))
    path.write_text(path.read_text() + "what,is,this\n")
    table = load_table(TableOptions(str(path), rows=20))
    assert len(table.train) + len(table.val) + len(table.test) == 20


def test_npz_with_one_named_array_among_others(tmp_path):
    np.savez(tmp_path / "t.npz", data=normal(), mean=np.zeros(4))
    assert load_table(TableOptions(str(tmp_path / "t.npz"))).columns == ["x0", "x1", "x2"]


def test_parquet_index_nulls_and_decimals(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = frame().set_index(np.arange(50) * 2)
    values.rename(columns={"a": "a.x"}).to_parquet(tmp_path / "t.parquet", index=True)
    assert load_table(TableOptions(str(tmp_path / "t.parquet"))).columns == ["a.x", "b", "c"]
    decimals = pa.array(range(50)).cast(pa.decimal128(38, 2))
    pq.write_table(pa.table({"price": decimals}), tmp_path / "d.parquet")
    x, _ = rows_of(stream(str(tmp_path / "d.parquet"), ["price"]))
    assert x[:, 0].tolist() == list(range(50))


def test_hub(monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the extra 'hub' is not installed")
    data = datasets.Dataset.from_pandas(frame())
    calls = []

    def load(*arguments):
        calls.append(arguments)
        return datasets.DatasetDict({"train": data})

    monkeypatch.setattr(datasets, "load_dataset", load)
    table = load_table(TableOptions("hf://someone/something/small"))
    assert calls == [("someone/something", "small")]
    assert table.columns == ["a", "b", "c"] and table.name == "small"
    x, _ = rows_of(stream("hf://someone/something", ["b"], batch_rows=7))
    np.testing.assert_array_equal(x[:, 0], frame()["b"].to_numpy().astype(np.float32))
    assert "hf://one" in refusal(lambda: load_table(TableOptions("hf://one")))


def test_hub_without_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refusal(lambda: load_table(TableOptions("hf://a/b"))) == (
        'reading hf:// needs the datasets package: pip install "diffeo[hub]"'
    )


# Splits


@given(
    rows=st.integers(4, 300),
    seed=st.integers(0, 2**32),
    weights=st.tuples(*[st.integers(1, 8)] * 3),
)
def test_splits_are_disjoint_exhaustive_and_seeded(tmp_path_factory, rows, seed, weights):
    path = tmp_path_factory.mktemp("splits") / "t.npy"
    np.save(path, np.arange(rows, dtype=np.float64)[:, None])
    shares = tuple(weight / sum(weights) for weight in weights)
    options = TableOptions(str(path), splits=shares, seed=seed)
    if rows - sum(max(1, round(rows * share)) for share in shares[1:]) < 2:
        assert "too few" in refusal(lambda: load_table(options))
        return
    table, again = load_table(options), load_table(options)
    parts = [table.train.x, table.val.x, table.test.x]
    assert all(len(part) for part in parts) and len(parts[0]) >= 2
    assert sorted(torch.cat(parts)[:, 0].tolist()) == list(range(rows))
    for part, share in zip(parts, shares, strict=True):
        assert abs(len(part) - rows * share) <= 2
    assert all((table.split(n).x == again.split(n).x).all() for n in ("train", "val", "test"))


def test_another_seed_splits_otherwise(tmp_path):
    path = str(save(tmp_path / "t.npy", frame()))
    first, second = (load_table(TableOptions(path, seed=seed)) for seed in (0, 1))
    assert (first.train.x != second.train.x).any()
    assert "train, val, test" in refusal(lambda: first.split("valid"))


# Quantization


@pytest.mark.parametrize("step", [1.0, 0.1, 2.5, 1 / 3, 1e-6])
def test_the_step_of_repeated_values(step):
    column = 7.3 + step * np.random.default_rng(0).integers(0, 30, 500)
    assert step_size(column) == pytest.approx(step, rel=1e-5)
    if step > 0.01:
        assert step_size(column.astype(np.float32).astype(float)) == pytest.approx(step, rel=1e-4)


def test_steps_that_are_no_gap_and_columns_that_have_none():
    assert step_size(np.repeat([0.0, 2.0, 5.0], 4)) == pytest.approx(1.0)
    assert step_size(np.repeat([0.0, 1.0, np.pi], 4)) == 1.0
    assert step_size(normal(100)[:, 0]) == 0.0


def test_quantized_columns_are_noted_or_spread(tmp_path):
    values = frame().assign(b=np.random.default_rng(0).integers(0, 9, 50) / 4)
    path = str(save(tmp_path / "t.csv", values))
    plain = load_table(TableOptions(path))
    (note,) = plain.notes
    assert plain.steps == [0.0, 0.0, 0.0]
    assert "'b' (step 0.25)" in note and "--data.dequantize true" in note and "'a'" not in note
    spread = load_table(TableOptions(path, dequantize=True))
    assert spread.steps == [0.0, pytest.approx(0.25), 0.0] and spread.notes == []


# Refusals. Each makes a file, and gives the options and the words that the sentence must hold.


def with_values(**columns: object) -> Callable[[Path], None]:
    return lambda path: save(path, frame().assign(**columns)) and None


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


def but(row: int, value: object) -> list[object]:
    values: list[object] = frame()["b"].tolist()
    values[row] = value
    return values


def duplicated_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.array(normal()[:, 0])
    pq.write_table(pa.table([column, column], names=["a", "a"]), path)


dates = pd.date_range("2020-01-01", periods=50)
plain = with_values()
REFUSALS = {
    "text": ("t.csv", with_values(b=["red"] * 50), {}, ["'b'", "'red'", "row 1 ", "columns a,c"]),
    "text in one row": ("t.csv", with_values(b=but(16, "?")), {}, ["'b'", "'?'", "row 17 "]),
    "text in parquet": ("t.parquet", with_values(b=["red"] * 50), {}, ["'b'", "'red'", "a,c"]),
    "chosen text": (
        "t.csv",
        with_values(b=["red"] * 50),
        {"columns": ["a", "b"]},
        ["'b'", "--data.columns a,"],
    ),
    "text as context": ("t.csv", with_values(b=["red"] * 50), {"context": ["b"]}, ["'b'", "'red'"]),
    "category": ("t.parquet", with_values(b=pd.Categorical(["red"] * 50)), {}, ["'b'", "'red'"]),
    "bool": ("t.parquet", with_values(b=[True, False] * 25), {}, ["'b'", "'True'", "encode"]),
    "bool in csv": ("t.csv", with_values(b=[True, False] * 25), {}, ["'b'", "'True'"]),
    "date": ("t.parquet", with_values(b=dates), {}, ["'b'", "'2020-01-01"]),
    "nan": ("t.csv", with_values(b=but(3, np.nan)), {}, ["'b'", "1 row ", "row 4 ", "fill"]),
    "nans": ("t.npz", with_values(b=[np.nan] * 50), {}, ["'b'", "50 rows", "row 1 "]),
    "infinity": ("t.parquet", with_values(b=but(3, -np.inf)), {}, ["'b'", "row 4 ", "-inf"]),
    "huge": ("t.parquet", with_values(b=but(3, 1e300)), {}, ["'b'", "row 4 ", "float32"]),
    "null": ("t.parquet", with_values(b=[None] * 50), {}, ["'b'", "50 rows"]),
    "constant": ("t.csv", with_values(b=2.5), {}, ["'b'", "2.5", "--data.columns"]),
    "constant context": (
        "t.csv",
        with_values(b=2.5),
        {"context": ["b"]},
        ["'b'", "--data.context"],
    ),
    "constant in training": (
        "t.csv",
        with_values(b=(np.arange(50) == np.random.default_rng(0).permutation(50)[-1]) * 1.0),
        {},
        ["'b'", "training split"],
    ),
    "offset": ("t.npz", with_values(b=1e9 + normal()[:, 0]), {}, ["'b'", "offset"]),
    "unknown column": (
        "t.csv",
        with_values(width=0.0),
        {"columns": ["widht"]},
        ["'widht'", "did you mean 'width'", "a, b, c, width"],
    ),
    "unknown context": ("t.csv", plain, {"context": ["z"]}, ["'z'", "a, b, c"]),
    "no columns": ("t.csv", plain, {"columns": []}, ["--data.columns"]),
    "chosen twice": ("t.csv", plain, {"columns": ["a", "a"]}, ["'a'"]),
    "both": ("t.csv", plain, {"columns": ["a", "b"], "context": ["b"]}, ["'b'", "--data.context"]),
    "all context": ("t.csv", plain, {"context": ["a", "b", "c"]}, ["--data.context"]),
    "two a": ("t.csv", text("a,b,a\n1,2,3\n"), {}, ["two columns", "'a'"]),
    "two a in parquet": ("t.parquet", duplicated_parquet, {}, ["two columns", "'a'"]),
    "decimal commas": ("t.csv", text("a;b\n1,5;2\n2,5;3\n"), {}, ["'a'", "'1,5'"]),
    "no names": ("t.csv", text("5.1,3.5\n4.9,3.0\n"), {}, ["5.1, 3.5", "names"]),
    "no name": ("t.csv", text(",a\n" + "0,3.5\n1,3.0\n" * 9), {}, ["column 1 ", "--data.columns"]),
    "too few names": ("t.csv", text("a,b\n1,2,3\n4,5,6\n"), {}, ["2 columns", "3 values"]),
    "ragged": ("t.csv", text("a,b\n1,2\n4,5,6\n"), {}, ["line 3"]),
    "not text": ("t.csv", lambda p: p.write_bytes(b"a,b\n\xff\xfe,2\n") and None, {}, ["latin-1"]),
    "empty": ("t.csv", text(""), {}, ["empty"]),
    "blank": ("t.csv", text("\n\n"), {}, ["empty"]),
    "only names": ("t.csv", text("a,b\n"), {}, ["no rows"]),
    "no rows": ("t.npy", lambda p: np.save(p, np.empty((0, 2))), {}, ["no rows"]),
    "one row": ("t.csv", text("a,b\n1,2\n"), {}, ["1 row,"]),
    "three rows": ("t.csv", text("a,b\n1,2\n2,3\n3,5\n"), {}, ["3 rows", "--data.splits"]),
    "vector": ("t.npy", lambda p: np.save(p, np.zeros(3)), {}, ["(3,)", "(rows, columns)"]),
    "objects": ("t.npy", lambda p: np.save(p, np.array([[1, "a"]], object)), {}, ["read"]),
    "ragged npz": (
        "t.npz",
        lambda p: np.savez(p, a=np.zeros(3), b=np.zeros(4)),
        {},
        ["a (3,)", "b (4,)"],
    ),
    "damaged parquet": ("t.parquet", text("PAR1 but no more"), {}, ["damaged"]),
    "damaged npy": ("t.npy", text("no numbers"), {}, ["damaged"]),
    "damaged npz": ("t.npz", text("no zip"), {}, ["damaged"]),
    "unknown ending": ("t.xlsx", text("?"), {}, [".csv, .parquet, .npy, .npz", "hf://"]),
    "splits": ("t.csv", plain, {"splits": (0.8, 0.1, 0.2)}, ["--data.splits", "0.2"]),
    "noise": ("t.csv", plain, {"noise": 0.1}, ["--data.noise"]),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_in_one_sentence(tmp_path, case):
    file, make, options, words = REFUSALS[case]
    path = tmp_path / file
    make(path)
    before = path.read_bytes()
    sentence = refusal(lambda: load_table(TableOptions(str(path), **options)))
    for word in [file, *words]:
        assert word in sentence
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_refused_sources(tmp_path):
    save(tmp_path / "data.csv", frame())
    missing = refusal(lambda: load_table(TableOptions(str(tmp_path / "dta.csv"))))
    assert "no file" in missing and "did you mean 'data.csv'" in missing
    assert "is a folder" in refusal(lambda: load_table(TableOptions(str(tmp_path))))
    unknown = refusal(lambda: load_table(TableOptions("moon")))
    for word in ("'moon'", "did you mean 'moons'", "swiss_roll", "wine", ".parquet", "hf://"):
        assert word in unknown
    assert "--data.noise" in refusal(lambda: load_table(TableOptions("moons", noise=0.0)))
    assert "swiss_roll" in refusal(lambda: generate("noons"))


def test_text_after_the_first_chunk(tmp_path, monkeypatch):
    from diffeo.data.tables import loading

    monkeypatch.setattr(loading, "BATCH_ROWS", 10)
    path = tmp_path / "t.csv"
    with_values(b=but(33, "red"))(path)
    assert "row 34 " in refusal(lambda: load_table(TableOptions(str(path))))
    with_values(b=but(33, np.nan))(path)
    assert "row 34 " in refusal(lambda: load_table(TableOptions(str(path))))


@pytest.mark.parametrize("value", ["red", "", "inf"])
def test_streaming_refuses_by_row(tmp_path, value):
    path = tmp_path / "t.csv"
    with_values(b=but(33, value))(path)
    batches = stream(str(path), ["a", "b"], batch_rows=10)
    for _ in range(3):
        next(batches)
    sentence = refusal(lambda: next(batches))
    assert "t.csv" in sentence and "'b'" in sentence and "row 34 " in sentence
    assert rows_of(stream(str(path), ["a"]))[0].shape == (50, 1)


def test_streaming_refuses_at_once_what_lacks_a_column(tmp_path):
    path = save(tmp_path / "t.csv", frame().rename(columns={"b": "width"}))
    sentence = refusal(lambda: stream(str(path), ["a", "widht"]))
    assert "'widht'" in sentence and "did you mean 'width'" in sentence and "t.csv" in sentence


# Writing


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npy", ".npz"])
def test_what_is_written_is_read_back(tmp_path, ending, dtype):
    values = normal(100).astype(dtype)
    path = tmp_path / "new" / f"out{ending}"
    write_table(path, ["a", "b, c", "d"], (values[i : i + 30] for i in range(0, 100, 30)))
    x, _ = rows_of(stream(str(path), ["a", "b, c", "d"]))
    np.testing.assert_array_equal(x, values.astype(np.float32))
    if ending != ".npy":
        x, _ = rows_of(stream(str(path), ["d", "a"]))
        np.testing.assert_array_equal(x, values[:, [2, 0]].astype(np.float32))
    assert list(path.parent.iterdir()) == [path]
    write_table(path, ["a", "b"], [])
    assert list(stream(str(path), ["a", "b"])) == []


def test_a_row_group_for_each_batch(tmp_path):
    import pyarrow.parquet as pq

    write_table(tmp_path / "t.parquet", ["a"], [np.zeros((5, 1)), np.ones((3, 1))])
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 2


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npy", ".npz"])
def test_an_error_leaves_the_old_file(tmp_path, ending):
    def batches():
        yield np.zeros((2, 1))
        raise RuntimeError("the sampler failed")

    path = tmp_path / f"out{ending}"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="the sampler failed"):
        write_table(path, ["a"], batches())
    assert "(rows, 2)" in refusal(lambda: write_table(path, ["a", "b"], [np.zeros((2, 3))]))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_paths_that_cannot_be_written(tmp_path):
    def untouched():
        raise AssertionError("no batch may be taken")
        yield

    sentence = refusal(lambda: write_table(tmp_path / "out.xlsx", ["a"], untouched()))
    assert "out.xlsx" in sentence and ".csv, .parquet, .npy, .npz" in sentence
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in refusal(lambda: check_writable(tmp_path / "folder.csv"))
    (tmp_path / "file").write_text("")
    assert "folder cannot" in refusal(lambda: check_writable(tmp_path / "file" / "out.csv"))


def test_the_room_is_light_to_enter():
    heavy = {"pandas", "pyarrow", "sklearn", "scipy", "datasets"}
    code = (
        "import sys, torch, numpy; before = set(sys.modules); import diffeo.data; "
        f"print(sorted({heavy} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# CSV as spreadsheets write it ---------------------------------------------------------------------


def written(path, change=lambda frame: frame, **how):
    """A file of 30 rows and three columns, and its values."""
    random = np.random.default_rng(0)
    table = pd.DataFrame(random.normal(5_000, 1_000, (30, 3)).round(2), columns=list("abc"))
    change(table.copy()).to_csv(path, **{"index": False} | how)
    return table


def german(frame):
    return frame.map(lambda value: f"{value:,.2f}".translate(str.maketrans(",.", ".,")))


def english(frame):
    return frame.map(lambda value: f"{value:,.2f}")


@pytest.mark.parametrize(
    ("file", "change", "how", "options", "named"),
    [
        ("t.csv", pd.DataFrame, {"sep": ";", "decimal": ","}, {"decimal": ","}, "--data.decimal ,"),
        ("t.csv", pd.DataFrame, {"decimal": ","}, {"decimal": ","}, "--data.decimal ,"),
        ("t.csv", english, {}, {"thousands": ","}, "--data.thousands ,"),
        (
            "t.csv",
            german,
            {"sep": ";"},
            {"decimal": ",", "thousands": "."},
            "--data.decimal , --data.thousands .",
        ),
        (
            "t.csv",
            lambda frame: english(frame).map(lambda text: text.replace(",", " ")),
            {},
            {"thousands": " "},
            '--data.thousands " "',
        ),
        ("t.csv", lambda f: f.rename(columns={"a": "ä"}), {"encoding": "utf-16"},
         {"encoding": "utf-16"}, "--data.encoding"),
        ("t.csv", lambda f: f.rename(columns={"a": "ä"}), {"encoding": "latin-1"},
         {"encoding": "latin-1"}, "--data.encoding latin-1"),
        ("t.tsv", pd.DataFrame, {"sep": "\t"}, {}, None),
        ("t.csv.gz", pd.DataFrame, {}, {}, None),
        ("t.csv.bz2", pd.DataFrame, {}, {}, None),
        ("t.tsv.xz", pd.DataFrame, {"sep": "\t"}, {}, None),
    ],
)  # fmt: skip
def test_numbers_are_read_in_the_form_that_the_error_names(file, change, how, options, named):
    table = written(file, change, **how)
    if named is not None:
        assert named in refusal(lambda: load_table(TableOptions(file)))
    read = load_table(TableOptions(file, **options))
    assert read.name == "t"
    whole = torch.cat((read.train.x, read.val.x, read.test.x)).sort(0).values
    torch.testing.assert_close(whole, torch.tensor(table.to_numpy()).float().sort(0).values)


def test_a_compressed_file_that_unpacks_into_too_much_is_refused(monkeypatch):
    monkeypatch.setattr("diffeo.data.files.UNPACKED", 2**12)
    pd.DataFrame({"a": np.zeros(100_000)}).to_csv("t.csv.gz", index=False)
    assert "unpacks" in refusal(lambda: load_table(TableOptions("t.csv.gz")))


@pytest.mark.parametrize("name", ["", "id"])
def test_a_column_that_counts_the_rows_is_left_out_with_a_sentence(name):
    table = written("t.csv", lambda frame: frame.rename_axis(name), index=True)
    read = load_table(TableOptions("t.csv"))
    assert read.columns == list(table.columns)
    which = "column 'id'" if name else "the column without a name"
    assert read.notes == [
        f"t.csv: {which} counts the rows and is left out: choose the columns with --data.columns "
        "to model it."
    ]
    if name:
        assert load_table(TableOptions("t.csv", columns=["id", "a"])).columns == ["id", "a"]


def test_types_of_inherited_options_reach_the_command_line():
    from diffeo.cli.parser import parse

    for option in ("--data.decimal=;", "--data.dequantize=maybe", "--data.splits=[1]"):
        with pytest.raises(ValueError, match=option.partition("=")[0]):
            parse("train", [option])

"""What the explorer computes of mixed tables: bins, answers, odd cells, and uploads of them."""

import math
import re

import numpy as np
import pytest
import torch
from explored import make_subject, mixed_run, visits

from diffeo.answers import conditional
from diffeo.explorer import asking, columns, oddities, uploads
from diffeo.explorer.bins import Bins, percent
from diffeo.explorer.pairs import pair
from diffeo.explorer.subject import Subject
from diffeo.run import Run
from diffeo.schema import CategoryColumn, DateColumn, NumberColumn

NAMES = ["ward", "smoker", "calls", "dose", "oxygen", "weight", "day"]


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return make_subject("visits", tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def asked(subject):
    return asking.questions(subject)


def question(asked, name):
    return next(q for q in asked if q.column.name == name)


def values_with(asked, **given):
    """What the controls are set to: which columns are given, and all raw values."""
    raws = [given.get(q.column.name, q.first) for q in asked]
    return [q.column.name in given for q in asked], raws


# Bins


def test_every_value_of_a_category_has_its_share_and_rare_ones_share_a_bar():
    column = CategoryColumn("letter", tuple("abcdefghijklmnop"), missing=True)
    values = np.repeat(np.arange(16.0), np.arange(16, 0, -1))
    bins = Bins.of(column, np.append(values, np.nan))
    assert bins.names == [*"abcdefghijk", "5 others"]
    assert bins.shares(values).sum() == pytest.approx(1)
    assert bins.shares(values)[0] == pytest.approx(16 / len(values))
    assert bins.shares(np.array([14.0, np.nan])).tolist() == [0] * 11 + [1]


def test_intervals_hold_whole_steps_and_a_mass_is_no_part_of_them():
    counts = Bins.of(NumberColumn("n", step=1, low=0), np.array([0.0, 1, 1, 4]))
    assert counts.names == ["0", "1", "2", "3", "4"]
    assert counts.shares(np.array([1.0, 1, 4, 9])).tolist() == [0, 0.5, 0, 0, 0.25]
    grid = Bins.of(NumberColumn("x", step=0.5), np.arange(0, 100, 0.5))
    assert not grid.names
    steps = np.diff(grid.ends) / 0.5
    assert steps == pytest.approx(np.round(steps))
    assert grid.shares(np.arange(0, 100, 0.5)).sum() > 0.97
    rain = NumberColumn("rain", low=0, atoms=(0.0,))
    values = np.append(np.zeros(60), np.linspace(0.1, 4, 40))
    bins = Bins.of(rain, values)
    assert 0.38 <= bins.shares(values).sum() <= 0.4


def test_shares_of_a_model_are_those_of_many_of_its_samples(subject):
    found = conditional(subject.flow, {"ward": "west"}, draws=4_096, smooth=False)
    x = subject.run.sample(6_000, seed=3).numpy()
    west = x[x[:, 0] == 2]
    for i, column in enumerate(subject.flow.schema.modelled[1:], start=1):
        bins = Bins.of(column, west[:, i])
        by_spread = bins.shares_of(found.spread(column.name)[0])
        assert np.abs(by_spread - bins.shares(west[:, i])).sum() < 0.35, column.name


@pytest.mark.parametrize(
    ("share", "words"), [(0, "0 %"), (1, "100 %"), (0.034, "3.4 %"), (1e-5, "< 0.1 %")]
)
def test_percent_in_few_letters(share, words):
    assert percent(share) == words


# Columns


def test_the_schema_is_a_table_and_each_column_has_a_chart_with_its_gaps_in_words(subject):
    head = columns.schema(subject)
    for words in (*NAMES, "category", "integer", "date", "0 (", "from 0 on"):
        assert words in head, words
    samples = columns.draw(subject, 0)
    assert np.array_equal(samples, columns.draw(subject, 0), equal_nan=True)
    assert not np.array_equal(samples, columns.draw(subject, 1), equal_nan=True)
    page = columns.marginals(subject, samples)
    assert page.count("<svg") == 7
    data = columns.data_of(subject)
    share = percent(float(np.isnan(data[:, 4]).mean()))
    assert f"Empty: {share} of the data, " in page
    assert re.search(r"Exactly 0, not drawn: \d+ % of the data, \d+ % of the samples", page)


@pytest.mark.parametrize(
    ("names", "charts", "words"),
    [
        (("weight", "oxygen"), 2, "<circle"),
        (("ward", "oxygen"), 1, 'class="box'),
        (("day", "ward"), 1, "2024-0"),
        (("ward", "smoker"), 2, 'class="cell"'),
        (("ward", "ward"), 0, "different columns"),
    ],
)
def test_any_two_columns_are_drawn_data_and_samples(subject, names, charts, words):
    drawn = columns.two(subject, columns.draw(subject, 0), names)
    assert drawn.count("<svg") == charts
    assert words in drawn
    assert charts == 0 or ("samples" in drawn and "nan" not in drawn)


def test_without_its_data_the_page_shows_samples_alone(subject, tmp_path):
    subject.flow.save_pretrained(tmp_path / "bare")
    bare = Subject(Run(tmp_path / "bare"))
    assert bare.missing and bare.kind == "mixed"
    samples = columns.draw(bare, 0)
    page = columns.schema(bare) + columns.marginals(bare, samples)
    page += columns.two(bare, samples, columns.start_pair(bare))
    assert "of the data" not in page and page.count("<svg") == 8
    assert len(asking.questions(bare)) == 7
    rows = oddities.some_rows(bare)
    assert "<tr" in oddities.table(bare, rows, oddities.find(bare, rows))


def test_empty_and_single_values_are_drawn():
    number, group = NumberColumn("x"), CategoryColumn("g", ("a", "b"))
    none, one = np.zeros((0, 2)), np.ones((1, 2))
    for rows in (none, one):
        for chosen in ((number, number), (group, number), (number, group), (group, group)):
            assert "<svg" in pair(chosen, [("data", rows), ("samples", one)])


# Ask


def test_each_column_has_a_control_of_its_kind(asked):
    assert [q.column.name for q in asked] == NAMES
    assert question(asked, "ward").choices == [("east", 0), ("north", 1), ("west", 2)]
    smoker = question(asked, "smoker")
    assert smoker.choices[-1] == ("(empty)", -1)
    assert smoker.given(-1) is None and smoker.text(-1) == "(empty)"
    oxygen = question(asked, "oxygen")
    assert oxygen.step == pytest.approx(0.1)
    assert oxygen.given(94.34) == pytest.approx(94.3)
    assert question(asked, "dose").low == 0
    day = question(asked, "day")
    assert isinstance(day.column, DateColumn) and day.low == 0 and day.high < 90
    assert day.given(day.low).startswith("2024-03-0")
    assert "days after 2024-03-0" in day.label
    for q in asked:
        if not isinstance(q.column, CategoryColumn):
            assert q.low <= q.first <= q.high, q.column.name


def test_answers_are_those_of_the_library(subject, asked):
    given, raws = values_with(asked, ward=2)
    found = asking.ask(subject, asked, given, raws)
    exact = conditional(
        subject.flow, {"ward": "west"}, ["oxygen"], draws=2_048, seed=9, smooth=False
    )
    mean, truth = (f.mean("oxygen") for f in (found, exact))
    error = math.hypot(mean.standard_error, truth.standard_error)
    assert abs(mean.value - truth.value) < 4 * error
    assert abs(truth.value - 91) < 0.7
    words = asking.answer(question(asked, "oxygen"), found)
    assert f"mean {mean.value:.2f} ± " in words and "standard error" in words and "empty" in words
    card = asking.card(question(asked, "oxygen"), found)
    assert 'class="bar"' in card and 'class="others"' in card and words in card
    held = asking.held(question(asked, "ward"), 2)
    assert "→ west" in held and "<strong>west</strong>" in held


def test_one_column_given_all_others_is_exact(subject, asked):
    given, raws = values_with(asked, **{q.column.name: q.first for q in asked[1:]})
    found = asking.ask(subject, asked, given, raws)
    assert "(exact)" in asking.answer(asked[0], found)
    given[0] = True
    with pytest.raises(ValueError, match="all columns are given"):
        asking.ask(subject, asked, given, raws)


def test_rows_are_drawn_with_what_is_given(subject, asked):
    given, raws = values_with(asked, ward=2, smoker=-1, day=10)
    table = asking.rows(subject, asked, given, raws)
    assert table.count("<tr>") == 1 + asking.ROWS
    assert table.count("<td>west</td><td>(empty)</td>") == asking.ROWS
    day = question(asked, "day").text(10)
    assert f"10 rows given ward west, smoker (empty), day {day}" in table


def test_conditions_are_always_given(tmp_path):
    subject = Subject(mixed_run(tmp_path / "given", context=["ward", "calls"]))
    asked = asking.questions(subject)
    assert [q.column.name for q in asked[:2]] == ["ward", "calls"]
    assert [q.usual is None for q in asked] == [True] * 2 + [False] * 5
    given, raws = values_with(asked, ward=2, calls=1)
    words = asking.answer(question(asked, "oxygen"), asking.ask(subject, asked, given, raws))
    assert re.search(r"mean 9[01]\.", words)
    assert "<svg" in asking.held(asked[0], 2)
    page = columns.marginals(subject, columns.draw(subject, 0))
    assert page.count("<svg") == 5
    rows = oddities.some_rows(subject)
    assert "calls" not in oddities.table(subject, rows, oddities.find(subject, rows))


# Inspect


def upload(frame, name="mine.csv"):
    return uploads.Upload(name, frame.to_csv(index=False).encode())


def read(subject, frame):
    cells, x, context = uploads.read_mixed_rows(subject, upload(frame))
    return oddities.Rows(cells, x, context, [f"row {i + 1}" for i in range(len(x))])


def test_the_odd_cell_is_marked_with_what_was_expected(subject):
    frame = visits(40, seed=5)
    frame.loc[7, "oxygen"] = 80.0
    rows = read(subject, frame)
    found = oddities.find(subject, rows)
    assert int(found.nats.argmin()) == 7
    torch.testing.assert_close(found.nats, subject.flow.log_prob(rows.x))
    cells = oddities.explained(subject, rows, [7, 0])
    marked = {NAMES[k]: cell for k, cell in enumerate(cells[0]) if cell.note}
    assert max(marked, key=lambda name: marked[name].surprise) == "oxygen"
    assert marked["oxygen"].text == "80"
    centre = 91 if frame.ward[7] == "west" else 95
    ends = re.fullmatch(r"expected ([\d.]+) \(([\d.]+) to ([\d.]+)\)", marked["oxygen"].note)
    mean, low, high = map(float, ends.groups())
    assert low < centre < high and abs(mean - centre) < 1
    table = oddities.table(subject, rows, found)
    assert "The 16 least likely of 40 rows" in table
    assert table.index("row 8<") == table.index("row ")
    assert 'class="below"' in table and "--odd: 50%" in table
    limit = oddities.threshold(subject)
    assert (subject.reference.nats < limit).mean() == pytest.approx(0.05, abs=0.02)
    below = int((found.nats < limit).sum())
    assert f"{below} of these 40 rows are below it" in oddities.meaning(subject, found)


def test_cells_that_cannot_be_are_called_so_and_do_not_make_others_odd(subject):
    frame = visits(30, seed=6)
    frame.loc[3, "ward"] = "<south>"
    frame["calls"] = frame["calls"].astype(float)
    frame.loc[4, "calls"] = -3
    frame.loc[5, "day"] = None
    rows = read(subject, frame)
    found = oddities.find(subject, rows)
    assert found.nats[[3, 4, 5]].isneginf().all() and found.nats.isneginf().sum() == 3
    notes = [[c.note for c in row] for row in oddities.explained(subject, rows, [3, 4, 5])]
    assert notes[0][0] == "cannot be: an unknown value"
    assert notes[1][2] == "cannot be: values are from 0 on"
    assert notes[2][6] == "cannot be: there were no empty cells"
    table = oddities.table(subject, rows, found)
    assert "&lt;south&gt;" in table and "<south>" not in table
    assert "nan" not in table.lower()


def test_a_file_that_does_not_fit_is_a_sentence_with_the_remedy(subject):
    for frame, words in (
        (visits(5).drop(columns=["day"]), "mine.csv lacks the column 'day': choose a file with"),
        (visits(5)[["ward"]], "mine.csv lacks the column 'smoker' and 5 more: choose"),
        (visits(5).assign(oxygen="much"), "mine.csv: column 'oxygen' holds 'much' in row 1"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            uploads.read_mixed_rows(subject, upload(frame))
        assert "\n" not in str(caught.value) and "/tmp" not in str(caught.value)
    with pytest.raises(ValueError, match="is not a CSV file"):
        uploads.read_mixed_rows(subject, uploads.Upload("a.csv", b"\x89PNG\0"))

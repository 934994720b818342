"""Columns that others nearly determine: they are found, sharp, and their densities exact."""

import math

import numpy as np
import pytest
import torch

import diffeo
from diffeo.answers.spread import given_all_others
from diffeo.mixed.growing import Growing
from diffeo.mixed.tools import Tools
from diffeo.schema import CategoryColumn, DateColumn, NumberColumn, Schema
from diffeo.training.mixed import Settings, fit_mixed

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEMA = Schema(
    (
        NumberColumn("width", step=0.01, low=0.0, high=2.0),
        NumberColumn("height", step=0.01, low=0.0, high=2.0),
        NumberColumn("area", step=0.01, low=0.0, high=4.0, missing=True),
        CategoryColumn("colour", ("red", "blue"), missing=True),
        NumberColumn("noise"),
    )
)


def rooms(n: int, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    sides = random.integers(0, 201, (n, 2)) / 100
    colour = random.integers(0, 2, n).astype(float)
    colour[random.random(n) < 0.1] = math.nan
    area = np.round(sides[:, 0] * sides[:, 1] + 1e-9, 2)
    area[random.random(n) < 0.1] = math.nan
    return torch.tensor(np.column_stack([sides, area, colour, random.normal(size=n)]))


@pytest.fixture(scope="module")
def flow():
    return fit_mixed(SCHEMA, rooms(6_000), settings=Settings(steps=400, hidden=32)).flow


def test_the_column_that_others_determine_is_found_and_no_other(flow):
    layout = flow.stack.layout
    places = [layout.numbers[c] for c in flow.stack.regressors.targets]
    assert [SCHEMA.modelled[i].name for i in places] == ["area"]


@torch.no_grad()
def test_the_expected_values_are_near(flow):
    stack, x = flow.stack, rooms(500, seed=1)
    x = x[~x[:, 2].isnan()]
    expected = stack.regressors(stack.marginals, x)
    scores = stack.read(x)[0].scores.point[:, [2]]
    assert float((expected - scores).abs().median()) < 0.05
    # Nothing of the column itself or after it is seen.
    other = x.clone()
    other[:, 2], other[:, 4] = 1.0, 3.0
    assert torch.equal(stack.regressors(stack.marginals, other), expected)


@torch.no_grad()
def test_probabilities_of_the_column_sum_to_one_and_are_sharp(flow):
    rows = rooms(20, seed=2)
    rows = rows[~rows[:, 3].isnan()][:4]
    cells = torch.cat((torch.arange(401).double() / 100, torch.tensor([math.nan]).double()))
    joint = rows.repeat_interleave(len(cells), 0)
    joint[:, 2] = cells.repeat(len(rows))
    spread = given_all_others(Tools(flow.stack), rows, 2)
    p = flow.stack.log_joint(joint).view(len(rows), -1).softmax(1)
    inside = p[:, :-1] / p[:, :-1].sum(1, keepdim=True)
    assert float(inside.amax(1).mean()) > 0.5
    # Away from the peak a node stands for its neighbours.
    np.testing.assert_allclose(spread.mean, (inside * cells[:-1]).sum(1), atol=2e-3)
    np.testing.assert_allclose(spread.empty, p[:, -1], atol=5e-4)
    # Given only the columns before, in the order of prediction, they sum to one too.
    grown = Growing(Tools(flow.stack), len(cells))
    while SCHEMA.modelled[grown.column].name != "area":
        grown.put(joint[: len(cells), grown.column])
    width = torch.where(cells.isnan(), 1.0, 0.01)
    assert float((grown.put(cells).exp() * width).sum()) == pytest.approx(1, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("column", ["width", "height"])
def test_a_column_that_determines_another_is_answered_by_it(flow, column):
    place = [c.name for c in SCHEMA.modelled].index(column)
    rows = rooms(40, seed=4)
    rows = rows[~rows[:, 2].isnan() & (rows[:, :2] > 0.3).all(1)][:5]
    cells = torch.arange(201).double() / 100
    joint = rows.repeat_interleave(len(cells), 0)
    joint[:, place] = cells.repeat(len(rows))
    p = flow.stack.log_joint(joint).view(len(rows), -1).softmax(1)
    mean = given_all_others(Tools(flow.stack), rows, place).mean
    np.testing.assert_allclose(mean, (p * cells).sum(1), atol=2e-3)
    other = rows[:, 1 - place]
    assert float((torch.tensor(mean) - rows[:, 2] / other).abs().median()) < 0.03


@torch.no_grad()
def test_rows_grow_come_back_and_are_stored(flow, tmp_path):
    x = rooms(100, seed=3)
    rows = Growing(Tools(flow.stack), len(x))
    total = torch.zeros(len(x))
    while rows.at < x.shape[1]:
        total = total + rows.put(x[:, rows.column])
    assert torch.allclose(total, flow.log_prob(x), atol=1e-8)
    back = flow.decode(flow.encode(x))
    assert torch.equal(back.isnan(), x.isnan())
    assert (back - x).nan_to_num().abs().max() < 1e-9
    flow.save_pretrained(tmp_path)
    assert torch.equal(diffeo.load(tmp_path).log_prob(x), flow.log_prob(x))


@torch.no_grad()
def test_samples_follow_the_rule(flow):
    x = flow.sample(2_000, generator=torch.Generator().manual_seed(0))
    known = ~x[:, 2].isnan()
    assert float((~known).double().mean()) == pytest.approx(0.1, abs=0.03)
    error = (x[:, 0] * x[:, 1] - x[:, 2])[known].abs()
    assert float(error.median()) < 0.03
    assert float(x[known, 2].amin()) >= 0
    assert float(x[known, 2].amax()) <= 4


def test_a_date_and_what_follows_from_it_are_answered_with_their_cycles():
    """A cell of a date changes the waves that networks see; the sum over its days has to say so."""
    random = np.random.default_rng(0)
    day = DateColumn("day", step=1.0, low=0.0, high=60.0)
    schema = Schema((day, NumberColumn("y")))
    days = random.integers(0, 61, 800).astype(float)
    x = torch.tensor(np.stack([days, np.sin(days * 2 * np.pi / 7) + random.normal(size=800)], 1))
    flow = fit_mixed(schema, x, settings=Settings(networks=2, steps=200, hidden=16)).flow
    row = x[:1]
    joint = row.repeat(61, 1)
    joint[:, 0] = torch.arange(61)
    p = flow.stack.log_joint(joint).softmax(0).detach()
    spread = given_all_others(Tools(flow.stack), row, 0)
    found = torch.zeros(61).double()
    found.index_add_(0, spread.x[0].round().long(), spread.mass[0])
    assert torch.allclose(found, p, atol=1e-6)


def test_a_table_without_rules_has_none():
    x = torch.randn(6_000, 3, generator=torch.Generator().manual_seed(0)).double()
    x[:, 2] += 2 * x[:, 0]  # which the first column explains to four fifths
    schema = Schema(tuple(NumberColumn(name) for name in "abc"))
    fitted = fit_mixed(schema, x, settings=Settings(steps=20, hidden=8, networks=2))
    assert fitted.flow.rules == {}
    assert fitted.flow.stack.regressors is None

"""Networks of mixed tables: what they see, and how far what they predict may lie from the data."""

import numpy as np
import pytest
import torch
from mixed_tables import SCHEMA, mixed_table

from diffeo.mixed.marginal_fit import fit_marginals
from diffeo.mixed.networks import MOST, NetworkMembers
from diffeo.mixed.regressors import Regressors
from diffeo.mixed.rows import Layout
from diffeo.schema import CategoryColumn, NumberColumn, Schema
from diffeo.training.mixed import Settings, fit_mixed
from diffeo.training.regressors import Learner

pytestmark = pytest.mark.usefixtures("one_thread")


@torch.no_grad()
def test_no_prediction_has_heavier_tails_than_what_is_rarest_in_the_data():
    """P(score > t) <= e^MOST P(score > t, by itself): none of what was seen is rarer than that."""
    networks = NetworkMembers(SCHEMA.modelled, hidden=16, components=4, bins=8).double()
    torch.manual_seed(0)
    for weight in networks.parameters():
        weight.copy_(5 * torch.randn_like(weight))
    layout = networks.layout
    table = mixed_table(50)
    marginals = fit_marginals(layout.kinds, table[:, layout.numbers])
    rows = layout.rows(marginals, table)
    h = networks.hidden(rows)
    for c in range(len(layout.numbers)):
        log_w, mean, log_s, *_ = networks.column(h, True, c, rows.expected)
        for t in (15.0, 20.0, 30.0):
            for sign in (1, -1):
                above = (log_w.exp() * ((sign * mean - t) / log_s.exp()).sigmoid()).sum(1)
                assert (above <= np.exp(MOST - t)).all()


def test_networks_see_what_changes_from_one_value_of_a_number_to_the_next():
    """A number depends on 2 x 30 cells of a category and a number, in no order."""
    random = np.random.default_rng(0)
    half, day = random.integers(0, 2, 3_000), random.integers(0, 30, 3_000)
    y = 3 * random.normal(size=(2, 30))[half, day] + 0.3 * random.normal(size=3_000)
    table = torch.tensor(np.stack([half, day, y], 1))
    halves = CategoryColumn("half", ("a", "b"))
    schema = Schema((halves, NumberColumn("day", step=1, low=0, high=29), NumberColumn("y")))
    found = {}
    for bins in (0, 24):
        settings = Settings(networks=2, hidden=64, bins=bins, steps=400)
        flow = fit_mixed(schema, table[:2_500], settings=settings).flow
        with torch.no_grad():
            found[bins] = float(flow.log_prob(table[2_500:]).mean())
    truth = -0.5 * np.log(2 * np.pi * np.e * 0.3**2) - np.log(2 * 30)
    assert found[0] + 0.4 < found[24] < truth + 0.1


@torch.no_grad()
def test_what_is_expected_of_a_column_lies_in_the_range_that_was_learned():
    random = np.random.default_rng(0)
    x = random.exponential(100.0, (2_000, 2)).round(2)
    table = torch.tensor(np.column_stack((x, x.sum(1))))
    layout = Layout([NumberColumn(name, low=0) for name in ("price", "tax", "total")])
    marginals = fit_marginals(layout.kinds, table)
    learner = Learner(layout, marginals, table, torch.arange(2_000) < 1_800)
    with torch.enable_grad():
        found = learner.find()
    assert isinstance(found, Regressors) and found.targets == (2,)
    far = torch.tensor([[1e9, 1e9, 0.0], [1e-9, 1e12, 0.0], [50.0, 50.0, 0.0]]).double()
    scores = found(marginals, far)[:, 0]
    reach = marginals(table[:1_800])[1].point[:, 2].aminmax()
    assert ((scores >= reach.min - 0.1) & (scores <= reach.max + 0.1)).all()
    assert scores[2] == pytest.approx(float(marginals(far.fill_(100.0))[1].point[2, 2]), abs=0.05)


def test_columns_that_follow_are_not_seen():
    """Each output depends on the columns before it alone, bins included."""
    columns = (CategoryColumn("a", ("u", "v")), NumberColumn("x"), NumberColumn("y"))
    networks = NetworkMembers(columns, hidden=16, components=3, bins=5).double()
    torch.manual_seed(0)
    for weight in networks.parameters():
        weight.data.normal_()
    table = torch.stack((torch.arange(20) % 2, torch.randn(20), torch.randn(20)), 1).double()
    marginals = fit_marginals(networks.layout.kinds, table[:, 1:])

    def predicted(table):
        rows = networks.layout.rows(marginals, table)
        h = networks.hidden(rows)
        names = ((False, 0), (True, 0), (True, 1))
        return [networks.column(h, *name, rows.expected)[0] for name in names]

    before = predicted(table)
    for place in range(3):
        changed = table.clone()
        changed[:, place] = changed[:, place].flip(0) if place else 1 - changed[:, 0]
        after = predicted(changed)
        for at in range(3):
            assert torch.equal(before[at], after[at]) == (at <= place)

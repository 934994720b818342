"""The model of mixed tables: exact probabilities, and the truth on made-up tables."""

import itertools
import math

import numpy as np
import pytest
import torch
from mixed_tables import SCHEMA, changed_flow, mixed_table
from scipy import stats

import diffeo
from diffeo.mixed import gaussian_fit
from diffeo.mixed.gaussians import GaussianMembers
from diffeo.mixed.inverse import ColumnInverse
from diffeo.mixed.marginal_fit import fit_marginals
from diffeo.mixed.rows import Layout, Rows
from diffeo.mixed.scores import Scores
from diffeo.schema import CategoryColumn, NumberColumn, Schema
from diffeo.training.mixed import Settings, fit_mixed

pytestmark = pytest.mark.usefixtures("one_thread")


def test_probabilities_of_all_rows_are_one():
    random = np.random.default_rng(0)
    count = random.binomial(3, 0.4, 400).astype(float)
    colour = (random.random(400) < 0.3).astype(float)
    change = np.where(random.random(400) < 0.3, 0.0, random.normal(colour - 0.3 * count, 1.0))
    count[random.random(400) < 0.1] = colour[random.random(400) < 0.2] = np.nan
    schema = Schema(
        (
            NumberColumn("count", step=1, low=0, high=3, missing=True),
            CategoryColumn("colour", ("red", "blue"), missing=True),
            NumberColumn("change", atoms=(0.0,)),
        )
    )
    model = changed_flow(schema, torch.tensor(np.stack([count, colour, change], 1)))
    # Gauss-Legendre on both sides of the atom, on the scale of log |x|.
    nodes, weights = (torch.tensor(part) for part in np.polynomial.legendre.leggauss(16))
    ends = torch.linspace(-36, 6, 241).double()
    half = (ends[1:] - ends[:-1])[:, None] / 2
    size = ((ends[1:] + ends[:-1])[:, None] / 2 + half * nodes).flatten().exp()
    w = (half * weights).flatten() * size
    x, w = torch.cat((-size, size, size[:1] * 0)), torch.cat((w, w, torch.ones(1)))
    total = 0.0
    for cells in itertools.product((0, 1, 2, 3, math.nan), (0, 1, math.nan)):
        rows = torch.cat((torch.tensor(cells).expand(len(x), -1), x[:, None]), 1)
        with torch.no_grad():
            total += float((model.log_prob(rows).exp() * w).sum())
    assert total == pytest.approx(1, abs=1e-6)


@torch.no_grad()
def test_rows_come_back_from_their_noise(mixed):
    x = mixed_table(60)
    back = mixed.decode(mixed.encode(x))
    assert torch.equal(back.isnan(), x.isnan())
    discrete = [0, 1]
    assert torch.equal(back.nan_to_num()[:, discrete], x.nan_to_num()[:, discrete])
    zero = x[:, 2] == 0
    assert torch.equal(back[zero, 2], x[zero, 2])
    assert (back.nan_to_num() - x.nan_to_num()).abs().max() < 1e-9


@torch.no_grad()
def test_samples_have_the_probabilities_of_the_model(mixed):
    x = mixed.sample(500, generator=torch.Generator().manual_seed(0))
    assert set(x[:, 0][~x[:, 0].isnan()].tolist()) <= {0, 1, 2, 3, 4}
    assert (x[:, 2] >= 0).all()
    # The share of an event, and its probability by importance of samples of another model.
    other = mixed_table(400, seed=1)
    near = fit_mixed(SCHEMA, other, settings=Settings(networks=0)).flow
    y = near.sample(1_000, generator=torch.Generator().manual_seed(1))
    ratio = (mixed.log_prob(y) - near.log_prob(y)).exp()
    event = (y[:, 2] == 0) & (y[:, 1] == 1)
    estimate = (ratio * event).mean()
    error = (ratio * event).std() / len(y) ** 0.5
    share = ((x[:, 2] == 0) & (x[:, 1] == 1)).double().mean()
    assert abs(share - estimate) < 4 * error + 4 * (share * (1 - share) / len(x)) ** 0.5


def test_a_saved_model_is_the_same(mixed, tmp_path):
    mixed.save_pretrained(tmp_path)
    same = diffeo.load(tmp_path)
    x = mixed_table(50)
    assert torch.equal(same.log_prob(x), mixed.log_prob(x))
    assert same.schema == SCHEMA


def test_marginals_find_the_distributions_that_made_the_columns():
    random = np.random.default_rng(0)
    n = 4_000
    lines = {
        "normal": (NumberColumn("a"), random.normal(3, 2, n), stats.norm(3, 2).logpdf),
        "poisson": (
            NumberColumn("b", step=1, low=0),
            random.poisson(3, n).astype(float),
            stats.poisson(3).logpmf,
        ),
        "lognormal": (
            NumberColumn("c", low=0),
            random.lognormal(0, 2, n),
            stats.lognorm(2).logpdf,
        ),
    }
    for column, values, truth in lines.values():
        marginals = fit_marginals([column], torch.tensor(values)[:, None])
        fresh = values[: n // 2]
        log_p, scores = marginals(torch.tensor(fresh)[:, None])
        assert float(log_p.mean()) == pytest.approx(truth(fresh).mean(), abs=0.02)
        back = ColumnInverse(marginals.one(0))(scores.point[:, 0])
        assert torch.allclose(back, torch.tensor(fresh), rtol=1e-9)


def test_a_column_of_zeros_and_amounts_gives_no_absurd_samples():
    random = np.random.default_rng(0)
    amount = np.where(random.random(2_000) < 0.8, 0.0, random.exponential(0.05, 2_000))
    x = torch.tensor(np.stack([amount, random.normal(size=2_000)], 1))
    schema = Schema((NumberColumn("amount", low=0, atoms=(0.0,)), NumberColumn("other")))
    flow = fit_mixed(schema, x, settings=Settings(networks=0)).flow
    drawn = flow.sample(4_000, generator=torch.Generator().manual_seed(0))
    assert float(drawn[:, 0].max()) < 5 * amount.max()
    assert float((drawn[:, 0] == 0).double().mean()) == pytest.approx(
        (amount == 0).mean(), abs=0.02
    )


def test_conditions_are_given_and_not_predicted():
    random = np.random.default_rng(0)
    group = random.integers(0, 2, 600)
    x = random.normal(np.where(group == 1, 3.0, -3.0), np.where(group == 1, 1.0, 0.5))
    schema = Schema((NumberColumn("x"),))
    conditions = Schema((CategoryColumn("group", ("a", "b")),))
    given = torch.tensor(group, dtype=torch.float64)[:, None]
    fitted = fit_mixed(schema, torch.tensor(x)[:, None], conditions=conditions, context=given)
    nodes = torch.linspace(-12, 12, 2_001).double()[:, None]
    for value, truth in ((0, stats.norm(-3, 0.5)), (1, stats.norm(3, 1.0))):
        context = torch.full((len(nodes),), value)
        p = fitted.flow.log_prob(nodes, context).exp()
        assert float(torch.trapezoid(p, nodes[:, 0])) == pytest.approx(1, abs=1e-6)
        assert float((p - torch.tensor(truth.pdf(nodes[:, 0]))).abs().max()) < 0.25


def test_networks_that_predict_no_better_are_left_out():
    x = torch.randn(1_500, 1, generator=torch.Generator().manual_seed(0)).double()
    x = torch.cat((x, x + 0.3 * x.flip(0)), 1)
    schema = Schema((NumberColumn("a"), NumberColumn("b")))
    fitted = fit_mixed(schema, x, settings=Settings(hidden=8, steps=2))
    assert fitted.best is not None
    assert fitted.flow.stack.networks is None


def test_held_out_rows_score_as_new_rows_do_where_values_lie_on_fine_grids():
    random = np.random.default_rng(0)

    def table(rows):
        x = random.normal(size=(rows, 1)) + random.normal(size=(rows, 12))
        # As people write numbers, half of them round.
        x = np.where(random.random(x.shape) < 0.5, np.round(x, 1), np.round(x, 3))
        return torch.tensor(x)

    schema = Schema(tuple(NumberColumn(f"x{i}", step=0.001) for i in range(12)))
    fitted = fit_mixed(schema, table(150), settings=Settings(networks=0))
    new = fitted.flow.log_prob(table(1_000))
    assert float(fitted.held_out.mean()) == pytest.approx(float(new.mean()), abs=2.0)


def normal_rows(y: torch.Tensor, empty: torch.Tensor, places: torch.Tensor) -> Rows:
    """Rows whose scores are y themselves."""
    y = torch.where(empty, 0.0, y)
    return Rows(Scores(y, y, y, torch.zeros_like(y)), empty, places, y[:, :0], y[:, :0])


def test_a_number_that_is_missing_narrows_no_component():
    # The likeliest covariance is known where one column has gaps (Anderson 1957).
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(600, 3, generator=generator) @ torch.tensor(
        [[1.0, 0.5, 0.4], [0.0, 0.8, -0.6], [0.0, 0.0, 0.7]]
    )
    empty = torch.zeros_like(y, dtype=torch.bool)
    empty[:240, 2] = True
    columns = [NumberColumn(name, missing=name == "c") for name in "abc"]
    layout, one = Layout(columns), torch.ones(1, 600)
    rows = normal_rows(y, empty, torch.zeros(600, 0, dtype=torch.long))
    found = GaussianMembers(3, [], 1, 1)
    for _ in range(60):
        gaussian_fit._maximize(found, rows, layout, found.centred(rows, layout), one[:, None], 0.0)
    first, full = y[:, :2] - y[:, :2].mean(0), y[240:]
    x = torch.cat((full[:, :2], torch.ones(360, 1)), 1)
    slopes = torch.linalg.lstsq(x, full[:, 2:]).solution
    residual = (full[:, 2:] - x @ slopes).square().mean()
    covariance, beta = first.T @ first / 600, slopes[:2]
    across = covariance @ beta
    truth = torch.cat(
        (torch.cat((covariance, across), 1), torch.cat((across, residual + beta.T @ across)).T)
    )
    root = found.root[0, 0]
    assert torch.allclose(torch.linalg.inv(root.mT @ root), truth, atol=1e-4)


def test_small_components_are_drawn_to_the_average_of_all():
    generator = torch.Generator().manual_seed(1)
    y, share = torch.randn(40, 2, generator=generator), torch.zeros(1, 2, 40)
    share[:, 0, :4] = share[:, 1, 4:] = 1
    y[4:] *= 3
    empty = torch.zeros_like(y, dtype=torch.bool)
    places = torch.tensor([2, 2, 2, 0] + [0, 1] * 18)[:, None]
    columns = [*map(NumberColumn, "ab"), CategoryColumn("c", ("x", "y"), missing=True)]
    rows, layout = normal_rows(y, empty, places), Layout(columns)
    found = GaussianMembers(2, layout.sizes, 1, 2)
    gaussian_fit._maximize(found, rows, layout, found.centred(rows, layout), share, 0.0)
    own = torch.stack([part.T.cov(correction=0) for part in (y[:4], y[4:])])
    counts = torch.tensor([4.0, 36.0])[:, None, None]
    mean, rest = (own * counts).sum(0) / 40, gaussian_fit.POOLED
    truth = (own * counts + rest * mean) / (counts + rest)
    root = found.root[0]
    assert torch.allclose(torch.linalg.inv(root.mT @ root), truth, atol=1e-5)
    p = found.category(0)[0].exp()
    assert torch.allclose(p.sum(1), torch.ones(2))
    gap = 3.5 / 41.5  # of all rows, with half a row for each value
    assert torch.allclose(
        p[:, 2], torch.tensor([(3 + rest * gap) / (4 + rest), rest * gap / (36 + rest)])
    )

"""The model of mixed tables: exact probabilities, and the truth on made-up tables."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import diffeo
from diffeo.mixed.marginal_fit import fit_marginals
from diffeo.models.mixed import MixedFlow
from diffeo.schema import CategoryColumn, NumberColumn, Schema
from diffeo.training.mixed import Settings, fit_mixed

SCHEMA = Schema(
    (
        NumberColumn("count", step=1, low=0, high=4, missing=True),
        CategoryColumn("colour", ("red", "blue"), missing=True),
        NumberColumn("rain", low=0, atoms=(0.0,)),
        NumberColumn("size"),
    )
)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def table(rows: int = 400, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    count = random.binomial(4, 0.4, rows).astype(float)
    colour = (random.random(rows) < 0.3).astype(float)
    rain = np.where(random.random(rows) < 0.5, 0.0, random.exponential(1 + colour))
    size = random.normal(colour * 2, 0.5)
    count[random.random(rows) < 0.1] = np.nan
    colour[random.random(rows) < 0.2] = np.nan
    return torch.tensor(np.stack([count, colour, rain, size], 1))


@pytest.fixture(scope="module")
def flow() -> MixedFlow:
    """A model of which nothing is at its start."""
    torch.set_num_threads(1)
    settings = Settings(networks=2, hidden=16, blocks=1, components=4, steps=20)
    flow = fit_mixed(SCHEMA, table(), settings=settings).flow
    generator = torch.Generator().manual_seed(0)
    for weight in flow.parameters():
        weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    members = len(flow.stack.log_w)
    flow.stack.log_w.copy_(torch.randn(members, generator=generator).log_softmax(0))
    assert flow.stack.plain_gaussians is not None
    return flow


@torch.no_grad()
def test_probabilities_of_all_rows_are_one(flow):
    rain = torch.cat((torch.zeros(1), torch.linspace(-11, 4, 60).exp())).double()
    size = torch.linspace(-4, 6, 121).double()
    total = 0.0
    for count in (0, 1, 2, 3, 4, math.nan):
        for colour in (0, 1, math.nan):
            r, s = torch.meshgrid(rain, size, indexing="ij")
            fixed = [torch.full_like(r, value) for value in (count, colour)]
            p = flow.log_prob(torch.stack([*fixed, r, s], -1).reshape(-1, 4)).exp()
            p = torch.trapezoid(p.reshape(r.shape), size)
            total += float(p[0] + torch.trapezoid(p[1:], rain[1:]))
    assert total == pytest.approx(1, abs=1e-2)  # the error of these few nodes


@torch.no_grad()
def test_rows_come_back_from_their_noise(flow):
    x = table(60)
    back = flow.decode(flow.encode(x))
    assert torch.equal(back.isnan(), x.isnan())
    discrete = [0, 1]
    assert torch.equal(back.nan_to_num()[:, discrete], x.nan_to_num()[:, discrete])
    zero = x[:, 2] == 0
    assert torch.equal(back[zero, 2], x[zero, 2])
    assert (back.nan_to_num() - x.nan_to_num()).abs().max() < 1e-9


@torch.no_grad()
def test_samples_have_the_probabilities_of_the_model(flow):
    x = flow.sample(500, generator=torch.Generator().manual_seed(0))
    assert set(x[:, 0][~x[:, 0].isnan()].tolist()) <= {0, 1, 2, 3, 4}
    assert (x[:, 2] >= 0).all()
    # The share of an event, and its probability by importance of samples of another model.
    other = table(1_000, seed=1)
    near = fit_mixed(SCHEMA, other, settings=Settings(networks=0)).flow
    y = near.sample(1_000, generator=torch.Generator().manual_seed(1))
    ratio = (flow.log_prob(y) - near.log_prob(y)).exp()
    event = (y[:, 2] == 0) & (y[:, 1] == 1)
    estimate = (ratio * event).mean()
    error = (ratio * event).std() / len(y) ** 0.5
    share = ((x[:, 2] == 0) & (x[:, 1] == 1)).double().mean()
    assert abs(share - estimate) < 4 * error + 4 * (share * (1 - share) / len(x)) ** 0.5


def test_a_saved_model_is_the_same(flow, tmp_path):
    flow.save_pretrained(tmp_path)
    same = diffeo.load(tmp_path)
    x = table(50)
    assert torch.equal(same.log_prob(x), flow.log_prob(x))
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
        back = marginals.inverse(scores.point)
        assert torch.allclose(back[:, 0], torch.tensor(fresh), rtol=1e-9)


def test_a_column_of_zeros_and_amounts_gives_no_absurd_samples():
    random = np.random.default_rng(0)
    amount = np.where(random.random(2_000) < 0.8, 0.0, random.exponential(0.05, 2_000))
    x = torch.tensor(np.stack([amount, random.normal(size=2_000)], 1))
    schema = Schema((NumberColumn("amount", low=0, atoms=(0.0,)), NumberColumn("other")))
    flow = fit_mixed(schema, x, settings=Settings(networks=0)).flow
    drawn = flow.sample(5_000, generator=torch.Generator().manual_seed(0))
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

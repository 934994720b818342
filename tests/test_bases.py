"""Base densities against torch.distributions, their integrals, and the flows that stand on them."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily

import diffeo
from diffeo import Flow, latent
from diffeo.bases import Base, Logistic, Mixture, Normal, StudentT, Uniform
from diffeo.bijections import Chain, Scale
from diffeo.cli import main
from diffeo.distribution import monte_carlo_kl
from diffeo.figures.style import base_density, latent_reach

BASES = {
    "Normal": Normal,
    "Logistic": Logistic,
    "Uniform": partial(Uniform, 2.0),
    "StudentT": partial(StudentT, 3.0),
    "StudentT, each its own": partial(StudentT, 3.0, shared=False),
    "Mixture": partial(Mixture, 5),
}
every = pytest.mark.parametrize("name", BASES)


def made(name: str, dims: int, seed: int = 0) -> Base:
    """A base whose parameters are away from their start, in float64."""
    torch.manual_seed(seed)
    base = BASES[name]()
    base.prepare(dims)
    with torch.no_grad():
        for weight in base.double().parameters():
            weight += 0.3 * torch.randn_like(weight)
    return base


def truth(base: Base, dims: int) -> torch.distributions.Distribution:
    """The same density by torch."""
    zero = torch.zeros(dims, dtype=torch.float64)
    if isinstance(base, StudentT):
        one = torch.distributions.StudentT(base.degrees.detach().expand(dims), zero, zero + 1)
    elif isinstance(base, Uniform):
        one = torch.distributions.Uniform(zero - base.bound, zero + base.bound, validate_args=False)
    elif isinstance(base, Mixture):
        parts = torch.distributions.Normal(base.means.detach(), base.log_scales.detach().exp())
        weights = Categorical(logits=base.logits.detach())
        return MixtureSameFamily(weights, Independent(parts, 1))
    elif isinstance(base, Logistic):
        pytest.skip("torch has none; see test_flow.py")
    else:
        one = torch.distributions.Normal(zero, zero + 1)
    return Independent(one, 1)


def scaled_flow(base: Base, dims: int = 2) -> Flow:
    return Flow(Chain(Scale(dims)), dims, base=base)


@every
def test_log_prob_is_that_of_torch(name):
    base = made(name, 3)
    z = 2 * torch.randn(500, 3, generator=Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(base.log_prob(z), truth(base, 3).log_prob(z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2])
@every
def test_the_density_integrates_to_one(name, dims):
    base = made(name, dims)
    if isinstance(base, StudentT):
        # By a grid that reaches as far as its tails: z = sinh(t).
        t = torch.linspace(-16, 16, 2_001, dtype=torch.float64)
        z, step = t.sinh(), t.cosh() * (t[1] - t[0])
    else:
        low = 2.0 if isinstance(base, Uniform) else 40.0
        count = 2_000
        z = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 2 * low - low
        step = torch.full_like(z, 2 * low / count)
    grid, area = z[:, None], step
    if dims == 2:
        grid, area = torch.cartesian_prod(z, z), torch.outer(step, step).flatten()
    with torch.no_grad():
        total = sum(
            (base.log_prob(part).exp() * a).sum()
            for part, a in zip(grid.split(500_000), area.split(500_000), strict=True)
        )
    assert abs(float(total) - 1) < 1e-5


@every
def test_draws_follow_the_density(name):
    base, like = made(name, 2), torch.zeros(0, dtype=torch.float64)
    z = base.sample(20_000, 2, like, Generator().manual_seed(2)).detach()
    other = base.sample(20_000, 2, like, Generator().manual_seed(2)).detach()
    assert torch.equal(z, other)
    assert z.isfinite().all()
    # Their distribution function, from the marginal density of each dimension by itself.
    reach = 2.0 if isinstance(base, Uniform) else 12.0
    grid = torch.linspace(-reach, reach, 40_001, dtype=torch.float64)
    for i in range(2):
        if isinstance(base, Mixture):
            parts = torch.distributions.Normal(base.means[:, i], base.log_scales[:, i].exp())
            cdf = (base.logits.softmax(0) * parts.cdf(grid[:, None])).sum(1).detach()
        elif isinstance(base, StudentT):
            nu = float(base.degrees.detach().expand(2)[i])
            cdf = torch.from_numpy(stats.t.cdf(grid.numpy(), nu))
        else:
            cdf = base.marginal(grid).exp().cumsum(0) * (grid[1] - grid[0])
        u = stats.kstest(z[:, i].numpy(), lambda v, cdf=cdf: _interpolate(v, grid, cdf))
        assert u.pvalue > 1e-3


def _interpolate(v, grid: Tensor, cdf: Tensor):
    return np.interp(v, grid.numpy(), cdf.numpy())


@every
def test_marginals_are_what_figures_draw(name):
    base = made(name, 2)
    z = torch.linspace(-1.9, 1.9, 5, dtype=torch.float64)
    line = torch.linspace(-2, 2, 4_001, dtype=torch.float64)
    if not isinstance(base, Uniform):
        line = 300 * torch.linspace(-1, 1, 60_001, dtype=torch.float64) ** 3
    width = torch.cat(((line[1] - line[0])[None], (line[2:] - line[:-2]) / 2, line[-1:] * 0))
    means = []
    for value in z:
        both = [torch.stack((torch.full_like(line, value), line), 1)]
        both.append(both[0].flip(1))
        means.append(sum((base.log_prob(p).exp() * width).sum() for p in both) / 2)
    torch.testing.assert_close(base.marginal(z).exp(), torch.stack(means), rtol=2e-3, atol=1e-4)
    assert (base_density(base, z.numpy()) > 0).all()
    assert 2 <= latent_reach(base) <= 50


@every
def test_far_points_have_finite_densities_and_gradients(name):
    base = made(name, 2).float()
    z = torch.tensor([[1e6, -1e6], [0.0, 1e6], [1e18, 0.0], [0.0, 0.0]]).requires_grad_()
    log_prob = base.log_prob(z)
    if isinstance(base, Uniform):
        assert log_prob.tolist() == [-math.inf] * 3 + [pytest.approx(-2 * math.log(4))]
        assert base.log_prob(torch.full((1, 2), math.nan)).isnan().all()
        log_prob = log_prob[3:]
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert z.grad.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in base.parameters())


@pytest.mark.parametrize("degrees", [0.51, 1.0, 4.0, 300.0, 9_999.0])
def test_degrees_of_freedom_start_as_asked_and_keep_their_digits_in_float32(degrees):
    base = StudentT(degrees)
    assert base.degrees.tolist() == [pytest.approx(degrees, rel=1e-3)]
    z = torch.linspace(-5, 5, 11)[:, None]
    expected = torch.distributions.StudentT(base.degrees.detach().double()).log_prob(z.double())
    torch.testing.assert_close(base.log_prob(z).double(), expected[:, 0], rtol=1e-4, atol=1e-4)


def test_degrees_of_freedom_are_learned_from_rows():
    source = Generator().manual_seed(0)
    z = StudentT(2.5).sample(20_000, 1, torch.zeros(0), source).detach()
    base = StudentT(20.0)
    adam = torch.optim.Adam(base.parameters(), lr=0.05)
    for _ in range(200):
        adam.zero_grad()
        (-base.log_prob(z).mean()).backward()
        adam.step()
    assert base.degrees.tolist() == [pytest.approx(2.5, rel=0.1)]


@pytest.mark.parametrize("name", ["Normal", "Mixture"])
def test_gradients_of_a_divergence_are_those_of_the_exact_one(name):
    """Through the draws where they have gradients, and by the score where they have none."""
    flow, target = (scaled_flow(base, 1).double() for base in (made(name, 1), Normal()))
    with torch.no_grad():
        target.bijection[0].log_scale -= 0.7
    torch.manual_seed(0)
    weights = [*flow.parameters()]
    estimate = monte_carlo_kl(flow.distribution(), target.distribution(), 200_000)
    # The exact one by quadrature.
    x = torch.linspace(-60, 60, 60_001, dtype=torch.float64)[:, None]
    log_p = flow.log_prob(x)
    exact = (log_p.exp() * (log_p - target.log_prob(x))).sum() * (x[1, 0] - x[0, 0])
    torch.testing.assert_close(estimate, exact, rtol=0.02, atol=0.01)
    ours, expected = (torch.autograd.grad(value, weights) for value in (estimate, exact))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0.1, atol=0.02)


@every
def test_draws_and_their_densities_in_one_pass(name):
    flow = scaled_flow(made(name, 2)).double()
    with torch.no_grad():
        flow.bijection[0].log_scale += 0.4
    p = flow.distribution()
    if not flow.base.reparametrized:
        with pytest.raises(NotImplementedError, match="chooses a component"):
            p.rsample_and_log_prob((3,))
        return
    torch.manual_seed(3)
    x, log_prob = p.rsample_and_log_prob((7, 3))
    assert x.shape == (7, 3, 2)
    torch.testing.assert_close(log_prob, p.log_prob(x), rtol=1e-10, atol=1e-10)


@every
@pytest.mark.parametrize("model", ["RealNVP", "NICE"])
def test_a_flow_with_any_base_is_saved_and_drawn(name, model, tmp_path):
    torch.manual_seed(0)
    flow = getattr(diffeo, model)(3, layers=2, hidden=(8,), base=BASES[name]()).eval()
    with torch.no_grad():
        for weight in flow.parameters():
            weight += 0.1 * torch.randn_like(weight)
    flow.save_pretrained(tmp_path)
    loaded = diffeo.load(tmp_path)
    x = flow.sample(5, generator=Generator().manual_seed(1))
    assert torch.equal(x, loaded.sample(5, generator=Generator().manual_seed(1)))
    assert torch.equal(flow.log_prob(x), loaded.log_prob(x))
    assert [type(p).__name__ for p in loaded.parameters()] == ["Parameter"] * len(
        list(flow.parameters())
    )


def test_temperature_has_a_meaning_or_is_refused():
    for name in ("Normal", "Logistic", "StudentT", "Uniform"):
        flow = scaled_flow(BASES[name]())
        cool = flow.sample(100, temperature=0.5, generator=Generator().manual_seed(0))
        torch.testing.assert_close(
            cool, 0.5 * flow.sample(100, generator=Generator().manual_seed(0))
        )
        assert not flow.sample(3, temperature=0).any()
    uniform = scaled_flow(Uniform(2.0))
    for call in (
        lambda: uniform.sample(3, temperature=1.5),
        lambda: latent.at_temperatures(uniform, 3, [0.5, 1.5]),
        lambda: latent.resample(uniform, torch.zeros(1, 2), [1], 1.5),
    ):
        with pytest.raises(ValueError, match=r"the temperature is 1\.5, and draws of a Uniform"):
            call()
    # Each draw from a mixture falls to the mean of a component.
    mixture = scaled_flow(Mixture(3))
    modes = mixture.sample(200, temperature=0, generator=Generator().manual_seed(0))
    distances = torch.cdist(modes, mixture.base.means)
    assert (distances.amin(1) < 1e-5).all()
    assert len(distances.argmin(1).unique()) == 3


def test_a_base_serves_flows_of_one_width_alone():
    for base in (Mixture(3), StudentT(shared=False)):
        scaled_flow(base, 2)
        scaled_flow(base, 2)
        with pytest.raises(ValueError, match="2 dimensions, and the flow has 3: give each flow"):
            scaled_flow(base, 3)


def test_a_mixture_starts_spread_and_near_the_standard_normal():
    torch.manual_seed(0)
    base = Mixture(2_000)
    base.prepare(3)
    z = base.sample(50_000, 3, torch.zeros(0), Generator().manual_seed(0))
    assert (z.mean(0).abs() < 0.1).all()
    assert ((z.std(0) - 1).abs() < 0.1).all()
    assert torch.cdist(base.means, base.means).fill_diagonal_(1.0).min() > 0


@pytest.mark.parametrize(
    "words", ["StudentT", "StudentT --model.base.shared false", "Mixture --model.base.components 3"]
)
def test_a_base_with_learned_parameters_is_trained_and_drawn_by_commands(words, tmp_path):
    small = "--model.layers 2 --model.hidden [8] --trainer.max_epochs 2 --data.rows 200"
    options = f"train --data moons {small} --model.base {words} --out {tmp_path / 'run'}"
    assert main(options.split()) == 0
    flow = diffeo.load(tmp_path / "run")
    fresh = type(flow.base)(**flow.base.arguments)
    fresh.prepare(2)
    assert type(flow.base).__name__ == words.split()[0]
    start, end = (next(base.parameters()) for base in (fresh, flow.base))
    assert start.shape == end.shape
    assert not torch.equal(start, end)
    assert main(["sample", str(tmp_path / "run"), "--num", "5"]) == 0

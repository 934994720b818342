"""Losses other than likelihood against closed forms, and importance sampling against quadrature."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from benchmarks.targets import TARGETS, log_normalizer
from torch import Generator, Tensor, nn

import diffeo
from diffeo import Chain, Flow
from diffeo.bases import Mixture, StudentT
from diffeo.bijections import Bijection, Scale, Standardize
from diffeo.losses import (
    ImportanceSample,
    alpha_divergence,
    flow_matching,
    importance_sample,
    reverse_kl,
    weighted_likelihood,
)
from diffeo.losses.importance import pareto_shape


def normal_flow(std: float, mean: float = 0.0, base=None) -> Flow:
    """N(mean, std^2) in one dimension, whose scale is learned."""
    link = Standardize(1)
    link.mean.fill_(mean)
    scale = Scale(1)
    with torch.no_grad():
        scale.log_scale.fill_(-math.log(std))
    return Flow(Chain(link, scale), 1, base=base).double()


def target(x: Tensor) -> Tensor:
    """log N(x; 1, 4) + 3."""
    return torch.distributions.Normal(1.0, 2.0).log_prob(x[:, 0]) + 3.0


def source(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_reverse_kl_and_its_gradient_are_those_of_normals():
    flow = normal_flow(1.5)
    loss = reverse_kl(flow, target, 200_000, generator=source())
    p, q = torch.distributions.Normal(1.0, 2.0), torch.distributions.Normal(0.0, 1.5)
    exact = torch.distributions.kl_divergence(q, p) - 3.0
    assert loss.item() == pytest.approx(exact.item(), abs=0.01)
    # d/ds of log(2 / s) + (s^2 + 1) / 8, with s = exp(-log_scale).
    (gradient,) = torch.autograd.grad(loss, flow.bijection[1].log_scale)
    assert gradient.item() == pytest.approx(1 - 1.5**2 / 4, abs=0.01)


def test_the_score_and_the_paths_estimate_the_same_gradient():
    flow = normal_flow(1.5)
    for share in (0.5, 1.0):
        loss = reverse_kl(flow, target, 200_000, score=share, generator=source())
        plain = reverse_kl(flow, target, 200_000, generator=source())
        assert loss.item() == pytest.approx(plain.item())
        (gradient,) = torch.autograd.grad(loss, flow.bijection[1].log_scale)
        assert gradient.item() == pytest.approx(1 - 1.5**2 / 4, abs=0.01)


def test_the_score_restores_the_mass_of_a_mode_far_from_the_other():
    """Both have 1/2 in the target; the flow has 0.02 in one, with no draws between the two."""
    base = Mixture(2)
    flow = Flow(Chain(Scale(1)), 1, base=base).double()
    with torch.no_grad():
        base.means.copy_(torch.tensor([[-10.0], [10.0]]))
        base.log_scales.zero_()
        base.logits.copy_(torch.tensor([0.0, math.log(49)]))

    def modes(x: Tensor) -> Tensor:
        return 100 - 0.5 * torch.cat((x - 10, x + 10), 1).square().min(1).values

    # Of w log w + (1 - w) log(1 - w) by the logit of w.
    exact = -0.02 * 0.98 * math.log(49)
    for share in (0.0, 1.0):  # the first by the base's own score
        losses = [
            reverse_kl(flow, modes, 100, score=share, generator=source(i)) for i in range(200)
        ]
        found = torch.stack([torch.autograd.grad(loss, base.logits)[0][0] for loss in losses])
        assert found.mean().item() == pytest.approx(exact, abs=0.015)
        # The constant of an unnormalised density, of 100, is no noise.
        assert found.std() < 0.08


@pytest.mark.parametrize("alpha", [-0.5, 0.3, 0.5, 0.9, 1.5])
def test_alpha_divergences_are_those_of_normals_up_to_the_constant(alpha):
    x = torch.linspace(-60, 60, 60_001, dtype=torch.float64)[:, None]
    flow = normal_flow(2.5)
    weight = flow.bijection[1].log_scale

    def exact() -> Tensor:
        log_q = flow.log_prob(x)
        powers = (alpha * target(x) + (1 - alpha) * log_q).logsumexp(0)
        return (powers + (x[1, 0] - x[0, 0]).log()) / (alpha * (alpha - 1))

    ours = alpha_divergence(flow, target, 200_000, alpha, generator=source())
    assert ours.item() == pytest.approx(exact().item(), abs=0.02)
    (one,), (other,) = (torch.autograd.grad(value, weight) for value in (ours, exact()))
    assert one.item() == pytest.approx(other.item(), abs=0.03)


def test_alpha_near_zero_is_reverse_kl_and_the_ends_are_refused():
    flow = normal_flow(2.5)
    near = alpha_divergence(flow, target, 1_000, 1e-5, generator=source())
    kl = reverse_kl(flow, target, 1_000, generator=source())
    # The constant log Z comes in as -log Z / (1 - alpha).
    assert near.item() == pytest.approx(kl.item(), abs=1e-3)
    for alpha in (0, 1):
        with pytest.raises(ValueError, match="choose another number"):
            alpha_divergence(flow, target, 10, alpha)


@pytest.mark.parametrize("loss", [reverse_kl, alpha_divergence])
def test_a_base_that_chooses_components_is_learned_by_the_score(loss):
    torch.manual_seed(3)
    flow = normal_flow(1.0, base=Mixture(2)).double()
    weights = [flow.base.logits, flow.base.means]
    x = torch.linspace(-60, 60, 60_001, dtype=torch.float64)[:, None]
    log_q, step = flow.log_prob(x), x[1, 0] - x[0, 0]
    if loss is reverse_kl:
        exact = (log_q.exp() * (log_q - target(x))).sum() * step
    else:
        exact = ((0.5 * target(x) + 0.5 * log_q).logsumexp(0) + step.log()) / -0.25
    ours = loss(flow, target, 400_000, generator=source())
    assert ours.item() == pytest.approx(exact.item(), abs=0.02)
    pairs = zip(*(torch.autograd.grad(v, weights) for v in (ours, exact)), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.02)


def test_draws_on_a_grid_are_refused():
    flow = diffeo.RealNVP(2, 2, (8,), steps=[0.5, 0.0])
    for call in (reverse_kl, alpha_divergence, importance_sample):
        with pytest.raises(ValueError, match="take a flow without dequantizer"):
            call(flow, lambda x: x.sum(1), 10)


# Losses of rows


def test_weighted_likelihood_is_that_of_repeated_rows():
    flow = normal_flow(1.3)
    x = torch.randn(6, 1).double()
    counts = torch.tensor([0, 1, 2, 3, 1, 0])
    repeated = -flow.log_prob(x.repeat_interleave(counts, dim=0)).mean()
    weighted = weighted_likelihood(flow, x, 0.25 * counts.double())
    torch.testing.assert_close(weighted, repeated, rtol=1e-12, atol=1e-12)
    far = torch.cat((x, torch.full((1, 1), 1e200, dtype=torch.float64)))
    with_far = weighted_likelihood(flow, far, torch.cat((0.25 * counts, torch.zeros(1))).double())
    torch.testing.assert_close(with_far, repeated, rtol=1e-7, atol=1e-7)
    with pytest.raises(ValueError, match=r"weights of shape \(6,\), got \(6, 1\)"):
        weighted_likelihood(flow, x, torch.ones(6, 1))


class Moving(Bijection):
    """A velocity that is linear in x with coefficients that depend on t, and no map."""

    def __init__(self) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.zeros(3))

    def velocity(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        t = t[:, None]
        assert t.shape == (len(x), 1)
        a, b, c = self.coefficients
        return (a + b * t + c * t * t) * x

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x, x.new_zeros(len(x))

    inverse = forward


def test_flow_matching_finds_the_velocity_of_a_normal():
    """Of N(0, 1): E[z - x | x_t] = (2 t - 1) / ((1 - t)^2 + t^2) x_t."""
    flow = Flow(Chain(Standardize(1), Moving()), 1)
    x = 3 * torch.randn(20_000, 1, generator=source())
    # It is standardized first.
    flow.initialize(x)
    adam = torch.optim.Adam(flow.parameters(), lr=0.05)
    noise = source(1)
    for _ in range(300):
        adam.zero_grad()
        flow_matching(flow, x, generator=noise).backward()
        adam.step()
    # The least squares fit of that by the polynomial, with the weight of x_t's variance.
    t = (torch.arange(2_000) + 0.5).double() / 2_000
    variance = (1 - t) ** 2 + t**2
    design = torch.stack((torch.ones_like(t), t, t * t), 1) * variance.sqrt()[:, None]
    best = torch.linalg.lstsq(design, ((2 * t - 1) / variance * variance.sqrt())[:, None])
    grid = torch.stack((torch.ones_like(t), t, t * t), 1)
    found = grid @ flow.bijection[1].coefficients.detach().double()
    torch.testing.assert_close(found, (grid @ best.solution)[:, 0], rtol=0, atol=0.1)
    with pytest.raises(ValueError, match="Scale has not"):
        flow_matching(Flow(Chain(Scale(1)), 1), x)


# Importance sampling


def test_importance_sampling_of_a_normal_by_a_wider_one():
    flow = normal_flow(2.5)
    found = importance_sample(flow, target, 50_000, generator=source())
    log_z, error = found.log_normalizer()
    assert abs(log_z - 3.0) < 4 * error < 0.05
    mean, spread = found.expect(lambda x: torch.cat((x, x**2), 1))
    for value, wrong, truth in zip(mean, spread, (1.0, 5.0), strict=True):
        assert abs(value - truth) < 4 * wrong < 0.2
    assert found.pareto_k() < 0.5
    # E_q[w]^2 / E_q[w^2] by quadrature.
    x = torch.linspace(-60, 60, 60_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        square = ((2 * (target(x) - 3) - flow.log_prob(x)).exp()).sum() * (x[1, 0] - x[0, 0])
    assert found.efficiency() == pytest.approx(1 / square.item(), abs=0.02)
    torch.testing.assert_close(found.weights.sum(), torch.tensor(1.0).double())


def test_standard_errors_are_those_of_repetitions():
    flow = normal_flow(2.5)
    runs = [importance_sample(flow, target, 400, generator=source(seed)) for seed in range(300)]
    values, errors = map(torch.tensor, zip(*(run.log_normalizer() for run in runs), strict=True))
    assert values.std().item() == pytest.approx(errors.mean().item(), rel=0.15)
    means, errors = map(torch.cat, zip(*(run.expect(lambda x: x) for run in runs), strict=True))
    assert means.std().item() == pytest.approx(errors.mean().item(), rel=0.15)


def test_a_proposal_that_is_too_narrow_shows_in_the_pareto_shape():
    narrow = importance_sample(normal_flow(0.8, 1.0), target, 20_000, generator=source())
    heavy = normal_flow(2.0, 1.0, base=StudentT(3.0))
    wide = importance_sample(heavy, target, 20_000, generator=source())
    assert narrow.pareto_k() > 0.7
    assert wide.pareto_k() < 0.3
    assert wide.efficiency() > 0.7


@pytest.mark.parametrize("shape", [0.1, 0.5, 0.7, 1.2])
def test_the_shape_of_pareto_tails(shape):
    y = scipy.stats.genpareto.rvs(shape, scale=3.0, size=50_000, random_state=1)
    assert pareto_shape(torch.from_numpy(y).sort().values) == pytest.approx(shape, abs=0.03)
    # Of weights whose tail alone is so: w = u^-k.
    u = torch.rand(100_000, generator=source(), dtype=torch.float64)
    sample = ImportanceSample(u[:, None], -shape * u.log())
    assert sample.pareto_k() == pytest.approx(shape, abs=0.1)


def test_weights_without_a_tail():
    x = torch.zeros(100, 1)
    equal = ImportanceSample(x, torch.full((100,), -700.0).double())
    assert equal.pareto_k() == 0
    assert equal.efficiency() == pytest.approx(1)
    assert equal.log_normalizer() == (pytest.approx(-700), pytest.approx(0, abs=1e-6))
    assert ImportanceSample(x[:20], torch.randn(20).double()).pareto_k() == math.inf
    few = torch.full((100,), -math.inf).double()
    few[:3] = 0.0
    assert ImportanceSample(x, few).efficiency() == pytest.approx(0.03)
    assert math.isfinite(ImportanceSample(x, few).pareto_k())
    with pytest.raises(ValueError, match="some draws is NaN"):
        importance_sample(normal_flow(1.0), lambda x: x[:, 0] * math.nan, 10)


@pytest.mark.parametrize("name", TARGETS)
def test_the_targets_of_the_benchmark_have_known_normalizers(name):
    fine, coarse = (log_normalizer(TARGETS[name], n) for n in (2_000, 700))
    assert fine == pytest.approx(coarse, abs=1e-4)

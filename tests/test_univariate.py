"""Univariate maps against SciPy, closed forms and integrals."""

from __future__ import annotations

import math

import pytest
import scipy.interpolate
import scipy.stats
import torch
from torch import Tensor

from diffeo import Flow
from diffeo.bases import Uniform
from diffeo.bijections import (
    Affine,
    Autoregressive,
    Bernstein,
    CellCDF,
    CircularSpline,
    MixtureCDF,
    quantiles,
)
from diffeo.bijections.quantiles import NOISE, log_ndtri
from diffeo.networks.masked import MaskedMLP

SCIPY = {"normal": scipy.stats.norm, "logistic": scipy.stats.logistic}
shapes = pytest.mark.parametrize("shape", SCIPY)


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 2, 2)])
@pytest.mark.parametrize("across", [False, True], ids=["rows", "features"])
def test_the_affine_map_has_the_gradients_of_autodiff_however_it_lies_in_memory(shape, across):
    affine, source = Affine(2.0), torch.Generator().manual_seed(0)
    wide = (shape[0], 2 * shape[1], *shape[2:])
    given = [torch.randn(s, generator=source, dtype=torch.float64) * 2 for s in (shape, wide)]
    if across:
        given = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in given]
    inputs = [tensor.requires_grad_() for tensor in given]
    weights = torch.randn(shape, generator=source).double(), torch.randn(shape[:1]).double()
    found, truth = affine(*inputs), truth_of(affine, inputs)
    torch.testing.assert_close(found, truth, rtol=1e-14, atol=1e-14)
    gradients = [torch.autograd.grad(outs, inputs, weights) for outs in (found, truth)]
    torch.testing.assert_close(*gradients, rtol=1e-13, atol=1e-13)
    assert torch.autograd.gradcheck(affine, inputs)
    assert torch.autograd.gradgradcheck(affine, inputs)
    total = torch.func.grad(lambda *given: sum(out.sum() for out in affine(*given)), argnums=(0, 1))
    summed = torch.autograd.grad([out.sum() for out in truth_of(affine, inputs)], inputs)
    torch.testing.assert_close(total(*given), summed)


def truth_of(affine: Affine, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Its map by its formula."""
    raw, shift = inputs[1].chunk(2, dim=1)
    log_scale = affine.bound * torch.tanh(raw / affine.bound)
    return inputs[0] * log_scale.exp() + shift, log_scale.flatten(1).sum(1)


def mixture(shape: str, k: int = 4) -> tuple[MixtureCDF, Tensor, Tensor, Tensor, Tensor]:
    """A map, parameters of one element, and the weights, means and scales that they stand for."""
    univariate = MixtureCDF(k, shape)
    parameters = torch.randn(3 * k, generator=torch.Generator().manual_seed(0)).double()
    logits, shift, change = parameters.view(3, k)
    mean = torch.tensor(univariate.places, dtype=torch.float64) + shift
    scale = univariate.scale * torch.exp(5 * torch.tanh(change / 5))
    return univariate, parameters, logits.softmax(0), mean, scale


def test_the_quantile_of_a_log_probability_is_exact_in_the_far_tail():
    z = -torch.tensor([0.0, 0.1, 1.0, 5.0, 9.0, 40.0, 1e4, 1e8], dtype=torch.float64)
    torch.testing.assert_close(log_ndtri(torch.special.log_ndtr(z)), z, rtol=1e-13, atol=1e-15)
    single = z.float()
    torch.testing.assert_close(
        log_ndtri(torch.special.log_ndtr(single)), single, rtol=3e-7, atol=3e-7
    )
    log_p = torch.tensor([-0.8, -3.0, -50.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_ndtri, (log_p,))
    assert torch.autograd.gradgradcheck(log_ndtri, (log_p,))


def test_the_series_of_devices_without_erfcx_is_that_function():
    x = torch.linspace(0, 50, 10_001, dtype=torch.float64)

    class Elsewhere(torch.Tensor):
        device = torch.device("mps")

    ours = quantiles._erfcx(x.as_subclass(Elsewhere)).as_subclass(torch.Tensor)
    torch.testing.assert_close(ours, torch.special.erfcx(x), rtol=1.5e-7, atol=0)


@shapes
def test_the_mixture_map_is_the_quantile_of_scipys_distribution_function(shape):
    univariate, parameters, w, mean, scale = mixture(shape)
    noise = SCIPY[shape]
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)[:, None]
    y, log_slope = univariate(x, parameters.expand(101, -1))
    cdf = (w * torch.from_numpy(noise.cdf(((x - mean) / scale).numpy()))).sum(1)
    torch.testing.assert_close(
        torch.from_numpy(noise.cdf(y[:, 0].numpy())), cdf, rtol=1e-11, atol=0
    )
    pdf = (w * torch.from_numpy(noise.pdf(((x - mean) / scale).numpy())) / scale).sum(1)
    ours = log_slope + torch.from_numpy(noise.logpdf(y[:, 0].numpy()))
    torch.testing.assert_close(ours, pdf.log(), rtol=1e-10, atol=1e-10)


@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mixture_map_is_finite_and_inverted_a_million_spreads_out(shape, dtype):
    univariate, parameters, *_, scale = mixture(shape)
    far = torch.tensor([-1e6, -1e3, -60.0, 60.0, 1e3, 1e6], dtype=dtype)[:, None]
    parameters = parameters.to(dtype).expand(6, -1).clone().requires_grad_()
    y, log_slope = univariate(far, parameters)
    back, log_det = univariate.inverse(y, parameters)
    torch.testing.assert_close(back, far, rtol=1e-5 if dtype is torch.float32 else 1e-12, atol=0)
    torch.testing.assert_close(log_det, -log_slope, rtol=1e-3, atol=1e-3)
    # Far out the widest component is all that is left.
    torch.testing.assert_close(
        log_slope[[0, -1]], -scale.max().log().to(dtype).expand(2), rtol=1e-3, atol=1e-3
    )
    grads = torch.autograd.grad(y.sum() + log_slope.sum() + back.sum() + log_det.sum(), parameters)
    assert grads[0].isfinite().all()


@shapes
def test_gradients_through_the_inverse_of_a_mixture_are_those_of_the_implicit_function(shape):
    univariate, parameters, *_ = mixture(shape)
    y = torch.randn(5, 1, dtype=torch.float64, requires_grad=True)
    rows = parameters.expand(5, -1).clone().requires_grad_()
    assert torch.autograd.gradcheck(univariate.inverse, (y, rows), atol=1e-6)


@shapes
def test_narrow_components_far_from_each_other_leave_no_gap_in_the_numbers(shape):
    univariate = MixtureCDF(2, shape)
    parameters = torch.tensor([0.0, 0.0, -300.0, 300.0, -5.0, -5.0]).double().expand(7, -1)
    x = torch.tensor([-400.0, -300, -200, 0, 200, 300, 400]).double()[:, None]
    y, log_slope = univariate(x, parameters)
    assert y.isfinite().all()
    assert log_slope.isfinite().all()
    assert (y.diff(dim=0) >= 0).all()


@shapes
def test_a_fresh_mixture_is_near_to_the_noise_and_its_components_differ(shape):
    univariate = MixtureCDF(8, shape)
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None] * NOISE[shape].spread
    y, _ = univariate(x, torch.zeros(41, 24, dtype=torch.float64))
    assert (y - x).abs().max() < 0.25 * NOISE[shape].spread
    assert len(set(univariate.places)) == 8


def test_the_density_of_a_mixture_integrates_to_1():
    univariate, parameters, *_ = mixture("normal")
    x = torch.linspace(-60, 60, 240_001, dtype=torch.float64)[:, None]
    y, log_slope = univariate(x, parameters.expand(len(x), -1))
    density = (log_slope - 0.5 * (y[:, 0] ** 2 + math.log(2 * math.pi))).exp()
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1, abs=1e-8)


def test_a_polynomial_is_that_of_scipy_and_its_tangents_outside():
    univariate = Bernstein(6, 2.0)
    parameters = torch.randn(7, generator=torch.Generator().manual_seed(0)).double()
    x = torch.linspace(-4, 4, 81, dtype=torch.float64)[:, None]
    c = univariate._coefficients(x[:1], parameters[None])[:, 0, 0]
    truth = scipy.interpolate.BPoly(c.numpy()[:, None], [-2.0, 2.0])
    y, log_slope = univariate(x, parameters.expand(81, -1))
    inside = x[:, 0].abs() <= 2
    points = x[inside, 0].numpy()
    torch.testing.assert_close(y[inside, 0], torch.from_numpy(truth(points)))
    slopes = torch.from_numpy(truth.derivative()(points))
    torch.testing.assert_close(log_slope[inside].exp(), slopes)
    tangent = truth(2.0) + truth.derivative()(2.0) * 2.0
    assert float(y[-1]) == pytest.approx(float(tangent))
    back, _ = univariate.inverse(y, parameters.expand(81, -1))
    torch.testing.assert_close(back, x, rtol=1e-10, atol=1e-10)
    rows = parameters.expand(5, -1).clone().requires_grad_()
    values = (3 * torch.randn(5, 1).double()).requires_grad_()
    assert torch.autograd.gradcheck(univariate.inverse, (values, rows), atol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(None, None), (0, None), (0, 7), (None, 3)])
def test_probabilities_of_cells_sum_to_1_and_are_those_of_the_distribution_function(low, high):
    univariate = CellCDF(3, low, high, place=2.0, scale=1.5)
    parameters = torch.randn(9, generator=torch.Generator().manual_seed(1)).double()
    first, last = -400 if low is None else low, 400 if high is None else high
    k = torch.arange(first, last + 1, dtype=torch.float64)[:, None]
    rows = parameters.expand(len(k), -1)
    found = []
    for u in (0.1, 0.5, 0.9):
        y, log_slope = univariate(k + u, rows)
        found.append(log_slope + scipy_logistic(y[:, 0]))
        back, log_det = univariate.inverse(y, rows)
        likely = found[-1] > -20
        torch.testing.assert_close(back[likely].floor(), k[likely])
        torch.testing.assert_close(log_det[likely], -log_slope[likely], rtol=1e-6, atol=1e-6)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-9, atol=1e-9)
    assert float(found[0].exp().sum()) == pytest.approx(1, abs=1e-9)
    log_w, mean, log_s = univariate._mixture(k, rows)
    w, m, s = (part[:, 0, 0].numpy() for part in (log_w.exp(), mean, log_s.exp()))

    def cdf(e):
        return (w * scipy.stats.logistic.cdf((e - m) / s)).sum()

    lower = 0.0 if low == 2 else cdf(2.0)
    assert float(found[0][2 - first].exp()) == pytest.approx(cdf(3.0) - lower, rel=1e-9)


def scipy_logistic(y: Tensor) -> Tensor:
    return torch.from_numpy(scipy.stats.logistic.logpdf(y.numpy()))


def test_cells_far_out_are_finite_and_gradients_too():
    univariate = CellCDF(3)
    parameters = torch.randn(3, 9).requires_grad_()
    y, log_slope = univariate(torch.tensor([[-1e6], [0.5], [1e6]]), parameters)
    assert y.isfinite().all()
    assert log_slope.isfinite().all()
    (grad,) = torch.autograd.grad(y.sum() + log_slope.sum(), parameters)
    assert grad.isfinite().all()


def test_a_circular_spline_maps_the_circle_onto_itself_without_a_seam():
    univariate = CircularSpline(5)
    parameters = torch.randn(16, generator=torch.Generator().manual_seed(0)).double()
    x = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)[:, None]
    y, log_slope = univariate(x, parameters.expand(len(x), -1))
    assert ((y >= -math.pi) & (y < math.pi)).all()
    # Once around, with slopes whose integral is the whole circle, equal where it closes.
    jumps = (y.diff(dim=0) < 0).sum()
    assert int(jumps) == 1
    around = float(torch.trapezoid(log_slope.exp(), x[:, 0]))
    assert around == pytest.approx(2 * math.pi, rel=1e-6)
    assert float(log_slope[0]) == pytest.approx(float(log_slope[-1]), abs=1e-9)
    back, _ = univariate.inverse(y, parameters.expand(len(x), -1))
    apart = torch.remainder(back - x + math.pi, 2 * math.pi) - math.pi
    assert apart.abs().max() < 1e-9
    again, _ = univariate(x + 4 * math.pi, parameters.expand(len(x), -1))
    apart = torch.remainder(again - y + math.pi, 2 * math.pi) - math.pi
    assert apart.abs().max() < 1e-9


def test_an_autoregressive_model_of_angles_has_a_density_on_the_torus():
    univariate = CircularSpline(4)
    conditioner = MaskedMLP(2, 2 * univariate.parameters_each, (8,))
    flow = Flow(Autoregressive(univariate, conditioner), 2, base=Uniform(math.pi)).double()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(0))
    side = (torch.arange(200, dtype=torch.float64) + 0.5) / 200 * 2 * math.pi - math.pi
    with torch.no_grad():
        total = flow.log_prob(torch.cartesian_prod(side, side)).exp().mean() * (2 * math.pi) ** 2
        sample = flow.sample(1_000)
    assert float(total) == pytest.approx(1, abs=1e-4)
    assert float(sample.abs().max()) <= math.pi


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("components", [1, 2, 3, 8])
@shapes
def test_the_gradient_of_a_mixture_at_its_median_is_its_slope(shape, components, dtype):
    """There rounding may put the smaller tail above one half."""
    x = torch.zeros(1, 1, dtype=dtype, requires_grad=True)
    y, log_slope = MixtureCDF(components, shape)(x, torch.zeros(1, 3 * components, dtype=dtype))
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope[0].log(), log_slope.detach(), rtol=1e-5, atol=1e-5)


def test_values_beyond_the_bounds_of_cells_have_no_probability():
    _, log_slope = CellCDF(2, 0, 5)(torch.tensor([[-0.1], [0.0], [5.9], [6.0]]), torch.zeros(4, 6))
    assert log_slope.isinf().tolist() == [True, False, False, True]
    with pytest.raises(ValueError, match="low is 3 and high is 2"):
        CellCDF(2, 3, 2)


def test_a_mixture_starts_from_a_constant_column_too():
    univariate = MixtureCDF(3)
    parameters = univariate.fit(torch.full((20, 1), 2.0, dtype=torch.float64))
    y, log_slope = univariate(torch.tensor([[2.0]]).double(), parameters[None])
    assert y.isfinite().all()
    assert log_slope.isfinite().all()

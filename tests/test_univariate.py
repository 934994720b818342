"""Univariate maps against SciPy, closed forms and integrals."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from torch import Tensor

from diffeo.bijections import MixtureCDF, quantiles
from diffeo.bijections.quantiles import NOISE, log_ndtri

SCIPY = {"normal": scipy.stats.norm, "logistic": scipy.stats.logistic}
shapes = pytest.mark.parametrize("shape", SCIPY)


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

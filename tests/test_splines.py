"""The rational-quadratic spline against the implementations of zuko and nflows."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from diffeo.bijections import CircularSpline, RationalQuadraticSpline
from diffeo.bijections.spline_fused import Fused

BOUND, BINS = 3.0, 6


@pytest.fixture
def spline_and_parameters():
    """A spline, points inside and outside of its interval, and the parameters of each."""
    source = torch.Generator().manual_seed(0)
    spline = RationalQuadraticSpline(BINS, BOUND)
    x = torch.randn(200, 3, generator=source, dtype=torch.float64) * 2
    parameters = torch.randn(200, 3 * spline.parameters_each, generator=source).double()
    return spline, x, parameters


def by_element(spline, parameters):
    """Widths, heights and derivatives as other packages take them, `(rows, 3, count)`."""
    raw = parameters.view(len(parameters), spline.parameters_each, 3).mT
    return raw.split([BINS, BINS, BINS - 1], dim=-1)


def test_it_is_that_of_nflows(spline_and_parameters):
    splines = pytest.importorskip("nflows.transforms.splines.rational_quadratic")
    spline, x, parameters = spline_and_parameters
    widths, heights, derivatives = by_element(spline, parameters)
    # nflows starts derivatives at softplus(0), and we at 1.
    derivatives = derivatives + math.log(math.expm1(1 - 1e-3))
    for inverse in (False, True):
        y, log_slope = splines.unconstrained_rational_quadratic_spline(
            x, widths, heights, derivatives, inverse=inverse, tails="linear", tail_bound=BOUND
        )
        ours = (spline.inverse if inverse else spline)(x, parameters)
        torch.testing.assert_close(ours[0], y, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(ours[1], log_slope.sum(1), rtol=1e-10, atol=1e-10)


def test_it_is_that_of_zuko(spline_and_parameters):
    transforms = pytest.importorskip("zuko.transforms")
    spline, x, parameters = spline_and_parameters
    theirs = transforms.MonotonicRQSTransform(*by_element(spline, parameters), bound=BOUND)
    # zuko squashes its parameters otherwise: the knots themselves are given to it.
    widths, heights, derivatives = by_element(spline, parameters)
    theirs.horizontal, theirs.vertical = (
        BOUND * (2 * F.pad((1e-3 + (1 - 1e-3 * BINS) * raw.softmax(-1)).cumsum(-1), (1, 0)) - 1)
        for raw in (widths, heights)
    )
    inner = 1e-3 + F.softplus(derivatives + math.log(math.expm1(1 - 1e-3)))
    theirs.derivatives = F.pad(inner, (1, 1), value=1.0)
    y, log_slope = theirs.call_and_ladj(x)
    ours = spline(x, parameters)
    torch.testing.assert_close(ours[0], y, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours[1], log_slope.sum(1), rtol=1e-10, atol=1e-10)
    back, _ = spline.inverse(y, parameters)
    torch.testing.assert_close(theirs.inv(y), back, rtol=1e-9, atol=1e-9)


def test_zero_parameters_are_the_identity_and_gradients_stay_finite():
    spline = RationalQuadraticSpline(BINS, BOUND)
    x = torch.tensor([[-1e30, -BOUND, -1.0, 0.0, 2.5, BOUND, 1e30]]).double().requires_grad_()
    parameters = torch.zeros(1, 7 * spline.parameters_each).double().requires_grad_()
    y, log_det = spline(x, parameters)
    torch.testing.assert_close(y, x, rtol=1e-12, atol=1e-12)
    (y.sum() + log_det.sum()).backward()
    assert x.grad.isfinite().all()
    assert parameters.grad.isfinite().all()


@pytest.mark.parametrize("options", [{"bins": 1}, {"bound": 0.0}, {"bins": 2000}])
def test_what_makes_no_spline_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        RationalQuadraticSpline(**options)


def test_each_parameter_counts():
    spline = RationalQuadraticSpline(BINS, BOUND)
    parameters = torch.randn(1, spline.parameters_each, dtype=torch.float64, requires_grad=True)
    x = torch.linspace(-BOUND, BOUND, 200, dtype=torch.float64)[1:-1, None]
    y, _ = spline(x, parameters.expand(len(x), -1))
    (gradient,) = torch.autograd.grad(y.square().sum(), parameters)
    assert (gradient != 0).all()


@pytest.mark.parametrize("kind", [RationalQuadraticSpline, CircularSpline])
def test_the_gradient_by_hand_is_that_of_autodiff(kind):
    source = torch.Generator().manual_seed(0)
    spline = kind(BINS, BOUND)
    rows = 3 * BINS if kind is CircularSpline else spline.parameters_each
    x = torch.randn(3, 40, generator=source, dtype=torch.float64) * 2
    raw = torch.randn(rows, 3, 40, generator=source, dtype=torch.float64)
    x[0, :3] = torch.tensor([-BOUND, BOUND, 1e30])
    if kind is CircularSpline:  # whose inputs are on the circle
        x = x.remainder(2 * BOUND) - BOUND
    given = x.requires_grad_(), raw.requires_grad_()
    found, expected = Fused.apply(spline, *given), spline.plain(*given)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    weights = torch.randn_like(x), torch.randn_like(x)
    gradients = [torch.autograd.grad(outs, given, weights) for outs in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


def test_gradients_of_gradients_are_those_of_autodiff(spline_and_parameters):
    spline, x, parameters = spline_and_parameters
    given, raw = x[:20].t(), parameters[:20].view(20, -1, 3).permute(1, 2, 0)
    given, raw = given.clone().requires_grad_(), raw.clone().requires_grad_()

    def second(outs):
        first = torch.autograd.grad((outs[0] * outs[1]).sum(), (given, raw), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), (given, raw))

    both = second(Fused.apply(spline, given, raw)), second(spline.plain(given, raw))
    torch.testing.assert_close(*both, rtol=1e-9, atol=1e-9)

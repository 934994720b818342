"""The monotone neural network against its formula in NumPy, mixtures, and integrals."""

import math

import numpy as np
import pytest
import scipy.special
import torch

import diffeo
from diffeo.bijections import DeepSigmoidal, MixtureCDF

UNITS = 4


@pytest.fixture
def network():
    """One that is far from its start, and parameters of an element."""
    source = torch.Generator().manual_seed(0)
    univariate = DeepSigmoidal(UNITS, 3).double()
    with torch.no_grad():
        for weight in univariate.parameters():
            weight.add_(torch.randn(weight.shape, generator=source))
    return univariate, torch.randn(univariate.parameters_each, generator=source).double()


def in_numpy(univariate, parameters, x):
    """The formula, for each x."""
    raw = parameters.numpy().reshape(-1, UNITS)
    h = x[None]
    for i in range(3):
        logits, shift, change = raw[3 * i : 3 * i + 3]
        mean = np.array(univariate.places) + shift
        scale = univariate.scale * np.exp(5 * np.tanh(change / 5))
        if i > 0:
            mixing = univariate.mixing[i - 1].detach().numpy() + raw[9 + i - 1][:, None]
            h = scipy.special.softmax(mixing, axis=0).T @ h
        weights = logits[None]
        if i < 2:
            weights = univariate.weights[i].detach().numpy().T + weights
        components = scipy.special.expit((h - mean[:, None]) / scale[:, None])
        h = scipy.special.logit(scipy.special.softmax(weights, axis=1) @ components)
    return h[0]


def test_it_is_the_formula_and_its_slope_the_numerical_one(network):
    univariate, parameters = network
    x = np.linspace(-5, 5, 101)
    rows = parameters.expand(len(x), -1)
    y, log_slope = univariate(torch.from_numpy(x)[:, None], rows)
    np.testing.assert_allclose(y[:, 0].detach(), in_numpy(univariate, parameters, x), rtol=1e-9)
    step = 1e-5
    ends = (in_numpy(univariate, parameters, x + sign * step) for sign in (1, -1))
    slope = np.subtract(*ends) / (2 * step)
    np.testing.assert_allclose(log_slope.exp().detach(), slope, rtol=1e-6)


def test_units_that_are_alike_are_mixtures_of_a_mixture():
    univariate = DeepSigmoidal(UNITS, 2).double()
    parameters = torch.randn(5, univariate.parameters_each).double()
    x = torch.randn(5, 1, dtype=torch.float64)
    single = MixtureCDF(UNITS, "logistic")
    single.places, single.scale = univariate.places, univariate.scale
    inner, first = single(x, parameters[:, : 3 * UNITS])
    outer, second = single(inner, parameters[:, 3 * UNITS : 6 * UNITS])
    y, log_slope = univariate(x, parameters)
    torch.testing.assert_close(y, outer)
    torch.testing.assert_close(log_slope, first + second)


def test_a_fresh_one_is_near_to_the_identity_and_its_units_learn_different_things():
    univariate = DeepSigmoidal()
    x = torch.linspace(-4, 4, 41)[:, None]
    y, _ = univariate(x, torch.zeros(41, univariate.parameters_each))
    assert (y - x).abs().max() < 0.6
    (y * torch.sin(x)).sum().backward()
    # Of each pair of units.
    apart = (univariate.weights.grad[0, :, :, None] - univariate.weights.grad[0, :, None]).abs()
    assert (apart.amax(0) + torch.eye(8) > 1e-4).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_out_it_is_linear_and_inverted(network, dtype):
    univariate, parameters = network
    univariate = univariate.to(dtype)
    far = torch.tensor([-1e6, -9e5, -1e3, 1e3, 9e5, 1e6], dtype=dtype)[:, None]
    rows = parameters.to(dtype).expand(6, -1).clone().requires_grad_()
    y, log_slope = univariate(far, rows)
    secant = (y.diff(dim=0) / far.diff(dim=0))[[0, -1], 0].log()
    torch.testing.assert_close(log_slope[[0, -1]], secant, rtol=1e-4, atol=1e-4)
    back, log_det = univariate.inverse(y, rows)
    torch.testing.assert_close(back, far, rtol=1e-5 if dtype is torch.float32 else 1e-12, atol=0)
    torch.testing.assert_close(log_det, -log_slope, rtol=1e-3, atol=1e-3)
    total = y.sum() + log_slope.sum() + back.sum() + log_det.sum()
    for gradient in torch.autograd.grad(total, [rows, *univariate.parameters()]):
        assert gradient.isfinite().all()


def test_gradients_through_its_inverse_are_those_of_the_implicit_function(network):
    univariate, parameters = network
    y = torch.randn(3, 1, dtype=torch.float64, requires_grad=True)
    rows = parameters.expand(3, -1).clone().requires_grad_()

    def inverse(y, rows, weights, mixing):
        given = {"weights": weights, "mixing": mixing}
        x, _ = torch.func.functional_call(Inverted(univariate), prefixed(given), (y, rows))
        return x

    weights, mixing = (w.detach().clone().requires_grad_() for w in univariate.parameters())
    assert torch.autograd.gradcheck(inverse, (y, rows, weights, mixing), atol=1e-6, fast_mode=True)


class Inverted(torch.nn.Module):
    def __init__(self, univariate):
        super().__init__()
        self.univariate = univariate

    def forward(self, y, rows):
        return self.univariate.inverse(y, rows)


def prefixed(given):
    return {f"univariate.{name}": value for name, value in given.items()}


def test_a_flow_of_them_learns_two_modes_and_its_density_integrates_to_1():
    torch.manual_seed(0)
    rows = torch.randn(2_000, 1) * 0.3 + torch.where(torch.rand(2_000, 1) < 0.3, -2.0, 1.0)
    flow = diffeo.NAF(1, layers=1).initialize(rows)
    optimizer = torch.optim.Adam(flow.parameters(), 0.03)
    for _ in range(80):
        optimizer.zero_grad()
        (-flow.log_prob(rows).mean()).backward()
        optimizer.step()
    flow = flow.double().eval()
    x = torch.linspace(-15, 15, 30_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        log_prob = flow.log_prob(x)
    assert float(torch.trapezoid(log_prob.exp(), x[:, 0])) == pytest.approx(1, abs=1e-6)
    modes = [math.log(w) - 0.5 * ((x - m) / 0.3) ** 2 for w, m in ((0.3, -2.0), (0.7, 1.0))]
    truth = torch.cat(modes, 1).logsumexp(1) - math.log(0.3 * math.sqrt(2 * math.pi))
    gap = float(torch.trapezoid(truth.exp() * (truth - log_prob), x[:, 0]))
    assert 0 < gap < 0.02

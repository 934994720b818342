"""Maps of positive numbers against SciPy and extended precision."""

import numpy as np
import pytest
import scipy.stats
import torch

from diffeo import Chain, Flow, Inverse
from diffeo.bijections import Log, Scale, Softplus


def test_the_logarithm_of_normal_noise_is_scipys_log_normal():
    flow = Flow(Chain(Log(), Scale(1)), 1).double().eval().requires_grad_(False)
    x = torch.tensor([1e-300, 0.1, 1.0, 7.0, 1e200], dtype=torch.float64)[:, None]
    np.testing.assert_allclose(flow.log_prob(x), scipy.stats.lognorm(1).logpdf(x)[:, 0])
    assert (flow.sample(100) > 0).all()
    assert flow.log_prob(torch.tensor([[0.0], [-1.0]]).double()).isneginf().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_keeps_its_digits_in_both_directions(dtype):
    link, eps = Softplus(), torch.finfo(dtype).eps
    x = torch.tensor([-80.0, -20, -1, 0, 1, 19, 21, 30, 1e6], dtype=dtype)[:, None]
    wide = x.numpy().astype(np.longdouble)
    y, log_det = link(x)
    np.testing.assert_allclose(y, np.logaddexp(wide, 0), rtol=4 * eps)
    np.testing.assert_allclose(log_det, -np.logaddexp(-wide, 0)[:, 0], rtol=4 * eps)
    y = torch.tensor([1e-30, 1e-3, 0.5, 1, 20, 40, 1e6], dtype=dtype)[:, None]
    wide = y.numpy().astype(np.longdouble)
    back, log_det = link.inverse(y)
    slope = np.log(-np.expm1(-wide))
    np.testing.assert_allclose(back, wide + slope, rtol=8 * eps, atol=eps)
    np.testing.assert_allclose(log_det, -slope[:, 0], rtol=4 * eps, atol=eps)


def test_a_flow_that_begins_with_either_is_a_density_of_positive_numbers():
    grid = torch.logspace(-12, 3, 60_001, dtype=torch.float64)[:, None]
    for link in (Log(), Inverse(Softplus())):
        flow = Flow(Chain(link, Scale(1)), 1).double()
        total = torch.trapezoid(flow.log_prob(grid).detach().exp(), grid[:, 0])
        assert float(total) == pytest.approx(1, abs=1e-6)


def test_numbers_without_a_logarithm_are_named():
    rows = torch.tensor([[1.0, 2.0], [3.0, -0.5]])
    with pytest.raises(ValueError, match=r"^feature 1 has the value -0\.5, .* leave it out\.$"):
        Flow(Log(), 2).initialize(rows)

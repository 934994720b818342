"""Heavy tails: the map against SciPy, its start from data, and what it learns of a Student-t."""

import numpy as np
import pytest
import scipy.stats
import torch

from diffeo import TailFlow
from diffeo.bijections import TailTransform
from diffeo.bijections.tails import hill


def heavy(seed: int, n: int = 20_000) -> torch.Tensor:
    rows = scipy.stats.t(2).rvs((n, 1), random_state=np.random.default_rng(seed))
    return torch.from_numpy(rows)


def test_the_map_is_the_normal_score_of_its_own_distribution_function():
    link = TailTransform(1).double()
    with torch.no_grad():
        link.raw_weights.copy_(torch.tensor([[0.7], [0.3]], dtype=torch.float64).log())
        link.place.fill_(1.0)
        link.log_scale.fill_(0.5)
    x = torch.linspace(-40, 50, 91, dtype=torch.float64)[:, None]
    y, _ = link(x)
    u = (x.numpy() - 1) / np.exp(0.5)
    a = np.where(u > 0, 0.3, 0.7)
    tail = (1 + a * np.abs(u)) ** (-1 / a) / 2
    truth = np.sign(u) * scipy.stats.norm.isf(tail)
    np.testing.assert_allclose(y.detach().numpy(), truth, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_of_a_million_spreads_come_back(dtype):
    link = TailTransform(1).to(dtype)
    x = torch.tensor([-1e6, -3.0, 0.0, 3.0, 1e6], dtype=dtype)[:, None]
    y, log_det = link(x)
    back, log_back = link.inverse(y)
    torch.testing.assert_close(back, x, rtol=1e-4 if dtype is torch.float32 else 1e-11, atol=1e-12)
    torch.testing.assert_close(log_back, -log_det, rtol=1e-4, atol=1e-4)


def test_hills_estimate_is_the_tail_weight_of_a_power_law():
    u = torch.rand(200_000, 2, generator=torch.Generator().manual_seed(0)).double()
    pareto = u ** -torch.tensor([0.5, 1.5])
    top = pareto.topk(4_001, dim=0).values
    torch.testing.assert_close(hill(top), torch.tensor([0.5, 1.5]).double(), rtol=0.05, atol=0)


def test_extreme_quantiles_of_a_student_t_are_near_the_truth():
    """With 2 degrees of freedom, whose variance is infinite."""
    torch.manual_seed(0)
    flow = TailFlow(1, layers=1).double()
    rows = heavy(0)
    flow.initialize(rows)
    optimizer = torch.optim.Adam(flow.parameters(), 0.005)
    for _ in range(250):
        optimizer.zero_grad()
        (-flow.log_prob(rows).mean()).backward()
        optimizer.step()
    new, t = heavy(1), scipy.stats.t(2)
    with torch.no_grad():
        assert float(flow.log_prob(new).mean()) == pytest.approx(t.logpdf(new).mean(), abs=0.02)
        sample = flow.sample(400_000, generator=torch.Generator().manual_seed(0)).numpy()
    for share in (0.99, 0.999):
        assert np.quantile(sample, share) == pytest.approx(t.ppf(share), rel=0.25)
        assert np.quantile(-sample, share) == pytest.approx(t.ppf(share), rel=0.25)

"""The continuous map against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diffeo.bijections import Continuous
from diffeo.models import ContinuousFlow
from diffeo.networks import MLP


class Linear(nn.Module):
    """The field f(t, x) = A x."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.linears = nn.ModuleList([nn.Linear(*matrix.shape, bias=False, dtype=matrix.dtype)])
        self.linears[0].weight.data.copy_(matrix)

    def linearize(self, x: Tensor, context=None):
        weight = self.linears[0].weight
        rows = x.shape[0]
        return x[:, 1:] @ weight.T, lambda v: (v[..., 1:] @ weight.T).expand(rows, -1, -1)

    def forward(self, x: Tensor, context=None):
        return self.linearize(x)[0]


def problem(features: int = 3):
    source = torch.Generator().manual_seed(0)
    matrix = torch.randn(features, features, generator=source, dtype=torch.float64)
    return matrix, torch.randn(5, features, generator=source, dtype=torch.float64)


@pytest.mark.parametrize("tolerance", [1e-5, 1e-9])
def test_a_linear_field_is_the_exponential_of_its_matrix_to_the_tolerance(tolerance):
    matrix, x = problem()
    link = Continuous(Linear(matrix), tolerance, tolerance)
    y, log_det = link(x)
    close = {"rtol": 100 * tolerance, "atol": 100 * tolerance}
    torch.testing.assert_close(y, x @ torch.linalg.matrix_exp(matrix).T, **close)
    torch.testing.assert_close(log_det, matrix.trace().expand(5), **close)
    torch.testing.assert_close(link.inverse(y)[0], x, **close)
    t = torch.full((5,), 0.3, dtype=torch.float64)
    torch.testing.assert_close(link.velocity(t, x), x @ matrix.T)


def test_the_estimate_of_the_trace_is_unbiased_and_the_same_in_both_directions():
    matrix, x = problem()
    link = Continuous(Linear(matrix), 1e-6, 1e-6, exact_up_to=0)
    y, log_det = link(x)
    torch.testing.assert_close(link.inverse(y)[1], -log_det, rtol=1e-4, atol=1e-4)
    draws = []
    for link.seed in range(200):
        draws.append(link(x)[1].mean())
    draws = torch.stack(draws)
    assert not link.is_exact(3)
    assert draws.std() > 0.1
    assert (draws.mean() - matrix.trace()).abs() < 4 * draws.std() / 200**0.5


def test_the_density_of_a_continuous_flow_sums_to_one():
    torch.manual_seed(0)
    flow = ContinuousFlow(2, hidden=(8,)).double()
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(torch.randn_like(p), alpha=0.5)
    axis = torch.linspace(-12, 12, 121, dtype=torch.float64)
    with torch.no_grad():
        total = flow.eval().log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * 0.2**2
    assert abs(total - 1) < 1e-3


def test_a_row_that_is_not_finite_leaves_the_others():
    matrix, x = problem()
    link = Continuous(Linear(matrix))
    x[1, 0] = torch.inf
    y, log_det = link(x)
    assert y.isfinite().all(1).tolist() == [True, False, True, True, True]
    assert log_det.isfinite().tolist() == [True, False, True, True, True]


def test_a_network_without_its_derivative_is_refused():
    with pytest.raises(ValueError, match="MLP has no `linearize`: take SmoothMLP"):
        Continuous(MLP(3, 2))

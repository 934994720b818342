"""Planar, radial, Sylvester and residual maps, and linear mixing, compared with the truth."""

from __future__ import annotations

import pytest
import torch
from constructors import perturb
from torch import Tensor

from diffeo.bijections import Householder, LULinear, Planar, Radial, Residual, Sylvester
from diffeo.bijections.probes import make_key, signs, uniform
from diffeo.networks import MLP, LipschitzMLP
from diffeo.networks.smooth import spectral_bound


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def ready(link, by: float = 0.5):
    return perturb(link.double(), by).eval()


STEPS = {
    "Planar": lambda: Planar(3),
    "Radial": lambda: Radial(3),
    "Sylvester": lambda: Sylvester(3, 2),
    "LULinear": lambda: LULinear(3),
    "Householder": lambda: Householder(3, 4),
    "Residual": lambda: Residual(LipschitzMLP(3, 3, (16, 16))),
}
every = pytest.mark.parametrize("make", STEPS.values(), ids=STEPS.keys())


@every
def test_a_map_starts_as_the_identity(make):
    x = normal(5, 3)
    y, log_det = make().double()(x)
    torch.testing.assert_close(y, x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_det, torch.zeros(5).double(), rtol=0, atol=1e-6)


@every
@pytest.mark.parametrize("scale", [1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_far_inputs_come_back_with_finite_gradients(make, scale, dtype):
    link = ready(make(), 2.0).to(dtype)
    x = (normal(200, 3) * scale).to(dtype).requires_grad_()
    y, log_det = link(x)
    back, log_det_back = link.inverse(y)
    # In units of the largest feature, whose rounding the others meet.
    torch.testing.assert_close(back / scale, x / scale, rtol=0, atol=1e4 * torch.finfo(dtype).eps)
    (back.sum() + log_det.sum() + log_det_back.sum()).backward()
    gradients = [x.grad, *(p.grad for p in link.parameters())]
    assert all(g is not None and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("along", [-200.0, -5.0, 0.0, 200.0])
@pytest.mark.parametrize("kind", [Planar, Radial])
def test_no_parameter_takes_the_inverse_away(kind, along):
    """Near to the border of what is invertible values agree in the image, where f is flat."""
    link = kind(2).double()
    with torch.no_grad():
        link.start[:2] = torch.tensor([along, 0.0])
        link.start[2:4] = torch.tensor([1.0, 0.0]) if kind is Planar else torch.tensor([3.0, along])
    x = normal(100, 2).requires_grad_()
    y, log_det = link(x)
    back, log_det_back = link.inverse(y)
    torch.testing.assert_close(link(back)[0], y, rtol=1e-9, atol=1e-9)
    (log_det + log_det_back).sum().backward()
    assert log_det.isfinite().all() and x.grad.isfinite().all()


def test_the_planar_map_is_that_of_normflows():
    """Written out from its source: u, w and b as they are there."""
    link, x = ready(Planar(4), 1.0), normal(50, 4)
    u, w, b = link.start.detach().split([4, 4, 1])
    inner = w @ u
    hat = u + (torch.log(1 + torch.exp(inner)) - 1 - inner) * w / torch.sum(w**2)
    linear = (w * x).sum(1, keepdim=True) + b
    expected = x + hat * torch.tanh(linear)
    slope = 1 / torch.cosh(linear) ** 2
    log_det = torch.log(torch.abs(1 + (w @ hat) * slope))[:, 0]
    torch.testing.assert_close(link(x), (expected, log_det), rtol=1e-12, atol=1e-12)


def test_the_radial_map_is_that_of_normflows():
    link, x = ready(Radial(4), 1.0), normal(50, 4)
    center, raw_alpha, beta = link.start.detach().split([4, 1, 1])
    alpha = torch.log(1 + torch.exp(raw_alpha))
    beta = torch.log(1 + torch.exp(beta)) - alpha
    dz = x - center
    r = torch.linalg.vector_norm(dz, dim=1, keepdim=True)
    h = beta / (alpha + r)
    h_ = -beta * r / (alpha + r) ** 2
    log_det = (3 * torch.log(1 + h) + torch.log(1 + h + h_))[:, 0]
    torch.testing.assert_close(link(x), (x + h * dz, log_det), rtol=1e-12, atol=1e-12)


def test_the_sylvester_map_has_orthonormal_directions_and_the_determinant_of_its_lemma():
    link, x = ready(Sylvester(5, 3, 4)), normal(20, 5)
    rows, r1, r2, b = link._parts(x, None)
    torch.testing.assert_close(rows @ rows.mT, torch.eye(3).double()[None], rtol=0, atol=1e-12)
    for matrix in (r1, r2):
        assert not matrix.tril(-1).any()
    q, r1, r2, b = rows[0].T, r1[0], r2[0], b[0]
    a = x @ q @ r2.T + b
    y, log_det = link(x)
    torch.testing.assert_close(y, x + torch.tanh(a) @ r1.T @ q.T)
    for row, one in zip(a, log_det, strict=True):
        jacobian = torch.eye(5).double() + q @ r1 @ torch.diag(1 - row.tanh() ** 2) @ r2 @ q.T
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], one)


def test_the_sylvester_map_refuses_more_directions_than_there_are():
    with pytest.raises(ValueError, match="2 features have no 3 orthogonal directions"):
        Sylvester(2, 3)


def test_linear_mixing_is_the_product_of_its_factors():
    link, x = ready(LULinear(4)), normal(10, 4)
    weight = (torch.eye(4).double() + link.lower.tril(-1)) @ (
        link.upper.triu(1) + torch.diag(link.log_s.exp())
    )
    y, log_det = link(x)
    torch.testing.assert_close(y, x @ weight.T)
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(weight)[1])
    torch.testing.assert_close(link.inverse(x)[0], torch.linalg.solve(weight, x.T).T)


def test_reflections_make_an_orthogonal_matrix_of_their_sign():
    for reflections in (1, 2, 3):
        matrix = ready(Householder(4, reflections))(torch.eye(4).double())[0]
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(4).double())
        torch.testing.assert_close(torch.linalg.det(matrix).item(), (-1.0) ** reflections)


def residual(features: int = 3, context: int = 0, **options) -> Residual:
    torch.manual_seed(0)
    return ready(Residual(LipschitzMLP(features, features, (16, 16), context), **options), 1.0)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (40, 64), (64, 40)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_spectral_bound_is_a_bound_and_near(shape, scale):
    weight = normal(*shape) * scale
    ratio = (spectral_bound(weight) / torch.linalg.matrix_norm(weight, 2)).item()
    assert 1 - 1e-12 < ratio < 1.02
    assert 1 - 1e-5 < spectral_bound(weight.float()).item() / spectral_bound(weight).item() < 1.001
    zero = torch.zeros(shape, requires_grad=True)
    spectral_bound(zero).backward()
    assert zero.grad.isfinite().all()


def test_a_residual_network_is_a_contraction_whatever_its_weights():
    network = residual().network
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(20)
    jacobian = network.linearize(normal(200, 3))[1](torch.eye(3).double()[None]).mT
    norms = torch.linalg.matrix_norm(jacobian, 2)
    assert 0.05 < norms.max() <= network.lipschitz


def test_the_pushed_tangents_are_those_of_autodiff():
    network, x, context = residual(context=2).network, normal(6, 3), normal(6, 2, seed=2)
    pushed = network.linearize(x, context)[1](torch.eye(3).double()[None]).mT
    truth = torch.autograd.functional.jacobian(lambda x: network(x, context), x)
    torch.testing.assert_close(pushed, truth[range(6), :, range(6)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_residual_inverse_has_float_precision(dtype):
    link, x = residual().to(dtype), normal(500, 3).to(dtype)
    with torch.no_grad():
        back = link.inverse(link(x)[0])[0]
    torch.testing.assert_close(back, x, rtol=0, atol=60 * torch.finfo(dtype).eps)


def test_gradients_of_inverses_are_the_numerical_ones():
    for link in (residual(), ready(Planar(3)), ready(Sylvester(3, 2)), ready(Radial(3))):
        y = normal(4, 3).requires_grad_()
        names, weights = zip(*link.named_parameters(), strict=True)

        def function(y: Tensor, *values: Tensor, link=link, names=names):
            given = dict(zip(names, values, strict=True))
            return torch.func.functional_call(Backwards(link), prefixed(given), (y,))

        inputs = (y, *(w.detach().requires_grad_() for w in weights))
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


class Backwards(torch.nn.Module):
    def __init__(self, link) -> None:
        super().__init__()
        self.link = link

    def forward(self, y: Tensor):
        return self.link.inverse(y)


def prefixed(values):
    return {f"link.{name}": value for name, value in values.items()}


def test_the_estimate_of_the_log_determinant_is_unbiased_and_so_are_its_gradients():
    exact, x = residual(4), normal(3, 4)
    estimate = residual(4, exact_up_to=3, terms=1)
    estimate.load_state_dict(exact.state_dict())
    assert exact.is_exact(4) and not estimate.is_exact(4)
    weight = "network.linears.1.weight"

    def results(link):
        log_det = link(x)[1]
        (gradient,) = torch.autograd.grad(log_det.sum(), link.get_parameter(weight))
        return torch.cat((log_det.detach(), gradient.flatten()[:8]))

    truth, draws = results(exact), []
    for seed in range(400):
        estimate.seed = seed
        draws.append(results(estimate))
    draws = torch.stack(draws)
    error = draws.std(0) / len(draws) ** 0.5
    assert (error[:3] < 0.2).all()
    assert ((draws.mean(0) - truth).abs() < 4 * error).all()


def test_the_noise_of_an_estimate_follows_from_seed_weights_and_rows_alone():
    link, x = residual(4, exact_up_to=0), normal(40, 4)
    first = link(x)[1]
    assert torch.equal(first, link(x)[1])
    torch.testing.assert_close(link.inverse(link(x)[0])[1], -first)
    torch.testing.assert_close(link(x[5:7])[1], first[5:7])
    key = make_key(0, link.network.linears[0].weight)
    noise = signs(x, key)
    with torch.no_grad():
        link.network.linears[0].weight[0, 0] += 1e-4
    other = signs(x, make_key(0, link.network.linears[0].weight))
    reseeded = signs(x, make_key(1, link.network.linears[0].weight))
    for a, b in ((noise, other), (other, reseeded), (noise[:20], noise[20:])):
        assert 0.3 < (a == b).double().mean() < 0.7


def test_noise_is_uniform_and_uncorrelated():
    n = 20_000
    x = normal(n, 5)
    noise = signs(x, make_key(0, normal(3)))
    assert (noise.abs() == 1).all()
    assert ((noise.T @ noise / n - torch.eye(5)).abs() < 5 * n**-0.5).all()
    u = torch.stack([uniform(make_key(seed, normal(3))) for seed in range(2000)]).double()
    grid = torch.linspace(0, 1, 2000, dtype=torch.float64)
    assert (u.sort().values - grid).abs().max() < 1.9 * 2000**-0.5  # Kolmogorov and Smirnov


def test_a_network_without_limit_is_refused():
    with pytest.raises(ValueError, match="MLP has no limit of its slope: take LipschitzMLP"):
        Residual(MLP(2, 2))

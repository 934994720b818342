"""A model of angles: its density on the torus, its seam, and what it learns."""

import math

import pytest
import torch
from constructors import perturb

from diffeo import CircularNSF
from diffeo.bijections import CircularSpline, RationalQuadraticSpline
from diffeo.bijections.circular import wrap

PI = math.pi


def torus(side: int) -> torch.Tensor:
    points = (torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 * PI - PI
    return torch.cartesian_prod(points, points)


@pytest.mark.parametrize("context", [0, 2])
def test_its_density_integrates_to_1_on_the_torus(context):
    torch.manual_seed(0)
    flow = perturb(CircularNSF(2, layers=3, hidden=(16,), context=context), 0.1).double().eval()
    points = torus(250)
    given = torch.tensor([[0.5, -1.0]]).double().expand(len(points), 2) if context else None
    with torch.no_grad():
        log_prob = flow.log_prob(points, given)
    assert float(log_prob.std()) > 0.3
    assert float(log_prob.exp().mean()) * (2 * PI) ** 2 == pytest.approx(1, abs=1e-4)


def test_its_density_has_no_seam():
    torch.manual_seed(0)
    flow = perturb(CircularNSF(2, layers=3, hidden=(16,)), 0.2).double().eval()
    points = torus(20)
    for column in range(2):
        low, high, round_again = points.clone(), points.clone(), points.clone()
        low[:, column], high[:, column] = -PI, math.nextafter(PI, 0)
        one, other = flow.log_prob(low), flow.log_prob(high)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
        assert one.std() > 0.1
        round_again[:, column] += 6 * PI
        torch.testing.assert_close(
            flow.log_prob(round_again), flow.log_prob(points), rtol=0, atol=1e-9
        )


def test_it_learns_a_mixture_of_von_mises_distributions():
    """Whose modes lie on the seams, and whose angles depend on each other."""
    torch.manual_seed(0)
    parts = [
        (0.4, torch.distributions.VonMises(torch.tensor([PI, 0.5]), torch.tensor([4.0, 8.0]))),
        (0.6, torch.distributions.VonMises(torch.tensor([0.5, -PI]), torch.tensor([3.0, 4.0]))),
    ]
    rows = torch.cat([part.sample((int(3_000 * weight),)) for weight, part in parts])
    flow = CircularNSF(2, layers=2, hidden=(32,)).initialize(rows)
    optimizer = torch.optim.Adam(flow.parameters(), 0.02)
    for _ in range(80):
        optimizer.zero_grad()
        (-flow.log_prob(rows).mean()).backward()
        optimizer.step()
    points = torus(100).float()
    terms = [math.log(weight) + part.log_prob(points).sum(1) for weight, part in parts]
    truth = torch.stack(terms).logsumexp(0)
    with torch.no_grad():
        gap = (truth.exp() * (truth - flow.eval().log_prob(points))).mean() * (2 * PI) ** 2
        sample = flow.sample(4_000, generator=torch.Generator().manual_seed(0))
    assert 0 < float(gap) < 0.06  # of 1.43 nats that a uniform density has
    assert ((sample >= -PI) & (sample < PI)).all()
    # The first moments of directions.
    for function in (torch.cos, torch.sin):
        expected = (truth.exp()[:, None] * function(points)).mean(0) * (2 * PI) ** 2
        torch.testing.assert_close(function(sample).mean(0), expected, rtol=0, atol=0.06)


def test_degrees_are_angles_of_a_period_of_360():
    torch.manual_seed(0)
    radians = perturb(CircularNSF(2, layers=2, hidden=(8,)), 0.3).double().eval()
    degrees = CircularNSF(2, layers=2, hidden=(8,), period=360.0).double().eval()
    degrees.load_state_dict(radians.state_dict())
    x = torus(10)
    shifted = torch.rad2deg(x) + 360
    expected = radians.log_prob(x) + 2 * math.log(PI / 180)
    torch.testing.assert_close(degrees.log_prob(shifted), expected)
    sample = degrees.float().sample(1_000)
    assert sample.abs().max() > 150
    assert ((sample >= -180) & (sample < 180)).all()
    back = degrees.decode(degrees.encode(sample))
    torch.testing.assert_close(
        wrap(back - sample, -180.0, 360.0), torch.zeros(1_000, 2), atol=1e-2, rtol=0
    )


def test_samples_lie_where_the_data_do():
    rows = torch.rand(2_000, 2) * 360
    rows[:, 1] -= 180
    flow = CircularNSF(2, layers=2, hidden=(8,), period=360.0).initialize(rows)
    sample = flow.sample(2_000)
    assert ((sample[:, 0] >= 0) & (sample[:, 0] < 360)).all()
    assert ((sample[:, 1] >= -180) & (sample[:, 1] < 180)).all()
    torch.testing.assert_close(flow.decode(flow.encode(rows)), rows, rtol=0, atol=1e-3)


def test_degrees_that_are_taken_for_radians_are_refused():
    rows = torch.rand(50, 2) * torch.tensor([1.0, 360.0])
    sentence = r"^feature 1 reaches 3\d\d.*, which is more than one period of 6.28319 .*degrees\.$"
    with pytest.raises(ValueError, match=sentence):
        CircularNSF(2).initialize(rows)
    CircularNSF(2).initialize(torch.rand(50, 2) * 2 * PI)


def test_maps_of_other_intervals_are_refused():
    with pytest.raises(ValueError, match=r"bound of the univariate map is 3, .* leave it out\.$"):
        CircularNSF(2, univariate=CircularSpline(4, bound=3.0))
    with pytest.raises(ValueError, match="univariate"):
        CircularNSF(2, univariate=RationalQuadraticSpline(4, bound=PI))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_wrapped_lies_on_the_circle_and_keeps_its_digits(dtype):
    bound = torch.tensor(PI, dtype=dtype)
    ends = torch.stack((bound, -bound, 3 * bound, -3 * bound, 101 * bound))
    near = [ends]
    for _ in range(3):
        near += [near[-1].nextafter(ends + 1), near[-1].nextafter(ends - 1)]
    x = torch.cat([*near, torch.tensor([-1e-30, 1e6, -1e30], dtype=dtype)])
    y = wrap(x, -PI, 2 * PI)
    assert ((y >= -PI) & (y < PI)).all()
    inside = torch.linspace(-3.1, 3.1, 1_001, dtype=dtype)
    assert torch.equal(wrap(inside, -PI, 2 * PI), inside)
    torch.testing.assert_close(wrap(inside + 4 * PI, -PI, 2 * PI), inside, rtol=0, atol=2e-6)

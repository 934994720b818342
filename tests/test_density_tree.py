"""Densities of pieces: against the truth, with and without values that gather."""

import numpy as np
import pytest
import torch
from scipy import stats

from diffeo.mixed.density_tree import fit_pieces, pieces_gained, tree_density
from diffeo.mixed.inverse import ColumnInverse
from diffeo.mixed.marginal_fit import fit_marginals
from diffeo.schema import NumberColumn

CLUSTERS, CELLS = 40, 200


def gathered(n: int, seed: int) -> torch.Tensor:
    """Values in 40 of 200 cells of [0, 1]; their log-density is log 5."""
    random = np.random.default_rng(seed)
    cell = random.integers(CLUSTERS, size=n) * 7 % CELLS
    return torch.tensor((cell + random.random(n)) / CELLS)


def log_density(ends, below, u):
    place = torch.searchsorted(ends[1:], u)
    return (below.diff() / ends.diff()).log()[place]


def test_a_tree_of_two_cells_has_the_expected_density_of_bayes_rule():
    counts = torch.tensor([3.0, 0.0], dtype=torch.float64)
    # B(3.5, 0.5) / B(0.5, 0.5) = 5/16: the evidence of halves is 2**3 times that.
    divided = 0.5 * 8 * 5 / 16
    share = divided / (divided + 0.5)
    expected = (1 - share) + share * 2 * torch.tensor([3.5 / 4, 0.5 / 4], dtype=torch.float64)
    torch.testing.assert_close(tree_density(counts, counts), expected)


@pytest.mark.parametrize("n", [300, 10_000])
def test_values_that_are_uniform_have_one_piece(n):
    u = torch.rand(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    ends, below = fit_pieces(u, torch.ones_like(u))
    assert ends.tolist() == below.tolist() == [0.0, 1.0]


def test_a_few_uniform_values_lose_next_to_nothing():
    lost, generator = [], torch.Generator().manual_seed(0)
    for _ in range(40):
        u, fresh = (torch.rand(n, generator=generator, dtype=torch.float64) for n in (20, 2_000))
        lost.append(-float(log_density(*fit_pieces(u, torch.ones_like(u)), fresh).mean()))
    assert 0 <= np.mean(lost) < 0.02


def test_values_that_gather_come_close_to_their_density():
    u, fresh = gathered(10_000, 0), gathered(10_000, 1)
    ends, below = fit_pieces(u, torch.ones_like(u))
    assert (ends.diff() > 0).all() and (below.diff() > 0).all()
    found = float(log_density(ends, below, fresh).mean())
    assert np.log(5) - 0.1 < found <= np.log(5)


def test_weights_are_repeated_values():
    u = gathered(300, 2)
    weighted = fit_pieces(u, torch.full_like(u, 2.0))
    repeated = fit_pieces(u.repeat(2), torch.ones_like(u.repeat(2)))
    for one, other in zip(weighted, repeated, strict=True):
        torch.testing.assert_close(one, other)


def test_a_heavy_weight_is_no_cluster():
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(1_000, generator=generator, dtype=torch.float64)
    heavy = torch.ones_like(u)
    heavy[7] = 50.0
    ends, below = fit_pieces(u, heavy)
    assert float((below.diff() / ends.diff()).amax()) < 1.5


def test_what_pieces_gained_is_the_difference_to_fresh_values():
    u, fresh = gathered(1_000, 3), gathered(20_000, 4)
    ends, below = fit_pieces(u, torch.ones_like(u))
    left_out = log_density(ends, below, u) - pieces_gained(u)
    # A fold of five has fewer values to learn from, so it is a little below.
    assert left_out.mean() == pytest.approx(float(log_density(ends, below, fresh).mean()), abs=0.1)


@pytest.mark.parametrize("atoms", [(), (0.0,)])
def test_a_marginal_with_pieces_is_a_density_and_has_an_inverse(atoms):
    x = gathered(2_000, 5) * 30
    if atoms:
        x[:400] = 0.0
    column = NumberColumn("x", atoms=atoms)
    marginals = fit_marginals([column], x[:, None])
    assert marginals.ends.shape[1] > 40
    # The integral of the density, by the middles of narrow cells, and the mass of the atom.
    middles = (torch.arange(-200_000, 1_000_000, dtype=torch.float64) + 0.5) * 5e-5
    log_p, scores = marginals(middles[:, None])
    mass = float(marginals(torch.zeros(1, 1, dtype=torch.float64))[0].exp()) if atoms else 0.0
    assert float(log_p.exp().sum() * 5e-5) + mass == pytest.approx(1, abs=1e-3)
    assert bool((scores.point.diff(dim=0) >= 0).all())
    # The width is the derivative of the score, but where two pieces meet.
    slope = (scores.point[2:] - scores.point[:-2]) / 1e-4
    inside = log_p[1:-1] > -6
    off = (slope.log() - scores.log_width[1:-1]).abs()[inside]
    assert float((off < 1e-3).double().mean()) > 0.95
    fresh = gathered(2_000, 6) * 30
    back = ColumnInverse(marginals.one(0))(marginals(fresh[:, None])[1].point[:, 0])
    torch.testing.assert_close(back, fresh, atol=1e-9, rtol=1e-9)


def test_a_marginal_of_many_rows_has_the_tails_of_its_column():
    random = np.random.default_rng(0)
    truth = stats.t(2)
    x, fresh = truth.rvs(20_000, random_state=random), truth.rvs(20_000, random_state=random)
    marginals = fit_marginals([NumberColumn("x")], torch.tensor(x)[:, None])
    found = marginals(torch.tensor(fresh)[:, None])[0].mean()
    assert float(found) == pytest.approx(truth.logpdf(fresh).mean(), abs=0.03)

"""Mixtures: of Gaussians as a bijection, against scikit-learn, and of flows, against their sum."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.datasets import make_moons
from sklearn.mixture import GaussianMixture
from torch import Generator, Tensor

import diffeo
from diffeo import Chain, Flow, FlowMixture
from diffeo.bases import Normal
from diffeo.bijections import GaussianMixtureMap


def rows(n: int = 600, dims: int = 3) -> Tensor:
    """Three clusters that are stretched, of different sizes and scales."""
    source = Generator().manual_seed(5)
    z = torch.randn(n, dims, generator=source, dtype=torch.float64)
    group = torch.randint(3, (n,), generator=source)
    places = torch.tensor([[0.0] * dims, [4.0] * dims, [-2.0, *[6.0] * (dims - 1)]]).double()
    stretch = torch.randn(3, dims, dims, generator=source).double()
    return places[group] + (z[:, None] @ stretch[group])[:, 0]


def map_of(theirs: GaussianMixture) -> GaussianMixtureMap:
    """The same mixture."""
    ours = GaussianMixtureMap(theirs.means_.shape[1], theirs.n_components).double()
    roots = torch.from_numpy(theirs.precisions_cholesky_).mT
    diagonal = roots.diagonal(dim1=1, dim2=2)
    with torch.no_grad():
        ours.logits.copy_(torch.from_numpy(theirs.weights_).log())
        ours.means.copy_(torch.from_numpy(theirs.means_))
        ours.roots.copy_(roots.tril(-1) + torch.diag_embed(diagonal.log()))
        ours.initialized.fill_(True)
    return ours


@pytest.fixture(scope="module")
def theirs() -> GaussianMixture:
    return GaussianMixture(4, random_state=0).fit(rows().numpy())


# The closed-form map


def test_its_density_is_that_of_scikit_learn(theirs):
    flow = Flow(map_of(theirs), 3).double()
    x = torch.cat((rows(), 20 * torch.randn(200, 3).double()))
    expected = torch.from_numpy(theirs.score_samples(x.numpy()))
    with torch.no_grad():
        torch.testing.assert_close(flow.log_prob(x), expected, rtol=1e-10, atol=1e-10)


def test_draws_become_standard_noise_and_noise_becomes_draws(theirs):
    link = map_of(theirs)
    with torch.no_grad():
        z = link(torch.from_numpy(theirs.sample(20_000)[0]))[0]
        x = link.inverse(torch.randn(20_000, 3, generator=Generator().manual_seed(0)).double())[0]
    for column in z.T:
        assert scipy.stats.kstest(column.numpy(), "norm").pvalue > 1e-3
    assert (z.T.corrcoef() - torch.eye(3)).abs().max() < 0.03
    for ours, column in zip(x.T, theirs.sample(20_000)[0].T, strict=True):
        assert scipy.stats.ks_2samp(ours.numpy(), column).pvalue > 1e-3


def test_one_component_is_whitening():
    link = GaussianMixtureMap(2, 1).double()
    with torch.no_grad():
        link.roots.copy_(torch.tensor([[[0.7, 9.0], [-0.4, -0.2]]], dtype=torch.float64))
        link.means.copy_(torch.tensor([[1.0, -2.0]]))
    x = 1e3 * torch.randn(50, 2).double()
    root = torch.tensor([[np.exp(0.7), 0.0], [-0.4, np.exp(-0.2)]], dtype=torch.float64)
    y, log_det = link(x)
    torch.testing.assert_close(y, (x - link.means) @ root.T, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(log_det, torch.full((50,), 0.5).double(), rtol=0, atol=1e-8)


def test_the_density_integrates_to_one():
    link = GaussianMixtureMap(2, 3).double()
    link.initialize(rows(dims=2))
    line = torch.linspace(-40, 40, 1_601, dtype=torch.float64)
    with torch.no_grad():
        density = Flow(link, 2).log_prob(torch.cartesian_prod(line, line)).exp()
    assert float(density.sum() * (line[1] - line[0]) ** 2) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_points_at_a_million_standard_deviations(theirs, dtype):
    link = map_of(theirs).to(dtype)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3).to(dtype)
    for reach in (1e2, 1e4, 1e6):
        x = (reach * signs).requires_grad_()
        y, log_det = link(x)
        back, there = link.inverse(y)
        total = y.sum() + log_det.sum() + back.sum() + there.sum()
        gradients = torch.autograd.grad(total, [x, *link.parameters()])
        for tensor in (y, log_det, back, there, *gradients):
            assert tensor.isfinite().all()
        # Between far modes y has plateaus, of which any point comes back.
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(link(back)[0], y, rtol=1e3 * eps, atol=0)
        steep = log_det > -5
        assert steep.any()
        torch.testing.assert_close(back[steep], x[steep], rtol=1e4 * eps, atol=0)
        truth = torch.from_numpy(theirs.score_samples(x.detach().double().numpy()))
        ours = (Normal().log_prob(y) + log_det).detach().double()
        torch.testing.assert_close(ours, truth, rtol=1e3 * eps, atol=1e-10)


def test_quantiles_in_the_gap_between_components():
    link = GaussianMixtureMap(1, 2).double()
    with torch.no_grad():
        link.means.copy_(torch.tensor([[-1e5], [1e5]]))
        link.roots.fill_(2.0)
    # Also where the probability is that of one component to the last bit.
    y = torch.linspace(-30, 30, 601, dtype=torch.float64)[:, None]
    x, _ = link.inverse(y)
    again, _ = link(x)
    away = (y.abs() > 1e-6)[:, 0]  # half-way y jumps
    torch.testing.assert_close(again[away], y[away], rtol=1e-6, atol=1e-6)
    assert (x.diff(dim=0) >= 0).all()


def test_it_starts_by_expectation_maximization():
    x = rows(2_000)
    for components in (1, 3, 6):
        flow = Flow(GaussianMixtureMap(3, components, ridge=0.0), 3).double().initialize(x)
        best = GaussianMixture(components, n_init=3, random_state=0).fit(x.numpy())
        assert flow.log_prob(x).mean().item() > best.score(x.numpy()) - 0.02
    again = Flow(GaussianMixtureMap(3, 6, ridge=0.0), 3).double().initialize(x)
    assert torch.equal(again.log_prob(x), flow.log_prob(x))
    # Of units that differ, with far values, and in single precision.
    units = torch.tensor([1e-3, 1.0, 1e5])
    spoilt = (x * units).float()
    spoilt[:4] = 1e9
    wide = Flow(GaussianMixtureMap(3, 3), 3).initialize(spoilt)
    narrow = Flow(GaussianMixtureMap(3, 3), 3).initialize(x[4:].float())
    shift = narrow.log_prob(x[4:].float()) - wide.log_prob(spoilt[4:])
    torch.testing.assert_close(shift.mean(), units.log().sum(), rtol=0, atol=0.05)


def test_more_components_than_rows_are_regular():
    x = torch.randn(5, 2)
    flow = Flow(GaussianMixtureMap(2, 8), 2).initialize(x)
    assert flow.log_prob(x).isfinite().all()
    assert flow.sample(100).isfinite().all()


def test_data_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="at least 2 rows"):
        GaussianMixtureMap(2).initialize(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="feature 1 is constant"):
        GaussianMixtureMap(2).initialize(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))


def test_gradients_train_it_and_couplings_follow_it(tmp_path):
    x = moons(2_000)
    flow = Flow(Chain(GaussianMixtureMap(2, 5), diffeo.RealNVP(2, 2, (16,)).bijection), 2)
    flow.initialize(x)
    before = -flow.log_prob(x).mean().item()
    adam = torch.optim.Adam(flow.parameters(), lr=5e-3)
    for _ in range(60):
        adam.zero_grad()
        loss = -flow.log_prob(x).mean()
        loss.backward()
        adam.step()
    assert loss.item() < before - 0.02
    flow.save_pretrained(tmp_path)
    loaded = diffeo.load(tmp_path)
    assert torch.equal(loaded.log_prob(x), flow.eval().log_prob(x))


def moons(n: int) -> Tensor:
    return torch.from_numpy(make_moons(n, noise=0.1, random_state=0)[0]).float()


# Mixtures of flows


def gaussian(mean: float, context: int = 0) -> Flow:
    """N(mean, 1) in two dimensions; with a context, something near."""
    flow = diffeo.RealNVP(2, 1, (4,), context=context or None).double().eval()
    flow.bijection[0].mean.fill_(mean)
    with torch.no_grad():
        for weight in flow.parameters():
            weight.add_(0.1 * torch.randn_like(weight) * bool(context))
    return flow


def test_the_density_of_flows_is_the_sum_of_theirs():
    flows, w = [gaussian(m, 1) for m in (-1.0, 0.0, 2.0)], torch.tensor([0.2, 0.5, 0.3]).double()
    mixture = FlowMixture(*flows, weights=[2, 5, 3]).double()
    x, context = torch.randn(50, 2).double(), torch.randn(50, 1).double()
    direct = sum(p * f.log_prob(x, context).exp() for p, f in zip(w, flows, strict=True)).log()
    torch.testing.assert_close(mixture.log_prob(x, context), direct, rtol=1e-7, atol=1e-7)
    far = 1e4 * torch.ones(1, 2).double()
    assert mixture.log_prob(far, context[:1]).isfinite().all()
    mixture.log_prob(x, context).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in mixture.parameters())


def test_members_are_drawn_by_weight_and_with_their_context():
    mixture = FlowMixture(gaussian(-20.0), gaussian(20.0), weights=[1, 3]).double()
    x = mixture.sample(4_000, generator=Generator().manual_seed(0))
    assert (x[:, 0] > 0).double().mean().item() == pytest.approx(0.75, abs=0.03)
    # No member's draws stand in a block.
    assert 1_000 < (x[1:, 0] * x[:-1, 0] < 0).sum() < 2_000
    again = mixture.sample(4_000, generator=Generator().manual_seed(0))
    assert torch.equal(x, again)
    assert mixture.sample(0).shape == (0, 2)
    conditional = FlowMixture(gaussian(0.0, 1), gaussian(0.0, 1)).double()
    context = torch.linspace(-1e4, 1e4, 500).double()[:, None]
    y = conditional.sample(500, context, temperature=0.0)
    expected = torch.stack([f.sample(500, context, temperature=0.0) for f in conditional.flows])
    assert ((y - expected).abs().amin(0) < 1e-9).all()


def test_stacking_finds_the_weights_of_the_data():
    flows = gaussian(-2.0), gaussian(0.0), gaussian(2.0)
    truth = FlowMixture(*flows, weights=[0.1, 0.6, 0.3]).double()
    x = truth.sample(20_000, generator=Generator().manual_seed(1))
    stacked = FlowMixture(*flows).double()
    before = stacked.log_prob(x).mean()
    assert stacked.stack(x) is stacked
    torch.testing.assert_close(stacked.weights, truth.weights, rtol=0, atol=0.02)
    assert stacked.log_prob(x).mean() > before
    # It is the most likely of all weights.
    for shift in (torch.tensor([0.1, 0.0, 0.0]), torch.tensor([0.0, -0.1, 0.0])):
        other = FlowMixture(*flows).double()
        with torch.no_grad():
            other.logits.copy_(stacked.logits + shift)
        assert other.log_prob(x).mean() < stacked.log_prob(x).mean()
    # A flow that helps no event gets a weight of nothing, which is finite.
    useless = FlowMixture(flows[1], gaussian(1e5)).double().stack(flows[1].sample(500))
    assert useless.weights[1] < 1e-20
    assert useless.logits.isfinite().all()
    with pytest.raises(ValueError, match="no event has a density"):
        stacked.stack(torch.full((3, 2), torch.inf).double())


def test_a_mixture_of_flows_is_saved_and_loaded(tmp_path):
    mixture = FlowMixture(diffeo.RealNVP(2, 2, (8,)), diffeo.NICE(2, 2, (8,)), weights=[1, 2])
    x = torch.randn(20, 2)
    mixture.eval().stack(x).metadata = {"columns": ["a", "b"]}
    mixture.save_pretrained(tmp_path)
    loaded = FlowMixture.from_pretrained(tmp_path)
    assert [type(flow).__name__ for flow in loaded.flows] == ["RealNVP", "NICE"]
    assert torch.equal(loaded.log_prob(x), mixture.log_prob(x))
    assert loaded.metadata == mixture.metadata
    assert not loaded.training
    assert torch.equal(diffeo.load(tmp_path).log_prob(x), mixture.log_prob(x))
    with pytest.raises(ValueError, match="holds a FlowMixture, which is no Flow"):
        diffeo.Flow.from_pretrained(tmp_path)


def test_flows_that_do_not_fit_are_refused():
    for flows, weights, words in (
        ((), None, "no flows"),
        ((gaussian(0.0), diffeo.RealNVP(3)), None, "flows of shape"),
        ((gaussian(0.0), gaussian(0.0, 1)), None, "flows of context"),
        ((gaussian(0.0),), [0.0], "not all of them 0"),
        ((gaussian(0.0),), [1.0, 2.0], "give 1"),
    ):
        with pytest.raises(ValueError, match=words):
            FlowMixture(*flows, weights=weights)

"""A flow as one of PyTorch's distributions, and of Pyro's."""

import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from constructors import perturb
from torch.distributions import (
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    constraints,
    kl_divergence,
)
from torch.distributions.categorical import Categorical
from torch.distributions.transforms import ExpTransform

import diffeo
from diffeo.bases import StudentT
from diffeo.bijections import Chain, Scale, Standardize
from diffeo.context import ContextSpec
from diffeo.distribution import FlowDistribution, monte_carlo_kl

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(autouse=True)
def validation():
    """As users have it: torch.compile turns the checks of all distributions off for good."""
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(True)
    yield
    torch.distributions.Distribution.set_default_validate_args(before)


@pytest.fixture
def flow():
    """A conditional one of two columns, in float64, whose context matters."""
    made = diffeo.RealNVP(2, layers=4, hidden=(8,), context=3)
    made.initialize(torch.randn(50, 2) * 2 + 1, torch.randn(50, 3))
    return perturb(made, 0.2).double().eval()


@pytest.fixture
def plain():
    made = diffeo.RealNVP(2, layers=4, hidden=(8,)).initialize(torch.randn(50, 2) * 2 + 1)
    return perturb(made).double().eval()


def gaussian(mean, scale):
    """The flow of a Gaussian, `mean + scale * z`."""
    flow = diffeo.Flow(Chain(Standardize(2), Scale(2)), 2).double()
    flow.bijection[0].mean.copy_(torch.tensor(mean))
    flow.bijection[0].std.copy_(torch.tensor(scale))
    flow.bijection[0].initialized.fill_(True)
    return flow.eval()


def contexts(*shape):
    return torch.randn(*shape, 3, dtype=torch.float64)


# Shapes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (1,), (5,), (4, 5)])
@pytest.mark.parametrize("sample", [(), (1,), (7,), (2, 3), (0,)])
def test_the_shapes_are_those_of_a_normal(flow, batch, sample):
    ours = flow.distribution(contexts(*batch))
    theirs = Independent(Normal(torch.zeros(*batch, 2), 1.0), 1)
    assert ours.batch_shape == theirs.batch_shape
    assert ours.event_shape == theirs.event_shape == (2,)
    x = ours.sample(sample)
    assert x.shape == theirs.sample(sample).shape
    assert ours.rsample(torch.Size(sample)).shape == x.shape
    if x.numel():  # PyTorch's own check of a support cannot be asked about nothing
        assert ours.log_prob(x).shape == theirs.log_prob(x.float()).shape
    assert x.dtype == torch.float64


@pytest.mark.parametrize("values", [(), (1,), (5,), (4, 1), (6, 4, 5), (6, 1, 5)])
@pytest.mark.parametrize("batch", [(), (1,), (5,), (4, 5)])
def test_log_prob_broadcasts_rows_as_the_flow_scores_them(flow, values, batch):
    context, x = contexts(*batch), torch.randn(*values, 2, dtype=torch.float64)
    shape = torch.broadcast_shapes(values, batch)
    got = flow.distribution(context).log_prob(x)
    assert got.shape == shape
    x, context = x.expand(*shape, 2), context.expand(*shape, 3)
    for index in [(0,) * len(shape), tuple(n - 1 for n in shape)]:
        row = flow.log_prob(x[index][None], context[index][None])[0]
        torch.testing.assert_close(got[index], row)


def test_a_draw_follows_the_context_of_its_place(flow):
    context = contexts(4)
    torch.manual_seed(1)
    drawn = flow.distribution(context).sample((3,))
    torch.manual_seed(1)
    z = flow.noise(12)
    torch.testing.assert_close(drawn.reshape(12, 2), flow.decode(z, context.repeat(3, 1)).detach())


def test_expand_repeats_and_copies_nothing(flow, plain):
    narrow = flow.distribution(contexts(1))
    wide = narrow.expand((6, 4))
    assert wide.batch_shape == (6, 4)
    assert wide.event_shape == (2,)
    assert wide._validate_args
    assert wide.context.data_ptr() == narrow.context.data_ptr()
    x = torch.randn(6, 4, 2, dtype=torch.float64)
    torch.testing.assert_close(wide.log_prob(x), narrow.log_prob(x))
    assert wide.rsample((2,)).shape == (2, 6, 4, 2)
    without = plain.distribution().expand([3])
    assert without.batch_shape == (3,)
    assert without.sample().shape == (3, 2)
    assert without.log_prob(x[0, 0]).shape == (3,)
    with pytest.raises(RuntimeError, match="expand"):
        without.expand((4,))
    assert flow.distribution(contexts(1), validate_args=False).expand((2,))._validate_args is False


def test_classes_are_contexts_too():
    glow = diffeo.Glow(
        (1, 4, 4), levels=1, steps=1, hidden_channels=4, context=ContextSpec.classes(3)
    )
    x = torch.randint(256, (6, 1, 4, 4), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    glow = perturb(glow.initialize(x, labels), 0.05).eval()
    for classes in (labels, labels.reshape(2, 3)):
        ours = glow.distribution(classes)
        assert ours.batch_shape == classes.shape
        assert ours.sample((4,)).shape == (4, *classes.shape, 1, 4, 4)
    torch.manual_seed(3)
    got = glow.distribution(labels).log_prob(x)
    torch.manual_seed(3)
    assert torch.equal(got, glow.log_prob(x, labels))
    assert glow.distribution(torch.tensor(2)).batch_shape == ()
    with pytest.raises(ValueError, match="from 0 to 2"):
        glow.distribution(torch.tensor([3]))


# Density, draws and their gradients ---------------------------------------------------------------


def test_the_density_integrates_to_one(flow):
    ours = flow.distribution(contexts(2))
    edge = torch.linspace(-30, 30, 700, dtype=torch.float64)
    grid = torch.cartesian_prod(edge, edge)
    with torch.no_grad():
        mass = ours.log_prob(grid[:, None]).exp().sum(0) * (edge[1] - edge[0]) ** 2
    torch.testing.assert_close(mass, torch.ones(2, dtype=torch.float64), atol=2e-3, rtol=0)


def test_a_gaussian_flow_is_the_gaussian():
    ours = gaussian([1.0, -2.0], [0.5, 3.0]).distribution()
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    theirs = Independent(Normal(mean.double(), std.double()), 1)
    x = theirs.sample((50,))
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    drawn = ours.sample((20_000,))
    torch.testing.assert_close(drawn.mean(0), mean.double(), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std(0), std.double(), atol=0, rtol=0.03)


def test_gradients_of_draws_reach_weights_and_context(flow):
    context = contexts(4).requires_grad_()
    weight = next(p for p in flow.parameters() if p.requires_grad)

    def mean_square(seed):
        torch.manual_seed(seed)
        return flow.distribution(context).rsample((5,)).square().mean()

    by_context, by_weight = torch.autograd.grad(mean_square(0), (context, weight))
    step = 1e-6
    with torch.no_grad():
        for tensor, gradient in ((context, by_context), (weight, by_weight)):
            flat, index = tensor.view(-1), int(gradient.abs().argmax())
            flat[index] += step
            above = mean_square(0)
            flat[index] -= 2 * step
            below = mean_square(0)
            flat[index] += step
            numeric = (above - below) / (2 * step)
            assert abs(gradient.reshape(-1)[index]) > 1e-3
            torch.testing.assert_close(gradient.reshape(-1)[index], numeric, rtol=1e-5, atol=1e-8)
    assert not flow.distribution(context).sample().requires_grad


def test_gradients_of_log_prob_reach_the_context(flow):
    context = contexts(4).requires_grad_()
    x = torch.randn(4, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda c: flow.distribution(c).log_prob(x), context)


# What PyTorch asks of all of them -----------------------------------------------------------------


def test_support_and_validation(flow, plain):
    ours = flow.distribution(contexts(5))
    assert ours.has_rsample
    assert constraints.is_dependent(FlowDistribution.support)
    assert ours.support.event_dim == 1
    assert not ours.support.is_discrete
    bad = torch.tensor([math.nan, 0.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="support"):
        ours.log_prob(bad)
    with pytest.raises(ValueError, match="event_shape"):
        ours.log_prob(torch.zeros(5, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="broadcastable"):
        ours.log_prob(torch.zeros(4, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="context"):
        flow.distribution(bad[:1].expand(3))
    assert flow.distribution(bad[:1].expand(3), validate_args=False).log_prob(bad).isnan()
    for moment in ("mean", "variance", "stddev", "mode"):
        with pytest.raises(NotImplementedError):
            getattr(ours, moment)
    with pytest.raises(NotImplementedError):
        ours.entropy()


def test_contexts_that_do_not_fit_are_refused(flow, plain):
    with pytest.raises(ValueError, match=r"context of shape \(\.\.\., 3\), got None"):
        flow.distribution()
    with pytest.raises(ValueError, match=r"got \(5, 2\)"):
        flow.distribution(torch.zeros(5, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="leave it out"):
        plain.distribution(contexts(2))


def test_images_are_whole_numbers_without_gradients():
    x = torch.randint(256, (16, 1, 4, 4), dtype=torch.uint8)
    glow = diffeo.Glow((1, 4, 4), levels=1, steps=1, hidden_channels=4).initialize(x).eval()
    ours = glow.distribution()
    assert not ours.has_rsample
    assert ours.support.is_discrete
    assert ours.support.event_dim == 3
    assert ours.support.check(x).all()
    assert not ours.support.check(x + 0.5).any()
    assert not ours.support.check(torch.full((1, 4, 4), 256)).any()
    assert ours.sample((3,)).dtype == torch.uint8
    assert ours.log_prob(x).shape == (16,)
    with pytest.raises(NotImplementedError, match="sample"):
        ours.rsample()
    with pytest.raises(NotImplementedError, match="dequantizes"):
        kl_divergence(ours, ours)


def test_a_dequantized_table_draws_from_its_grid():
    rows = torch.stack((torch.randn(100), torch.randint(5, (100,)).float()), dim=1)
    flow = diffeo.RealNVP(2, layers=2, steps=[0.0, 1.0]).initialize(rows).eval()
    ours = flow.distribution()
    assert not ours.has_rsample
    drawn = ours.sample((50,))
    assert torch.equal(drawn[:, 1], drawn[:, 1].round())


def test_it_is_pickled(flow):
    ours = flow.distribution(contexts(3)).expand((2, 3))
    again = pickle.loads(pickle.dumps(ours))
    x = torch.zeros(2, dtype=torch.float64)
    assert torch.equal(again.log_prob(x), ours.log_prob(x))


# Among other distributions ------------------------------------------------------------------------


def test_a_transformed_flow_has_the_density_of_its_transform(flow):
    """Of exp(x): that of x over x's image, as the change of variables says."""
    base = flow.distribution(contexts(3))
    ours = TransformedDistribution(base, ExpTransform())
    y = torch.rand(4, 3, 2, dtype=torch.float64) + 0.5
    torch.testing.assert_close(ours.log_prob(y), base.log_prob(y.log()) - y.log().sum(-1))
    assert ours.rsample((4,)).shape == (4, 3, 2)
    assert (ours.rsample((4,)) > 0).all()
    assert ours.expand((2, 3)).batch_shape == (2, 3)


def test_independent_flows_add_up(flow):
    base = flow.distribution(contexts(4, 3))
    ours = Independent(base, 1)
    assert (ours.batch_shape, ours.event_shape) == ((4,), (3, 2))
    x = ours.rsample((5,))
    torch.testing.assert_close(ours.log_prob(x), base.log_prob(x).sum(-1))
    assert ours.has_rsample


def test_mixtures_of_flows(flow):
    base = flow.distribution(contexts(3))
    mixture = MixtureSameFamily(Categorical(torch.tensor([0.2, 0.3, 0.5]).double()), base)
    x = torch.randn(7, 2, dtype=torch.float64)
    weighted = base.log_prob(x[:, None]) + torch.tensor([0.2, 0.3, 0.5]).double().log()
    torch.testing.assert_close(mixture.log_prob(x), weighted.logsumexp(1))


def test_divergences_of_gaussians_are_the_known_ones():
    mean, std = torch.tensor([1.0, -1.0]).double(), torch.tensor([0.5, 1.5]).double()
    ours = gaussian(mean.tolist(), std.tolist()).distribution()
    theirs = Independent(Normal(mean, std), 1)
    cov = torch.tensor([[1.0, 0.4], [0.4, 2.0]]).double()
    other = MultivariateNormal(torch.zeros(2).double(), cov)
    dense = MultivariateNormal(mean, torch.diag(std**2))
    # Five standard errors of 1,000 draws of a term whose spread is about 1.3.
    for p, q, truth in (
        (ours, other, kl_divergence(dense, other)),
        (other, ours, kl_divergence(other, dense)),
        (ours, gaussian([0.0, 0.0], [1.0, 1.0]).distribution(), kl_divergence(
            theirs, Independent(Normal(torch.zeros(2).double(), 1.0), 1))),
    ):  # fmt: skip
        terms = p.log_prob(x := p.sample((20_000,))) - q.log_prob(x)
        assert abs(kl_divergence(p, q) - truth) < 5 * float(terms.std()) / math.sqrt(1_000)
        near = monte_carlo_kl(p, q, 20_000)
        assert abs(near - truth) < 5 * float(terms.std()) / math.sqrt(20_000)
    assert kl_divergence(ours, ours) == 0


def test_divergences_take_every_batch_shape(flow, plain):
    few, many = flow.distribution(contexts(3)), flow.distribution(contexts(4, 1))
    x = Independent(Normal(torch.zeros(3, 2).double(), 1.0), 1)
    assert kl_divergence(few, many).shape == (4, 3)
    assert kl_divergence(plain.distribution(), few).shape == (3,)
    assert kl_divergence(few, plain.distribution()).shape == (3,)
    assert kl_divergence(x, plain.distribution()).shape == (3,)
    assert kl_divergence(Independent(few, 1), Independent(few, 1)) == 0
    # Each draw meets the q of its own place.
    torch.manual_seed(1)
    one = monte_carlo_kl(plain.distribution(), few, 50)
    for context, divergence in zip(few.context, one, strict=True):
        torch.manual_seed(1)
        alone = monte_carlo_kl(plain.distribution(), flow.distribution(context), 50)
        torch.testing.assert_close(divergence, alone)
    with pytest.raises(ValueError, match="samples is 0"):
        monte_carlo_kl(few, few, 0)
    with pytest.raises(ValueError, match="same"):
        monte_carlo_kl(few, Normal(0.0, 1.0))


class Scored(Normal):
    """A normal distribution without reparametrization."""

    has_rsample = False


@pytest.mark.parametrize("kind", [Normal, Scored])
def test_gradients_of_a_divergence_are_the_known_ones(kind):
    """d KL(N(m, s) | N(0, 1)) / dm = m and d/ds = s - 1/s, by draws or by the score."""
    mean = torch.tensor([0.7, -0.3], dtype=torch.float64, requires_grad=True)
    std = torch.tensor([0.6, 1.4], dtype=torch.float64, requires_grad=True)
    standard = gaussian([0.0, 0.0], [1.0, 1.0]).distribution()
    estimate = monte_carlo_kl(Independent(kind(mean, std), 1), standard, 100_000)
    by_mean, by_std = torch.autograd.grad(estimate, (mean, std))
    torch.testing.assert_close(by_mean, mean.detach(), atol=0.03, rtol=0)
    torch.testing.assert_close(by_std, (std - 1 / std).detach(), atol=0.05, rtol=0)


def test_a_flow_learns_a_density_by_its_divergence():
    """Variational inference without Pyro: KL(flow | target) falls to nearly nothing."""
    cov = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
    target = MultivariateNormal(torch.tensor([1.0, -1.0]), cov)
    flow = diffeo.RealNVP(2, layers=4, hidden=(16,))
    flow.initialize(torch.randn(200, 2))
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.02)
    assert monte_carlo_kl(flow.distribution(), target, 10_000) > 1
    for _ in range(150):
        optimizer.zero_grad()
        monte_carlo_kl(flow.distribution(), target, 128).backward()
        optimizer.step()
    assert monte_carlo_kl(flow.distribution(), target, 10_000) < 0.1


# Pyro ---------------------------------------------------------------------------------------------


@pytest.fixture
def pyro():
    pyro = pytest.importorskip("pyro", reason="needs Pyro: pip install 'diffeo[pyro]'")
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield pyro
    pyro.clear_param_store()


def test_diffeo_needs_no_pyro():
    code = (
        "import sys, diffeo; d = diffeo.RealNVP(2).distribution()\n"
        "assert type(d).__name__ == 'FlowDistribution', type(d); assert 'pyro' not in sys.modules"
    )
    env = os.environ | {"PYTHONPATH": str(Path(diffeo.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


def test_pyro_gets_one_of_its_own(pyro, flow):
    from diffeo.distribution import PyroFlowDistribution

    ours = flow.distribution(contexts(3))
    assert type(ours) is PyroFlowDistribution
    assert ours().shape == (3, 2)
    assert ours.to_event(1).event_shape == (3, 2)
    assert ours.expand((4, 3)).mask(False).log_prob(ours.sample()).abs().sum() == 0
    assert type(pickle.loads(pickle.dumps(ours))) is PyroFlowDistribution
    with pytest.raises(AttributeError, match="no attribute"):
        diffeo.distribution.nothing  # noqa: B018


def test_a_flow_is_a_guide(pyro):
    """Of a linear-Gaussian model, whose posterior and evidence are known."""
    from pyro.infer import SVI, Trace_ELBO

    # theta ~ N(0, 1), x | theta ~ N(A theta, 1/4)
    a, x, noise = torch.tensor([[1.0, 0.5], [0.0, 1.0]]), torch.tensor([1.0, -0.5]), 0.5
    precision = torch.eye(2) + a.T @ a / noise**2
    mean = torch.linalg.solve(precision, a.T @ x / noise**2)
    evidence = MultivariateNormal(torch.zeros(2), a @ a.T + noise**2 * torch.eye(2)).log_prob(x)
    flow = diffeo.RealNVP(2, layers=4, hidden=(16,))
    flow.initialize(torch.randn(200, 2))

    def model():
        theta = pyro.sample("theta", pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", pyro.distributions.Normal(theta @ a.T, noise).to_event(1), obs=x)

    def guide():
        pyro.module("flow", flow)
        pyro.sample("theta", flow.distribution())

    elbo = Trace_ELBO(num_particles=64, vectorize_particles=True)
    svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.985}), elbo)
    for _ in range(200):
        svi.step()
    flow.eval()
    exact = MultivariateNormal(mean, precision_matrix=precision)
    assert kl_divergence(flow.distribution(), exact) < 0.02
    # The bound is the evidence less that divergence.
    bounds = [-svi.evaluate_loss() for _ in range(20)]
    assert abs(sum(bounds) / 20 - float(evidence)) < 0.05


GUIDES = {
    "IAF": lambda: diffeo.IAF(2, layers=2, hidden=(16,)),
    "MAF": lambda: diffeo.MAF(2, layers=2, hidden=(16,)),
    "NSF": lambda: diffeo.NSF(2, layers=2, hidden=(16,)),
    "NAF": lambda: diffeo.NAF(2, layers=1, hidden=(16,)),
    "CouplingNSF": lambda: diffeo.CouplingNSF(2, layers=4, hidden=(16,)),
    "TableFlow": lambda: diffeo.TableFlow(2, layers=2, hidden=(16,)),
    "TailFlow": lambda: diffeo.TailFlow(2),
    "SylvesterFlow": lambda: diffeo.SylvesterFlow(2, layers=2),
    "PlanarFlow": lambda: diffeo.PlanarFlow(2, layers=4),
    "ResidualFlow": lambda: diffeo.ResidualFlow(2, layers=2),
    "a base of heavy tails": lambda: diffeo.RealNVP(2, layers=2, base=StudentT(5.0)),
}


@pytest.mark.parametrize("name", GUIDES)
def test_all_families_are_guides(name, pyro):
    """Pyro scores the draws of a trace as the flow does, and its gradient reaches the weights."""
    from pyro import poutine
    from pyro.infer import SVI, Trace_ELBO

    flow = perturb(GUIDES[name]().initialize(torch.randn(50, 2) * 2 + 1), 0.05)

    def model():
        pyro.sample("theta", pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1))

    def guide():
        pyro.module("flow", flow)
        return pyro.sample("theta", flow.distribution())

    trace = poutine.trace(guide).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["theta"]
    expected = flow.log_prob(site["value"][None])[0]
    torch.testing.assert_close(site["log_prob"], expected, rtol=1e-3, atol=1e-3)
    elbo = Trace_ELBO(num_particles=32, vectorize_particles=True)
    before = {key: value.clone() for key, value in flow.named_parameters()}
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
    losses = [svi.step() for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])
    moved = [key for key, value in flow.named_parameters() if not torch.equal(value, before[key])]
    assert len(moved) == len(before)


def test_a_flow_is_a_likelihood(pyro):
    """Its trace scores what is observed as the flow does, and a chain finds the known posterior."""
    from pyro.infer import MCMC, NUTS

    # x | theta ~ N(theta, 1), as the flow of a table standardized by its context: x - theta.
    class Shifted(diffeo.Bijection):
        def forward(self, x, context=None):
            return x - context, x.new_zeros(x.shape[0])

        def inverse(self, y, context=None):
            return y + context, y.new_zeros(y.shape[0])

    flow = diffeo.Flow(Shifted(), 2, context=2)
    flow.register_buffer("like", torch.zeros(()))
    x = torch.tensor([[1.0, 0.0], [2.0, 1.0], [3.0, -1.0]])

    def model():
        theta = pyro.sample("theta", pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", 3):
            pyro.sample("x", flow.distribution(theta), obs=x)
        return theta

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    theta = trace.nodes["theta"]["value"]
    known = Normal(theta, 1.0).log_prob(x).sum()
    torch.testing.assert_close(trace.nodes["x"]["log_prob_sum"], known)
    chain = MCMC(NUTS(model), num_samples=200, warmup_steps=50, disable_progbar=True)
    chain.run()
    drawn = chain.get_samples()["theta"]
    # Posterior of a mean of three with a prior of one: N(sum / 4, 1 / 4).
    torch.testing.assert_close(drawn.mean(0), x.sum(0) / 4, atol=0.15, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.tensor([0.5, 0.5]), atol=0.12, rtol=0)


# The example --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def posterior():
    """The example, and what it learned in a third of its steps."""
    pyro = pytest.importorskip("pyro", reason="needs Pyro: pip install 'diffeo[pyro]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        import posterior
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    town = posterior.Epidemics(256)
    town.learn(500)
    yield posterior, town
    pyro.clear_param_store()


def test_the_posterior_is_calibrated(posterior, tmp_path):
    example, town = posterior
    ranked = example.ranks(town, 1_000)
    assert ranked.shape == (1_000, 2)
    assert example.counts(ranked).sum(1).tolist() == [1_000, 1_000]
    assert min(example.uniform(ranked)) > 1e-3
    example.draw(ranked, tmp_path / "ranks.png")
    assert (tmp_path / "ranks.png").stat().st_size > 10_000


@pytest.mark.parametrize("width", [0.7, 1.4])
def test_a_posterior_of_the_wrong_width_is_found_out(posterior, width):
    example, town = posterior
    assert max(example.uniform(example.ranks(town, 1_000, width=width))) < 1e-4


def test_ranks_of_the_truth_itself_are_uniform(posterior):
    example, _ = posterior
    assert min(example.uniform(torch.randint(100, (2_000, 2)))) > 1e-3
    ends = example.counts(torch.tensor([[0, 99]] * 4 + [[4, 95]]))
    assert ends[0].tolist() == [5] + [0] * 19
    assert ends[1].tolist() == [0] * 19 + [5]


def test_the_posterior_is_near_that_of_a_grid(posterior):
    """The example's likelihood is known: here it is summed over all parameters."""
    example, town = posterior
    _, tests = example.simulate(20)
    middle, spread = example.PRIOR
    axes = torch.linspace(-4, 4, 200)[:, None] * spread + middle
    grid = torch.cartesian_prod(*axes.unbind(1))
    prior = Normal(middle, spread).log_prob(grid).sum(1)
    shares = example.infected(grid)
    log_likelihood = tests @ shares.log().T + (100 - tests) @ (-shares).log1p().T
    weights = (prior + log_likelihood).softmax(1)
    mean = weights @ grid
    std = (weights @ grid.square() - mean.square()).sqrt()
    drawn = town.posterior(tests).sample((4_000,))
    assert ((drawn.mean(0) - mean) / std).abs().mean() < 0.4
    assert (drawn.std(0) / std).log().abs().mean() < 0.25

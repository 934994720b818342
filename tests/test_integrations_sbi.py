"""sbi trains and samples flows: against closed forms, and by its own calibration checks."""

import copy
import pickle

import pytest
import torch
from constructors import perturb
from torch import nn
from torch.distributions import MultivariateNormal, Uniform
from torch.func import jacrev

import diffeo

pytest.importorskip("sbi", reason="needs sbi: pip install 'diffeo[sbi]'")

from sbi.diagnostics import check_sbc, run_sbc
from sbi.inference import NLE, NPE, NRE_A, NRE_B
from sbi.utils import BoxUniform

from diffeo.integrations.sbi import likelihood_estimator, posterior_estimator, ratio_estimator

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
]

MAF = {"flow": diffeo.MAF, "layers": 2, "hidden": (32,)}
TRAINING = {"learning_rate": 5e-3, "training_batch_size": 100, "max_num_epochs": 40}
PRIOR = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.3], [0.3, 0.5]]))
MAP = torch.tensor([[1.0, 0.0], [0.5, -1.0], [0.2, 0.4]])
NOISE = 0.3 * torch.eye(3)


def linear(theta):
    """The linear Gaussian simulator, `MAP theta + noise`."""
    return MultivariateNormal(theta @ MAP.T, NOISE).sample()


def posterior_of(x):
    """Its posterior, in closed form."""
    precision = PRIOR.precision_matrix + MAP.T @ NOISE.inverse() @ MAP
    return MultivariateNormal(
        x @ (NOISE.inverse() @ MAP @ precision.inverse()), precision.inverse()
    )


@pytest.fixture
def simulations():
    theta = PRIOR.sample((1_500,))
    return theta, linear(theta)


def test_npe_finds_the_posterior_of_a_linear_gaussian(simulations):
    inference = NPE(PRIOR, density_estimator=posterior_estimator(**MAF), show_progress_bars=False)
    inference.append_simulations(*simulations).train(**TRAINING)
    posterior = inference.build_posterior()
    means, covariances, gaps = [], [], []
    for x in linear(PRIOR.sample((10,))):
        truth = posterior_of(x)
        theta = posterior.sample((2_000,), x=x, show_progress_bars=False)
        standardized = torch.linalg.solve_triangular(
            truth.scale_tril, (theta - truth.mean).T, upper=False
        )
        means.append(standardized.mean(1))
        covariances.append(standardized.cov())
        gaps.append(posterior.log_prob(theta, x=x).mean() - truth.log_prob(theta).mean())
    assert torch.stack(means).square().mean().sqrt() < 0.2
    assert (torch.stack(covariances).mean(0) - torch.eye(2)).abs().max() < 0.15
    assert -0.02 < torch.stack(gaps).mean() < 0.1  # the divergence from the truth, in nats
    again = pickle.loads(pickle.dumps(posterior))
    assert torch.equal(again.log_prob(theta, x=x), posterior.log_prob(theta, x=x))


def test_npe_goes_on_in_a_second_round(simulations):
    theta, x = (part[:500] for part in simulations)
    wanted = linear(PRIOR.mean[None])
    inference = NPE(PRIOR, density_estimator=posterior_estimator(**MAF), show_progress_bars=False)
    inference.append_simulations(theta, x).train(**TRAINING)
    proposal = inference.build_posterior().set_default_x(wanted)
    theta = proposal.sample((500,), show_progress_bars=False)
    inference.append_simulations(theta, linear(theta), proposal=proposal).train(**TRAINING)
    theta = inference.build_posterior().sample((4_000,), x=wanted, show_progress_bars=False)
    truth = posterior_of(wanted[0])
    assert (theta.mean(0) - truth.mean).abs().max() < 0.3 * truth.stddev.min()
    assert (theta.std(0) / truth.stddev).sub(1).abs().max() < 0.25


def test_nle_finds_the_likelihood(simulations):
    inference = NLE(PRIOR, density_estimator=likelihood_estimator(**MAF), show_progress_bars=False)
    estimator = inference.append_simulations(*simulations).train(**TRAINING)
    theta = PRIOR.sample((2_000,))
    x = linear(theta)
    with torch.no_grad():
        gap = MultivariateNormal(theta @ MAP.T, NOISE).log_prob(x) - estimator.log_prob(x, theta)[0]
    assert -0.02 < gap.mean() < 0.06
    assert gap.std() < 0.4
    posterior = inference.build_posterior()
    assert posterior.potential(theta[:5], x=x[:1]).shape == (5,)


@pytest.mark.parametrize("kind", [NRE_A, NRE_B])
def test_nre_finds_the_ratio(kind, simulations):
    inference = kind(PRIOR, classifier=ratio_estimator(**MAF), show_progress_bars=False)
    estimator = inference.append_simulations(*simulations).train(**TRAINING)
    theta, gaps = PRIOR.sample((4_000,)), []
    for x in linear(PRIOR.sample((20,))):
        truth = posterior_of(x)
        with torch.no_grad():
            weights = estimator(theta, x.expand(len(theta), -1)).softmax(0)
        gaps.append((weights @ theta - truth.mean) / truth.stddev)
    assert torch.stack(gaps).square().mean().sqrt() < 0.25


def test_ranks_of_simulation_based_calibration_are_uniform():
    """Of a posterior with two bows, as `theta` and its mirror image give the same data."""
    prior = BoxUniform(-torch.ones(2), torch.ones(2))

    def simulate(theta):
        mean = torch.stack([theta[:, 0].square() + theta[:, 1], theta[:, 1]], 1)
        return mean + 0.2 * torch.randn(len(theta), 2)

    theta = prior.sample((3_000,))
    estimator = posterior_estimator(diffeo.CouplingNSF, layers=4, hidden=(32, 32))
    inference = NPE(prior, density_estimator=estimator, show_progress_bars=False)
    inference.append_simulations(theta, simulate(theta)).train(**TRAINING)
    posterior, fresh = inference.build_posterior(), prior.sample((300,))
    x = simulate(fresh)
    options = {"num_posterior_samples": 99, "reduce_fns": "marginals"}
    ranks, dap = run_sbc(fresh, x, posterior, **options, show_progress_bar=False)
    assert check_sbc(ranks, fresh, dap, 99)["ks_pvals"].min() > 0.01
    # Of the prior in place of the posterior they would be uniform too, but not of a narrow one.
    wrong = torch.minimum(ranks, 99 - ranks)
    assert check_sbc(wrong, fresh, dap, 99)["ks_pvals"].max() < 1e-6


# Shapes and values, which need no training -------------------------------------------------------


def made(input_shape, condition_shape, **options):
    """An estimator in float64 whose weights are not at their start."""
    options = {"flow": diffeo.NSF, "layers": 2, "hidden": (8,)} | options
    theta, x = torch.randn(50, *input_shape) * 2 + 1, torch.randn(50, *condition_shape) - 3
    return perturb(posterior_estimator(**options)(theta, x), 0.3).double().eval()


class Mean(nn.Module):
    """Of an image, the mean over all axes but the last."""

    def forward(self, x):
        return x.mean((1, 2))


CASES = {
    "vectors": ((3,), (4,), {}),
    "one parameter": ((1,), (1,), {}),
    "matrices": ((2, 2), (2, 3), {}),
    "an embedded vector": ((2,), (4,), {"embedding_net": nn.Linear(4, 3)}),
    "an embedded image": ((2,), (3, 4, 5), {"embedding_net": Mean()}),
}


@pytest.mark.parametrize("case", CASES)
def test_densities_are_those_of_each_row(case):
    input_shape, condition_shape, options = CASES[case]
    estimator = made(input_shape, condition_shape, **options)
    theta = torch.randn(7, 5, *input_shape, dtype=torch.float64)
    x = torch.randn(5, *condition_shape, dtype=torch.float64)
    all_rows = estimator.log_prob(theta, x)
    assert all_rows.shape == (7, 5)
    for i in range(5):
        one = estimator.log_prob(theta[:, i : i + 1], x[i : i + 1])[:, 0]
        torch.testing.assert_close(all_rows[:, i], one)
    torch.testing.assert_close(estimator.loss(theta[0], x), -all_rows[0])
    torch.testing.assert_close(estimator.log_prob(theta[0], x), all_rows[:1])
    each = x.expand(7, *x.shape)
    torch.testing.assert_close(estimator.log_prob(theta, each), all_rows)
    assert estimator.log_prob(theta[:, :1], x).shape == (7, 5)
    drawn = estimator.sample(torch.Size((2, 3)), x)
    assert drawn.shape == (2, 3, 5, *input_shape)
    assert drawn.dtype == torch.float64
    drawn, log_prob = estimator.sample_and_log_prob(torch.Size((6,)), x)
    torch.testing.assert_close(log_prob, estimator.log_prob(drawn, x))


@pytest.mark.parametrize("case", CASES)
def test_densities_follow_from_the_noise_by_autodiff(case):
    input_shape, condition_shape, options = CASES[case]
    estimator = made(input_shape, condition_shape, **options)
    theta = torch.randn(3, *input_shape, dtype=torch.float64)
    x = torch.randn(3, *condition_shape, dtype=torch.float64)
    z = estimator.inverse_transform(theta, x)
    dims = theta[0].numel()
    for i in range(3):
        jacobian = jacrev(lambda row, i=i: estimator.inverse_transform(row[None], x[i : i + 1])[0])(
            theta[i]
        ).reshape(dims, dims)
        expected = MultivariateNormal(torch.zeros(dims).double(), torch.eye(dims).double())
        expected = expected.log_prob(z[i]) + torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(estimator.log_prob(theta[None], x)[0, i], expected)


def test_each_estimator_has_a_network_of_its_own():
    network = nn.Linear(4, 3)
    before = copy.deepcopy(network.state_dict())
    build = posterior_estimator(diffeo.MAF, embedding_net=network)
    first, second = (build(torch.randn(9, 2), torch.randn(9, 4)) for _ in range(2))
    perturb(first, 0.3)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert first.embedding_net is not second.embedding_net
    assert not torch.equal(first.embedding_net.weight, second.embedding_net.weight)
    assert isinstance(made((2,), (4,)).embedding_net, nn.Identity)


def test_parameters_and_data_are_standardized():
    theta, x = Uniform(1e3, 2e3).sample((500, 2)), Uniform(-1e-5, 1e-5).sample((500, 3))
    estimator = posterior_estimator(diffeo.NSF)(theta, x)
    z = estimator.inverse_transform(theta, x)
    assert z.mean(0).abs().max() < 0.1
    assert (z.std(0) - 1).abs().max() < 0.1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"flow": diffeo.NSF, "layer": 3}, "layer is no option of NSF (did you mean 'layers'?)"),
        ({"flow": diffeo.NSF, "layers": 0}, "layers is 0: choose a whole number from 1 on."),
        ({"flow": "nsf"}, "the flow is 'nsf': give a class such as diffeo.NSF."),
        ({"flow": diffeo.Glow}, "Glow makes no such density of rows"),
        ({"flow": diffeo.NSF, "context": 3}, "context of NSF follows from the data: leave it out."),
        ({"flow": diffeo.NSF, "steps": [1.0, 1.0]}, "NSF makes no density of real vectors"),
    ],
)
def test_what_cannot_be_made_is_refused(options, sentence):
    with pytest.raises(ValueError) as caught:
        posterior_estimator(**options)(torch.randn(9, 2), torch.randn(9, 3))
    assert str(caught.value).startswith(sentence)

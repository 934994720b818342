"""pocoMC samples a Gaussian by flows in zuko's form, and finds its evidence."""

import numpy as np
import pytest
import torch
from constructors import perturb
from scipy import stats
from torch.distributions import Normal
from torch.func import jacrev, vmap

import diffeo
from diffeo.bases import Logistic

pytest.importorskip("zuko", reason="needs pocoMC: pip install 'diffeo[pocomc]'")

from diffeo.integrations.pocomc import zuko_flow


@pytest.mark.parametrize("kind", [diffeo.NSF, diffeo.CouplingNSF])
def test_the_evidence_is_that_of_the_closed_form(kind, one_thread):
    pocomc = pytest.importorskip("pocomc", reason="needs pocoMC: pip install 'diffeo[pocomc]'")
    covariance, mean = np.array([[1.0, 0.8], [0.8, 1.0]]), np.ones(2)
    sampler = pocomc.Sampler(
        pocomc.Prior([stats.norm(0, 3)] * 2),
        stats.multivariate_normal(mean, covariance).logpdf,
        vectorize=True,
        n_effective=256,
        n_active=128,
        flow=zuko_flow(2, kind, layers=3, hidden=(32, 32)),
        random_state=0,
    )
    sampler.run(n_total=1_024, n_evidence=1_024, progress=False)
    log_evidence, error = sampler.evidence()
    joint = covariance + 9 * np.eye(2)
    assert abs(log_evidence - stats.multivariate_normal(mean, joint).logpdf(np.zeros(2))) < 0.06
    assert error < 0.03
    draws, weights, _, _ = sampler.posterior()
    expected = 9 * np.linalg.solve(joint, mean)
    np.testing.assert_allclose(np.average(draws, axis=0, weights=weights), expected, atol=0.15)


@pytest.mark.parametrize("kind", [diffeo.NSF, diffeo.MAF, diffeo.CouplingNSF])
def test_zuko_sees_the_density_of_the_flow(kind):
    flow = perturb(zuko_flow(3, kind, layers=2, hidden=(8,)), 0.3).double().eval()
    density, x = flow(), torch.randn(4, 5, 3).double()
    z, log_det = density.transform.call_and_ladj(x)
    jacobian = vmap(jacrev(lambda row: flow().transform(row)))(x.reshape(20, 3))
    torch.testing.assert_close(log_det.reshape(20), torch.linalg.slogdet(jacobian)[1])
    expected = Normal(0.0, 1.0).log_prob(z).sum(-1) + log_det
    torch.testing.assert_close(density.log_prob(x), expected)
    again, back = density.transform.inv.call_and_ladj(z)
    torch.testing.assert_close(again, x)
    torch.testing.assert_close(back, -log_det)
    torch.testing.assert_close(density.transform.inv.inv(x), z)
    torch.testing.assert_close(density.transform.log_abs_det_jacobian(x, z), log_det)
    drawn, log_prob = density.rsample_and_log_prob((7,))
    assert drawn.shape == (7, 3)
    torch.testing.assert_close(density.log_prob(drawn), log_prob)


def test_it_is_standardized_by_the_first_batch_that_it_learns_from():
    flow, x = zuko_flow(2, layers=1), torch.randn(500, 2) * 5 + 100
    flow.eval()().log_prob(x)
    assert not flow.transform.flow.bijection[0].initialized
    flow.train()().log_prob(x)
    assert flow().transform(x).mean(0).abs().max() < 0.2


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="pocoMC draws normal noise, and the base is Logistic"):
        zuko_flow(2, base=Logistic())
    with pytest.raises(ValueError, match="takes no context"):
        zuko_flow(2)(torch.zeros(3))
    with pytest.raises(ValueError, match="features is 0: choose a whole number from 1 on"):
        zuko_flow(0)

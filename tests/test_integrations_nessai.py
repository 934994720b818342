"""nessai samples a Gaussian by flows, and finds its evidence."""

import logging

import numpy as np
import pytest
import torch
from constructors import perturb
from torch.func import jacrev, vmap

import diffeo

pytest.importorskip("nessai", reason="needs nessai: pip install 'diffeo[nessai]'")

from nessai.flowmodel import FlowModel
from nessai.flowsampler import FlowSampler
from nessai.model import Model

from diffeo.integrations.nessai import NessaiFlow

SIDE = 10.0  # of the square that the prior is uniform on


class Correlated(Model):
    """A normalized Gaussian likelihood, so that the evidence is that of the prior."""

    def __init__(self):
        self.names, self.bounds = ["a", "b"], {"a": [-5, 5], "b": [-5, 5]}

    def log_prior(self, x):
        return np.log(self.in_bounds(x), dtype=float) - 2 * np.log(SIDE)

    def log_likelihood(self, x):
        square = x["a"] ** 2 + ((x["b"] - 0.8 * x["a"]) / 0.6) ** 2
        return -0.5 * square - np.log(2 * np.pi) - np.log(0.6)

    def from_unit_hypercube(self, x):
        return self._each(x, lambda values: SIDE * values - 5)

    def to_unit_hypercube(self, x):
        return self._each(x, lambda values: (values + 5) / SIDE)

    def _each(self, x, function):
        x = x.copy()
        for name in self.names:
            x[name] = function(x[name])
        return x


@pytest.mark.parametrize("importance", [False, True])
def test_the_evidence_is_that_of_the_closed_form(importance, one_thread, tmp_path):
    sampler = FlowSampler(
        Correlated(),
        output=str(tmp_path),
        nlive=600 if importance else 300,
        importance_nested_sampler=importance,
        flow_config={"flow": NessaiFlow, "n_blocks": 4, "n_layers": 2, "n_neurons": 16},
        training_config={"max_epochs": 100, "patience": 10},
        resume=False,
        plot=False,
        signal_handling=False,
        pytorch_threads=1,
        seed=1,
    )
    sampler.run(plot=False, save=False)
    error = sampler.log_evidence_error
    assert error < 0.15
    assert abs(sampler.log_evidence + 2 * np.log(SIDE)) < 3 * error
    draws = sampler.posterior_samples
    assert abs(draws["a"].mean()) < 0.25
    assert 0.6 < np.corrcoef(draws["a"], draws["b"])[0, 1] < 0.95  # 0.8


@pytest.mark.parametrize("kind", [diffeo.RealNVP, diffeo.MAF, diffeo.CouplingNSF])
def test_densities_follow_from_the_noise_by_autodiff(kind):
    flow = perturb(NessaiFlow(3, 8, 2, 2, model=kind), 0.3).double().eval()
    x = torch.randn(20, 3).double()
    z, log_prob = flow.forward_and_log_prob(x)
    jacobian = vmap(jacrev(lambda row: flow(row[None])[0][0]))(x)
    expected = flow.base_distribution_log_prob(z) + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(flow.log_prob(x), expected)
    again, log_det = flow.inverse(z)
    torch.testing.assert_close(again, x)
    torch.testing.assert_close(log_det, -flow(x)[1])
    drawn, log_q = flow.sample_and_log_prob(50)
    torch.testing.assert_close(flow.log_prob(drawn), log_q)
    assert flow.sample(5).shape == flow.sample_latent_distribution(5).shape == (5, 3)


def test_it_learns_is_saved_and_is_reset(one_thread, tmp_path, caplog):
    config = {"flow": NessaiFlow, "model": diffeo.NSF, "n_inputs": 2, "n_neurons": 8, "layers": 2}
    model = FlowModel(config, {"max_epochs": 30, "lr": 1e-2}, output=str(tmp_path))
    x = np.random.default_rng(0).normal([3, -2], [0.1, 5], (2_000, 2))
    model.train(x, plot=False)
    entropy = 2 * 0.5 * np.log(2 * np.pi * np.e) + np.log(0.5)
    assert abs(model.log_prob(x).mean() + entropy) < 0.06
    assert len(model.model.flow.bijection) == 3  # the standardization, and as many layers as named
    other = FlowModel(config, {}, output=str(tmp_path / "other"))
    other.load_weights(model.weights_file)
    np.testing.assert_array_equal(other.log_prob(x), model.log_prob(x))
    caplog.set_level(logging.ERROR)
    model.reset_model(weights=True)
    assert not model.model.flow.bijection[0].initialized
    model.train(x + 100, plot=False)
    assert abs(model.log_prob(x + 100).mean() + entropy) < 0.06


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match=r"layer is no option of NSF \(did you mean 'layers'\?\)"):
        NessaiFlow(2, 8, 2, 2, model=diffeo.NSF, layer=3)
    with pytest.raises(ValueError, match="takes no context"):
        NessaiFlow(2, 8, 2, 2).log_prob(torch.zeros(3, 2), context=torch.zeros(3, 1))
    with pytest.raises(ValueError, match="takes no context"):
        NessaiFlow(2, 8, 2, 2).inverse(torch.zeros(3, 2), context=torch.zeros(3, 1))

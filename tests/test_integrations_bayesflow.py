"""BayesFlow trains a flow as its inference network, draws from it, and saves it."""

import os

import numpy as np
import pytest
import torch
from constructors import perturb
from torch.distributions import MultivariateNormal
from torch.func import jacrev

import diffeo
from diffeo.bases import Logistic

os.environ.setdefault("KERAS_BACKEND", "torch")
pytest.importorskip("bayesflow", reason="needs BayesFlow: pip install 'diffeo[bayesflow]'")

import bayesflow
import keras

from diffeo.integrations.bayesflow import FlowNetwork

torch.set_grad_enabled(True)  # which BayesFlow turns off for all when it is imported

RANDOM = np.random.default_rng(0)
NOISE, WIDTH = 0.1, 0.5  # variances
SHRUNK = WIDTH / (WIDTH + NOISE)


def prior():
    return {"theta": RANDOM.normal(0, WIDTH**0.5, 2)}


def likelihood(theta):
    return {"x": theta + RANDOM.normal(0, NOISE**0.5, 2)}


def test_it_finds_the_posterior_of_a_gaussian_and_is_saved(one_thread, tmp_path):
    keras.utils.set_random_seed(0)
    simulator = bayesflow.make_simulator([prior, likelihood])
    workflow = bayesflow.BasicWorkflow(
        simulator=simulator,
        inference_network=FlowNetwork(diffeo.RealNVP, {"layers": 4, "hidden": [32]}),
        inference_variables=["theta"],
        inference_conditions=["x"],
        initial_learning_rate=3e-3,
    )
    workflow.fit_offline(simulator.sample(2_000), epochs=30, batch_size=100, verbose=0)
    x = np.array([[0.5, -0.5], [0.0, 0.2]], dtype=np.float32)
    drawn = workflow.sample(num_samples=4_000, conditions={"x": x})["theta"]
    assert drawn.shape == (2, 4_000, 2)
    std = (SHRUNK * NOISE) ** 0.5
    np.testing.assert_allclose(drawn.mean(1), SHRUNK * x, atol=0.2 * std)
    np.testing.assert_allclose(drawn.std(1), std, rtol=0.15)
    test = simulator.sample(2_000)
    log_prob = np.asarray(workflow.log_prob(test)).reshape(-1)
    square = ((test["theta"] - SHRUNK * test["x"]) ** 2).sum(1) / std**2
    truth = -0.5 * square - np.log(2 * np.pi * std**2)
    assert -0.02 < (truth - log_prob).mean() < 0.08
    workflow.approximator.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        np.asarray(again.log_prob(data=test)).reshape(-1),
        np.asarray(workflow.approximator.log_prob(data=test)).reshape(-1),
    )


@pytest.fixture
def network():
    made = FlowNetwork(diffeo.NSF, {"layers": 2, "hidden": [8]})
    made.build((None, 3), (None, 2))
    perturb(made.wrapped.module, 0.1)
    return made


def test_densities_follow_from_the_noise_by_autodiff(network):
    x, given = torch.randn(4, 5, 3), torch.randn(4, 5, 2)
    with torch.enable_grad():
        z, log_prob = network(x, conditions=given, density=True)
        row = jacrev(lambda one: network(one[None], conditions=given[1, 2][None])[0])
        jacobian = row(x[1, 2])
    assert z.shape == x.shape
    assert log_prob.shape == (4, 5)
    expected = MultivariateNormal(torch.zeros(3), torch.eye(3)).log_prob(z[1, 2])
    expected = expected + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(log_prob[1, 2], expected, rtol=1e-4, atol=1e-4)
    again, same = network(z, conditions=given, inverse=True, density=True)
    torch.testing.assert_close(again, x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(same, log_prob, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network.log_prob(x, given), log_prob)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="BayesFlow draws normal noise, and the base is Logistic"):
        FlowNetwork(diffeo.NSF, {"base": Logistic()}).build((None, 3), (None, 2))
    with pytest.raises(ValueError, match="layer is no option of NSF"):
        FlowNetwork(diffeo.NSF, {"layer": 2}).build((None, 3), (None, 2))
    with pytest.raises(ValueError, match="is no model of diffeo's"):
        FlowNetwork(lambda features, context: None).get_config()


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="set KERAS_BACKEND=torch first"):
        FlowNetwork()

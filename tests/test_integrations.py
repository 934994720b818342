"""What the adapters have in common, and that each says what is missing."""

import subprocess
import sys

import pytest
import torch
from constructors import perturb
from torch.distributions import Normal

import diffeo
from diffeo.integrations.madnis import UnitCubeFlow
from diffeo.integrations.making import FirstBatch, make_flow

NEED = {"sbi": "sbi", "nessai": "nessai", "pocomc": "zuko", "sdv": "sdv", "bayesflow": "keras"}


MISSING = """
import importlib, sys
import diffeo.integrations.making, diffeo.integrations.madnis
need = NEED
assert not {*need.values(), "madnis"} & {*sys.modules}
for module, package in need.items():
    sys.modules[package] = None
    try:
        importlib.import_module(f"diffeo.integrations.{module}")
    except ImportError as error:
        print(module, error)
"""


def test_packages_are_imported_when_asked_for_and_what_is_missing_names_its_extra():
    code = MISSING.replace("NEED", repr(NEED))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "sbi sbi is missing: pip install 'diffeo[sbi]'.",
        "nessai nessai is missing: pip install 'diffeo[nessai]'.",
        "pocomc zuko is missing: pip install 'diffeo[pocomc]'.",
        "sdv SDV is missing: pip install 'diffeo[sdv]'.",
        "bayesflow BayesFlow is missing: pip install 'diffeo[bayesflow]'.",
    ]


def test_a_flow_is_made_by_a_function_too():
    made = make_flow(lambda features: diffeo.MAF(features, layers=1), 3, {})
    assert made.shape == (3,)
    with pytest.raises(ValueError, match="makes no such density of rows"):
        make_flow(lambda features: diffeo.MAF(features), 3, {}, context=2)
    with pytest.raises(ValueError, match="makes no density of real vectors"):
        make_flow(lambda features: torch.nn.Linear(features, 1), 3, {})


def test_the_first_batch_of_training_standardizes_and_no_other():
    flow = diffeo.MAF(2, layers=1)
    look = FirstBatch(flow)
    x = torch.randn(100, 2) * 5 + 3
    flow.eval()
    look(x)
    assert not flow.bijection[0].initialized
    flow.train()
    look(x[:1])
    assert not flow.bijection[0].initialized
    look(x)
    mean = flow.bijection[0].mean.clone()
    torch.testing.assert_close(mean, x.mean(0), rtol=0.1, atol=0.5)
    look(x + 100)
    assert torch.equal(flow.bijection[0].mean, mean)


# The unit cube needs no package -----------------------------------------------------------------


@pytest.mark.parametrize("kind", [diffeo.CouplingNSF, diffeo.MAF, diffeo.RealNVP])
def test_the_density_of_the_unit_cube_sums_to_one(kind):
    density = perturb(UnitCubeFlow(2, kind, layers=2, hidden=(8,)), 0.1).double().eval()
    # Denser towards the edges, where the density may have a pole: x = Phi(2 t).
    t = torch.cartesian_prod(*[torch.linspace(-4, 4, 400).double()] * 2)
    x, widths = torch.special.ndtr(2 * t), (Normal(0.0, 0.5).log_prob(t).exp() * 8 / 399).prod(1)
    with torch.no_grad():
        q = density.prob(x)
    assert q.std() > 0.05
    assert float((q * widths).sum()) == pytest.approx(1, abs=5e-3)


def test_draws_lie_in_the_unit_cube_and_have_their_density():
    density = perturb(UnitCubeFlow(3, layers=3, hidden=(8,)), 0.1).double().eval()
    with torch.no_grad():
        x, log_q, q = density.sample(2_000, return_log_prob=True, return_prob=True)
        torch.testing.assert_close(density.log_prob(x), log_q)
    torch.testing.assert_close(log_q.exp(), q)
    assert ((x > 0) & (x < 1)).all()
    assert density.sample(5).shape == (5, 3)
    # The mean of 1 / q is the volume.
    weights = 1 / q
    assert abs(float(weights.mean()) - 1) < 4 * float(weights.std()) / len(x) ** 0.5


def test_it_starts_uniform_and_is_finite_at_the_edges():
    density = UnitCubeFlow(2, layers=2)
    assert (density.prob(torch.rand(50, 2)) - 1).abs().max() < 1e-4
    assert density.log_prob(torch.tensor([[0.0, 1.0], [1.0, 1.0]])).isfinite().all()
    with pytest.raises(ValueError, match="no context and no channels"):
        density.log_prob(torch.rand(5, 2), channel=1)


def test_madnis_finds_an_integral(one_thread):
    pytest.importorskip("madnis", reason="needs madnis: pip install 'diffeo[madnis]'")
    from madnis.integrator import Integrator

    def two_peaks(x):
        peaks = [(w, (x - at).square().sum(1)) for w, at in ((1.0, 0.3), (0.5, 0.7))]
        density = sum(w * torch.exp(-square / (2 * 0.05**2)) for w, square in peaks)
        return density / (0.05 * (2 * torch.pi) ** 0.5) ** 3

    flow = UnitCubeFlow(3, layers=4, hidden=(32, 32))
    integrator = Integrator(two_peaks, dims=3, flow=flow, batch_size=512, learning_rate=3e-3)
    integrator.train(150)
    value, error = integrator.integrate(20_000)
    assert abs(value - 1.5) < 3 * error  # the peaks end 6 standard deviations from the edges
    uniform = two_peaks(torch.rand(20_000, 3)).std() / 20_000**0.5
    assert error < uniform / 4

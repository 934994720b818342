"""Before any data, a flow is its base density in both directions, and no call changes that."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import diffeo
from diffeo.bases import Logistic
from diffeo.bijections.spline import RationalQuadraticSpline
from diffeo.context import ContextSpec

TABLES = {
    "NICE": lambda: diffeo.NICE(3, layers=2, hidden=(8,)),
    "RealNVP": lambda: diffeo.RealNVP(3, layers=4, hidden=(8,)),
    "RealNVP, spline": lambda: diffeo.RealNVP(
        3, layers=4, hidden=(8,), univariate=RationalQuadraticSpline()
    ),
    "RealNVP, logistic": lambda: diffeo.RealNVP(3, layers=4, hidden=(8,), base=Logistic()),
    "TableFlow": lambda: diffeo.TableFlow(3, layers=2, hidden=(8,)),
    "one column": lambda: diffeo.TableFlow(1, layers=2),
    "conditional": lambda: diffeo.RealNVP(3, layers=2, hidden=(8,), context=2),
}
IMAGES = {
    "Glow": lambda: diffeo.Glow((1, 4, 4), levels=2, steps=2, hidden_channels=6),
    "Glow, classes": lambda: diffeo.Glow(
        (1, 4, 4), levels=1, steps=2, hidden_channels=6, context=ContextSpec.classes(3)
    ),
    "ImageRealNVP": lambda: diffeo.ImageRealNVP((1, 4, 4), scales=1, hidden_channels=4, blocks=1),
    "NICE": lambda: diffeo.NICE((1, 4, 4), layers=2, hidden=(8,)),
}
modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def contexts(flow: diffeo.Flow, rows: int) -> Tensor | None:
    if not flow.context_features:
        return None
    if flow.context.category is not None:
        return torch.arange(rows) % flow.context_features
    return torch.randn(rows, flow.context_features, dtype=torch.float64) * 5 + 2


@modes
@pytest.mark.parametrize("name", TABLES)
def test_a_fresh_flow_is_its_base_density_whichever_direction_comes_first(name, training):
    for sample_first in (True, False):
        flow = TABLES[name]().double().train(training)
        context = contexts(flow, 50)
        x = torch.randn(50, *flow.shape, dtype=torch.float64) * 30 + 7
        if sample_first:
            x = flow.sample(50, context, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            truth = flow.base.log_prob(x)
            torch.testing.assert_close(flow.log_prob(x, context), truth, rtol=1e-10, atol=1e-8)
            torch.testing.assert_close(flow.decode(flow.encode(x, context), context), x)


@modes
@pytest.mark.parametrize("name", [*TABLES, *(f"{name}, images" for name in IMAGES)])
def test_no_method_but_initialize_changes_what_a_flow_is(name, training):
    make = TABLES[name] if name in TABLES else IMAGES[name.removesuffix(", images")]
    flow = make()
    normalizes = any("running_mean" in key for key in flow.state_dict())
    if normalizes and training:
        pytest.skip("batch normalization in training mode averages what it sees")
    flow.train(training)
    before = {key: value.clone() for key, value in flow.state_dict().items()}
    context = contexts(flow, 8)
    context = context.float() if context is not None and context.is_floating_point() else context
    x = flow.sample(8, context)
    flow.log_prob(x, context).mean().backward()
    flow.decode(flow.encode(x, context), context)
    flow.bits_per_dim(x, context)
    flow.distribution(context).sample()
    after = flow.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("memory", ["stored", "constant"])
def test_reverse_kl_learns_from_the_first_step_without_data(memory):
    """KL(flow | target), with draws of the flow itself, of an unnormalised density."""
    torch.manual_seed(0)
    flow = diffeo.RealNVP(2, layers=4, hidden=(16,)).set_memory(memory)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    target = torch.distributions.Normal(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 2.0]))
    losses = []
    for _ in range(150):
        x = flow.decode(flow.noise(256))
        loss = (flow.log_prob(x) - target.log_prob(x).sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.0
    assert sum(losses[-10:]) / 10 < 0.05  # of a divergence, which is 0 where both agree


def test_initialize_changes_the_density_when_it_is_called_and_once():
    """`initialize` is what changes the density, when it is called, and once."""
    flow = diffeo.RealNVP(2, layers=2, hidden=(8,)).eval()
    x = torch.randn(500, 2) * 3 + 5
    before = flow.log_prob(x)
    after = flow.initialize(x).log_prob(x)
    assert after.mean() > before.mean() + 5
    again = flow.initialize(x * 100).log_prob(x)
    assert torch.equal(after, again)
    entropy = math.log(2 * math.pi * math.e) + 2 * math.log(3)
    assert float(after.detach().mean()) == pytest.approx(-entropy, abs=0.1)

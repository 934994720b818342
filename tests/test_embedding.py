"""Contexts of any shape, embedded by a network that learns with the flow."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from constructors import perturb
from torch import nn

import diffeo
from diffeo.context import ContextSpec
from diffeo.embedding import ConvEncoder, EmbeddedContext, SetEncoder
from diffeo.export import export
from diffeo.losses import flow_matching, importance_sample
from diffeo.networks import MLP
from diffeo.run import Run

SHAPES = {
    "a series": (lambda: MLP(12, 3), (12,), None),
    "a set": (lambda: SetEncoder(2, 3, (6,)), (None, 2), -1),
    "an image": (lambda: ConvEncoder((1, 6, 5), 3, (4,)), (1, 6, 5), 0),
    "channels": (lambda: ConvEncoder((2, 9), 3, (4,)), (2, 9), 0),
}
every = pytest.mark.parametrize("kind", SHAPES)


def contexts(kind: str, rows: int) -> torch.Tensor:
    shape = [size or 7 for size in SHAPES[kind][1]]
    return 3 * torch.randn(rows, *shape, generator=torch.Generator().manual_seed(1)) + 5


def made(kind: str, model=diffeo.CouplingNSF, **arguments) -> diffeo.Flow:
    """A flow in float64 whose context matters."""
    torch.manual_seed(0)
    network, shape, axis = SHAPES[kind]
    given = EmbeddedContext(network(), shape, axis=axis)
    flow = model(2, layers=2, hidden=(8,), context=given, **arguments)
    flow.initialize(torch.randn(20, 2), contexts(kind, 20))
    return perturb(flow, 0.2).double().eval()


@every
def test_the_density_is_that_given_the_embedded_context_and_gradients_reach_its_network(kind):
    flow, x, context = made(kind), torch.randn(5, 2).double(), contexts(kind, 5).double()
    flow.log_prob(x, context).sum().backward()
    found = [weight.grad.clone() for weight in flow.embedding.parameters()]
    assert all(gradient.abs().max() > 0 for gradient in found)
    # By hand: units along the axis, the network, and the bijection given its numbers.
    network, axis = flow.embedding.network, SHAPES[kind][2]
    all_rows = contexts(kind, 20)
    unit = {None: None, 0: 1, -1: all_rows.ndim - 1}[axis]
    others = [i for i in range(all_rows.ndim) if i != unit]
    std, mean = torch.std_mean(all_rows.double(), dim=others, correction=0, keepdim=True)
    numbers = network((context - mean) / std)
    z, log_det = flow.bijection(x, numbers)
    log_prob = flow.base.log_prob(z) + log_det
    torch.testing.assert_close(flow.log_prob(x, context), log_prob, rtol=0, atol=1e-6)
    truth = torch.autograd.grad(log_prob.sum(), [*flow.embedding.parameters()])
    torch.testing.assert_close(found, [*truth], rtol=1e-5, atol=1e-6)


@every
def test_all_that_a_flow_does_takes_such_contexts(kind, tmp_path):
    flow, x, context = made(kind), torch.randn(5, 2).double(), contexts(kind, 5).double()
    z = flow.encode(x, context)
    torch.testing.assert_close(flow.decode(z, context), x)
    assert flow.sample(5, context).shape == flow.sample(5, context[:1]).shape == (5, 2)
    p = flow.distribution(context)
    assert p.batch_shape == (5,) and p.sample((3,)).shape == (3, 5, 2)
    assert p.expand((4, 5)).sample().shape == (4, 5, 2)
    torch.testing.assert_close(p.log_prob(x), flow.log_prob(x, context))
    one = flow.distribution(context[0])
    assert one.batch_shape == ()
    same = context[[0] * 5]
    torch.testing.assert_close(one.log_prob(x), flow.log_prob(x, same))
    flow.save_pretrained(tmp_path)
    loaded = diffeo.load(tmp_path)
    assert loaded.context == flow.context
    torch.testing.assert_close(loaded.double().log_prob(x, context), flow.log_prob(x, context))
    assert copy.deepcopy(flow).context.network is not flow.context.network


def test_a_context_is_embedded_once_for_each_call_and_one_row_once_for_all_samples():
    flow, calls = made("an image"), []
    flow.embedding.network.register_forward_hook(lambda *call: calls.append(len(call[1][0])))
    context = contexts("an image", 5).double()
    flow.log_prob(torch.zeros(5, 2).double(), context)
    flow.sample(5, context)
    flow.sample(400, context[:1])
    flow.distribution(context[0]).sample((300,))
    importance_sample(flow, lambda x: -x.square().sum(1), 200, context[:1])
    assert calls == [5, 5, 1, 1, 1]


@pytest.mark.parametrize("memory", ["stored", "constant"])
def test_gradients_in_constant_memory_are_those_of_stored_activations(memory):
    flow, context = made("a set").train(), contexts("a set", 6).double()
    x, network = torch.randn(6, 2).double(), [*flow.embedding.parameters()]
    truth = torch.autograd.grad(flow.log_prob(x, context).sum(), network)
    flow.set_memory(memory)
    torch.testing.assert_close(torch.autograd.grad(flow.log_prob(x, context).sum(), network), truth)


# What a MixedFlow is conditional on are columns of a table.
@pytest.mark.parametrize("name", sorted({*diffeo.MODELS} - {"MixedFlow"}))
def test_every_model_takes_such_a_context(name):
    torch.manual_seed(0)
    images = name in ("Glow", "ImageRealNVP", "TarFlow", "Jet", "PixelFlow", "FlowPlusPlus")
    shape = (1, 4, 4) if images else 2
    sizes = {"hidden_channels": 4} if images else {"hidden": (8,)}
    network, size, _ = SHAPES["a series"]
    flow = getattr(diffeo, name)(shape, context=EmbeddedContext(network(), size), **sizes)
    x = torch.randint(256, (8, 1, 4, 4)).to(torch.uint8) if images else torch.randn(8, 2)
    flow.initialize(x, contexts("a series", 8))
    perturb(flow, 0.05).log_prob(x, contexts("a series", 8)).sum().backward()
    assert all(weight.grad.abs().max() > 0 for weight in flow.embedding.parameters())


def test_flow_matching_trains_the_network_too():
    flow = made("a series", diffeo.ContinuousFlow)
    flow_matching(flow, torch.randn(6, 2).double(), contexts("a series", 6).double()).backward()
    assert all(weight.grad.abs().max() > 0 for weight in flow.embedding.parameters())


def test_a_set_has_no_order_and_any_number_of_items():
    flow, context = made("a set"), contexts("a set", 3).double()
    x = torch.zeros(3, 2).double()
    shuffled = context[:, torch.randperm(7)]
    torch.testing.assert_close(flow.log_prob(x, context), flow.log_prob(x, shuffled))
    twice = torch.cat((context, context), dim=1)
    torch.testing.assert_close(flow.log_prob(x, context), flow.log_prob(x, twice))


def test_units_of_the_context_do_not_matter():
    torch.manual_seed(0)
    given = EmbeddedContext(SetEncoder(2, 3), (7, 2), axis=-1)
    x, context = torch.randn(20, 2), contexts("a set", 20)
    one = diffeo.RealNVP(2, layers=2, hidden=(8,), context=given)
    other = copy.deepcopy(one)
    units = torch.tensor([1e4, 1e-3])
    one.initialize(x, context)
    other.initialize(x, context * units + 7 * units)
    for flow in (one, other):
        torch.manual_seed(1)
        perturb(flow, 0.2).eval()
    torch.testing.assert_close(
        one.log_prob(x, context), other.log_prob(x, context * units + 7 * units), atol=1e-3, rtol=0
    )


def refusal(call) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)


def test_wrong_shapes_are_refused_by_the_one_that_is_expected():
    flow, x = made("an image"), torch.zeros(4, 2).double()
    for shape in ((4, 6, 5), (3, 1, 6, 5), (4, 3)):
        wrong = torch.zeros(shape)
        for call in (flow.log_prob, flow.encode, flow.decode):
            sentence = f"this flow needs a context of shape (4, 1, 6, 5), got {shape}."
            assert refusal(lambda: call(x, wrong.double())) == sentence  # noqa: B023
    assert refusal(lambda: flow.log_prob(x)) == (
        "this flow needs a context of shape (4, 1, 6, 5), got None."
    )
    assert refusal(lambda: flow.distribution(torch.zeros(3, 6, 5).double())) == (
        "this flow needs a context of shape (..., 1, 6, 5), got (3, 6, 5)."
    )
    of_sets = made("a set")
    assert refusal(lambda: of_sets.sample(2, torch.zeros(2, 9, 3).double())) == (
        "this flow needs a context of shape (2, any, 2), got (2, 9, 3)."
    )


def test_what_cannot_be_embedded_is_refused(tmp_path):
    x = torch.randn(8, 2)
    wrong = diffeo.MAF(2, context=EmbeddedContext(nn.Linear(4, 3), (4,), width=5))
    assert refusal(lambda: wrong.log_prob(x, torch.zeros(8, 4))) == (
        "the network of the context returns shape (8, 3), and its width is 5: let it return "
        "(batch, 5)."
    )
    assert refusal(lambda: EmbeddedContext(nn.Linear(4, 3), (4,))) == (
        "how many numbers Linear returns is not known: name the width."
    )
    assert refusal(lambda: EmbeddedContext(MLP(4, 3), ())) == (
        "a context of shape () is one number: give the flow context=1."
    )
    assert refusal(lambda: EmbeddedContext(MLP(4, 3), (None, 4), axis=0)) == (
        "axis 0 of a context of shape (None, 4) has no known length: choose another."
    )
    assert "the network of a context is <class" in refusal(lambda: EmbeddedContext(MLP, (4,), 3))
    assert refusal(lambda: ConvEncoder((4,), 3)) == (
        "the shape is (4,): give (C, H, W) of an image or (C, length) of a series."
    )
    flow = diffeo.MAF(2, context=EmbeddedContext(nn.Linear(4, 3), (4,), width=3))
    assert refusal(lambda: flow.save_pretrained(tmp_path)) == (
        "Linear has no form in a model's configuration: make it in a class of your own, of "
        "diffeo.utils.config.Configurable and torch.nn.Module, with arguments that have one."
    )
    assert refusal(lambda: flow.initialize(x, torch.full((8, 4), torch.inf))) == (
        "a context is not finite: leave its row out."
    )
    made("a set").save_pretrained(tmp_path)
    assert refusal(lambda: Run(tmp_path)) == (
        f"{tmp_path} is conditional on contexts of shape (batch, any, 2), which no command takes: "
        "use it in Python, by diffeo.load."
    )
    assert refusal(lambda: export(made("a set"), tmp_path, "torch")) == (
        "contexts of shape (batch, any, 2) cannot be exported: make the flow with a context of a "
        "known shape."
    )


def test_it_is_exported_with_its_flow(tmp_path):
    [file] = export(made("an image", diffeo.NICE), tmp_path, "torch", "score")
    assert "context (batch, 1, 6, 5) float32" in file.takes


def test_flows_of_one_shape_of_context_can_be_mixed():
    one, other = made("a series"), made("a series")
    x, context = torch.randn(3, 2).double(), contexts("a series", 3).double()
    mixture = diffeo.FlowMixture(one, other).double()
    parts = torch.stack([one.log_prob(x, context), other.log_prob(x, context)])
    torch.testing.assert_close(mixture.log_prob(x, context), parts.logsumexp(0) - math.log(2))
    with pytest.raises(ValueError, match="cannot be mixed"):
        diffeo.FlowMixture(one, made("an image"))
    assert one.context != ContextSpec.of(3)


def test_the_posterior_of_a_mean_is_learned_from_sets_of_draws():
    # mu ~ N(0, 1), y_i ~ N(mu, 1), i = 1..n: mu | y ~ N(n mean(y) / (n + 1), 1 / (n + 1)).
    torch.manual_seed(0)
    n = 10
    flow = diffeo.MAF(
        1, layers=1, hidden=(16,), context=EmbeddedContext(SetEncoder(1, 4, (16,)), (n, 1))
    )

    def simulate(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        mean = torch.randn(rows, 1)
        return mean, mean[:, None] + torch.randn(rows, n, 1)

    flow.initialize(*simulate(2_000))
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        optimizer.zero_grad()
        (-flow.log_prob(*simulate(512))).mean().backward()
        optimizer.step()
        schedule.step()
    mean, y = simulate(4_000)
    truth = torch.distributions.Normal(n * y.mean(1) / (n + 1), (n + 1) ** -0.5)
    with torch.no_grad():
        gap = (truth.log_prob(mean)[:, 0] - flow.eval().log_prob(mean, y)).mean()
    assert abs(float(gap)) < 0.02  # an estimate of the mean KL divergence, in nats
    draws = flow.sample(4_000, y[:1]).detach()
    assert abs(float(draws.mean() - truth.mean[0])) < 0.1
    assert abs(float(draws.std()) - (n + 1) ** -0.5) < 0.03

"""Gradients in constant memory, of fused networks and of compiled flows: autograd has the truth."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from constructors import BIJECTIONS, Entry, perturb
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from diffeo import Chain, Flow, Glow, ImageRealNVP, RealNVP
from diffeo.bijections import Affine, BatchNorm, Coupling, FeatureSplit
from diffeo.networks import MLP, GlowNet, MaskedMLP, glow_fused, mlp_fused

every = pytest.mark.parametrize("entry", BIJECTIONS.values(), ids=BIJECTIONS.keys())
dtypes = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["64", "32"]
)


def gradients(module: nn.Module, x: Tensor, context: Tensor | None = None) -> list[Tensor]:
    """Those of x, the context and the weights, of a sum with a weight for each number."""
    x = x.clone().requires_grad_()
    context = None if context is None else context.clone().requires_grad_()
    y, log_det = module(x, context)
    loss = (y * torch.linspace(-1, 2, y.numel()).view(y.shape).to(y)).sum() + 0.7 * log_det.sum()
    inputs = [x, *module.parameters()] + ([] if context is None else [context])
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(a) if b is None else b for a, b in zip(inputs, found, strict=True)]


def assert_close(ours: list[Tensor], truth: list[Tensor], tolerance: float) -> None:
    """Each to a share of its own largest number."""
    for a, b in zip(ours, truth, strict=True):
        scale = max(1.0, float(b.abs().max())) if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * scale)


# Constant memory


@every
def test_constant_memory_has_the_gradients_of_autograd(entry: Entry):
    module, x, context = entry.ready(), entry.x(5), entry.context(5)
    stored, constant = Chain(module), Chain(module, memory="constant")
    for training in (False, True):
        for chain in (stored, constant):
            chain.train(training)
        state = copy.deepcopy(module.state_dict())
        truth = gradients(stored, x, context)
        after = copy.deepcopy(module.state_dict())
        module.load_state_dict(state)
        assert_close(gradients(constant, x, context), truth, 1e-9)
        # Running averages count a batch once, though it is evaluated twice.
        for name, value in module.state_dict().items():
            assert torch.equal(value, after[name]), name
        module.load_state_dict(state)


@dtypes
def test_constant_memory_is_exact_at_96_steps(dtype: torch.dtype, tolerance: float):
    torch.manual_seed(1)
    flow = Glow((3, 8, 8), levels=1, steps=96, hidden_channels=16)
    x = torch.randint(256, (8, 3, 8, 8), dtype=torch.uint8)
    perturb(flow.initialize(x), 0.003).to(dtype)
    y, found = (x.to(dtype) + 0.5).requires_grad_(), []
    for memory in ("stored", "constant"):
        z, log_det = flow.set_memory(memory).bijection(y)
        loss = (z.square().sum() / 2 - log_det.sum()) / len(x)
        grads = torch.autograd.grad(loss, [y, *flow.parameters()])
        # All of them as one: some are nothing but rounding errors.
        found.append(torch.cat([g.flatten() for g in grads]))
    stored, constant = found
    assert stored.norm() > 1
    assert (constant - stored).norm() <= tolerance * stored.norm()


@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["same", "bfloat16"])
def test_constant_memory_with_dropout_and_precision(precision):
    network = MLP(2, 4, (16, 16))
    network.layers[1] = nn.Sequential(nn.ReLU(), nn.Dropout(0.5))
    links = [Coupling(FeatureSplit(4), Affine(), copy.deepcopy(network)) for _ in range(3)]
    chain = perturb(Chain(*links))
    for link in links:
        link.precision = precision
    x, found = torch.randn(20, 4), []
    for memory in ("stored", "constant"):
        chain.memory = memory
        torch.manual_seed(3)
        found.append(gradients(chain, x))
    assert_close(found[1], found[0], 1e-4 if precision is None else 3e-2)


def test_constant_memory_does_not_grow_with_depth():
    def stored(depth: int, memory: str) -> int:
        links = (Coupling(FeatureSplit(4), Affine(), MLP(2, 4, (64,))) for _ in range(depth))
        chain = Chain(*links, memory=memory)
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        weights = {p.data_ptr() for p in chain.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            chain(torch.randn(100, 4, requires_grad=True))
        gc.collect()
        return sum(size for place, size in sizes.items() if place not in weights)

    assert stored(16, "stored") > 6 * stored(2, "stored")
    assert stored(16, "constant") <= 1.1 * stored(2, "constant") + 1_000


def test_what_constant_memory_cannot_do_is_refused():
    flow = perturb(RealNVP(3, layers=4, hidden=(8,))).set_memory("constant")
    x = torch.randn(5, 3)
    loss = flow.log_prob(x).sum()
    flow.eval()
    with pytest.raises(RuntimeError, match="call backward before"):
        loss.backward()
    flow.train()
    loss = flow.log_prob(x).sum()
    weight = flow.bijection[1].conditioner.layers[0].weight
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    x.requires_grad_()
    (by_x,) = torch.autograd.grad(flow.log_prob(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        by_x.sum().backward()


def test_frozen_and_shared_weights():
    link = Coupling(FeatureSplit(4), Affine(), MLP(2, 4, (8,)))
    frozen = Coupling(FeatureSplit(4), Affine(), MLP(2, 4, (8,))).requires_grad_(False)
    chain = perturb(Chain(link, frozen, link)).double()
    x, found = torch.randn(6, 4, dtype=torch.float64), {}
    for memory in ("stored", "constant"):
        chain.memory = memory
        chain.zero_grad()
        y, log_det = chain(x)
        (y.square().sum() + log_det.sum()).backward()
        found[memory] = [p.grad for p in chain.parameters()]
    for a, b in zip(*found.values(), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


# Networks: what they really contain


def changed_networks():
    def tanh(flow: Flow) -> None:
        flow.bijection[1].conditioner.layers[1] = nn.Tanh()

    def weight_norm(flow: Flow) -> None:
        parametrizations.weight_norm(flow.bijection[1].conditioner.layers[0])

    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    def subclass(flow: Flow) -> None:
        old = flow.bijection[1].conditioner.layers[0]
        new = Doubled(old.in_features, old.out_features)
        new.load_state_dict(old.state_dict())
        flow.bijection[1].conditioner.layers[0] = new

    def hooked(flow: Flow) -> None:
        layer = flow.bijection[1].conditioner.layers[0]
        layer.register_forward_hook(lambda module, args, out: 2 * out)

    return {f.__name__: f for f in (tanh, weight_norm, subclass, hooked)}


@pytest.mark.parametrize("change", changed_networks().values(), ids=changed_networks())
@pytest.mark.parametrize("memory", ["stored", "constant"])
def test_a_changed_network_counts(change, memory):
    flow = perturb(RealNVP(4, layers=4, hidden=(8,))).double().set_memory(memory)
    x = torch.randn(9, 4, dtype=torch.float64)
    before = flow.log_prob(x)
    change(flow)
    flow.double()
    assert not torch.allclose(flow.log_prob(x), before) or change.__name__ == "weight_norm"
    flow.log_prob(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())
    flow.eval()
    torch.testing.assert_close(flow.decode(flow.encode(x)), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("part", ["activation", "first_norm", "last"])
@pytest.mark.parametrize("training", [True, False])
def test_a_changed_network_of_glow_counts(part, training):
    net = perturb(GlowNet(2, 4, 8), 0.3).train(training)
    x, seen = torch.randn(3, 2, 4, 4), []
    before = net(x)
    getattr(net, part).register_forward_hook(lambda module, args, out: seen.append(1))
    torch.testing.assert_close(net(x), before)
    assert seen
    net.activation = nn.Tanh()
    assert not torch.allclose(net(x), before)
    assert torch.equal(net(x), net.eval()(x))


@dtypes
@pytest.mark.parametrize("context_features", [0, 2])
@pytest.mark.parametrize("part", [10**9, 100], ids=["whole", "parts"])
@pytest.mark.parametrize("wide", [0, 10**9], ids=["products", "convolutions"])
def test_fused_convolutions_are_the_plain_ones(
    dtype, tolerance, context_features, part, wide, monkeypatch
):
    monkeypatch.setattr(glow_fused, "PART", part)
    monkeypatch.setattr(glow_fused, "WIDE", wide)
    net = perturb(GlowNet(2, 6, 5, context_features), 0.3).to(dtype)
    x = torch.randn(7, 2, 4, 6, dtype=dtype, requires_grad=True)
    context = torch.randn(7, context_features, dtype=dtype) if context_features else None
    found = []
    for fused in (glow_fused.fused, glow_fused.plain):
        monkeypatch.setattr("diffeo.networks.glow.fused", fused)
        out = net(x, context)
        loss = (out * torch.linspace(-1, 1, out.numel(), dtype=dtype).view(out.shape)).sum()
        found.append([out, *torch.autograd.grad(loss, [x, *net.parameters()])])
    assert_close(found[0], found[1], tolerance)


@dtypes
@pytest.mark.parametrize("context_features", [0, 2])
@pytest.mark.parametrize(("kind", "outputs"), [(MLP, 4), (MaskedMLP, 6), (MaskedMLP, 18)])
def test_fused_linear_layers_are_the_plain_ones(
    kind, outputs, dtype, tolerance, context_features, monkeypatch
):
    net = perturb(kind(3, outputs, (8, 7), context_features), 0.3).to(dtype)
    x = torch.randn(9, 3, dtype=dtype, requires_grad=True)
    context = torch.randn(9, context_features, dtype=dtype) if context_features else None
    found = []
    for fused in (mlp_fused.fused, mlp_fused.plain):
        monkeypatch.setattr("diffeo.networks.mlp.fused", fused)
        out = net(x, context)
        loss = (out * torch.linspace(-1, 1, out.numel(), dtype=dtype).view(out.shape)).sum()
        found.append([out, *torch.autograd.grad(loss, [x, *net.parameters()])])
    assert_close(found[0], found[1], tolerance)
    x = x.detach().double().requires_grad_()
    context = None if context is None else context.double()
    net.double()

    def total(x: Tensor) -> Tensor:
        return net(x, context).sum(0)

    truth = torch.autograd.functional.jacobian(total, x)
    torch.testing.assert_close(torch.func.jacrev(total)(x), truth)


def test_gradients_of_gradients_of_fused_convolutions():
    net = perturb(GlowNet(1, 2, 3), 0.3).double()
    x = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: net(x), x, fast_mode=True)


@pytest.mark.parametrize("kind", [MLP, MaskedMLP])
def test_gradients_and_gradients_of_gradients_of_fused_linear_layers(kind):
    net = perturb(kind(3, 6, (5, 4)), 0.3).double()
    x = torch.randn(7, 3).double().requires_grad_()
    weights = {name: weight.detach().requires_grad_() for name, weight in net.named_parameters()}

    def squares(x: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip(weights, values, strict=True))
        return torch.func.functional_call(net, named, (x,)).square()

    for inputs in (x, x.detach().t().contiguous().t().requires_grad_()):  # in memory either way
        assert torch.autograd.gradcheck(squares, (inputs, *weights.values()), fast_mode=True)
        assert torch.autograd.gradgradcheck(squares, (inputs, *weights.values()), fast_mode=True)


def test_torch_func_sees_through_fused_convolutions():
    net = perturb(GlowNet(1, 2, 3), 0.3).double()
    x = torch.randn(1, 1, 3, 3, dtype=torch.float64)
    truth = torch.autograd.functional.jacobian(net, x)
    torch.testing.assert_close(torch.func.jacrev(net)(x), truth)
    torch.testing.assert_close(torch.func.jacfwd(net)(x), truth)


def test_fused_convolutions_in_bfloat16_are_near():
    net = perturb(GlowNet(2, 4, 16), 0.1)
    x = torch.randn(4, 2, 8, 8)
    exact = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(x)
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).abs().max()) < 0.05 * float(exact.abs().max())


# Compiled


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["stored", "constant"])
def test_a_compiled_flow_computes_the_same(memory):
    flow = perturb(RealNVP(5, layers=4, hidden=(16,)), 0.1).set_memory(memory)
    twin = copy.deepcopy(flow).compile()
    for rows in (64, 100, 7):  # one graph for all batch sizes
        x = torch.randn(rows, 5)
        found = []
        for model in (flow, twin):
            model.zero_grad()
            loss = model.log_prob(x).mean()
            loss.backward()
            found.append([loss, *(p.grad for p in model.parameters())])
        assert_close(found[1], found[0], 1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    twin.save_pretrained("model")
    x = torch.randn(3, 5)
    torch.testing.assert_close(Flow.from_pretrained("model").log_prob(x), flow.eval().log_prob(x))


def test_batch_norms_in_networks_count_once():
    flow = ImageRealNVP((1, 8, 8), 2, 4, 1)
    x = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8)
    states = []
    for memory in ("stored", "constant"):
        trial = copy.deepcopy(flow).set_memory(memory)
        trial.log_prob(x, generator=torch.Generator().manual_seed(0)).sum().backward()
        norms = [m for m in trial.modules() if isinstance(m, BatchNorm)]
        states.append([n.running_mean for n in norms] + [p.grad for p in trial.parameters()])
    assert_close(states[1], states[0], 1e-4)

"""Whatever a network is made to contain, a flow computes: values, gradients and inverses."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from constructors import perturb
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, prune

import diffeo
from diffeo.bijections.convolution import InvertibleConv1x1, NormalizedConv1x1
from diffeo.bijections.coupling import Conditioned
from diffeo.bijections.normalization import ActNorm, BatchNorm
from diffeo.networks.glow import ZeroConv

torch.manual_seed(0)
FLOWS = {
    "MLP": lambda: diffeo.RealNVP(3, layers=2, hidden=(8, 8)),
    "MaskedMLP": lambda: diffeo.MAF(3, layers=2, hidden=(8, 8)),
    "MLP with context": lambda: diffeo.RealNVP(3, layers=2, hidden=(8,), context=2),
    "GlowNet": lambda: diffeo.Glow((1, 4, 4), levels=1, steps=2, hidden_channels=6),
    "ResNet": lambda: diffeo.ImageRealNVP((1, 4, 4), scales=1, hidden_channels=4, blocks=1),
    "ConvNet": lambda: diffeo.ImageRealNVP(
        (1, 4, 4), scales=1, hidden_channels=4, network=diffeo.networks.ConvNet
    ),
}


class Low(nn.Module):
    """A LoRA module: a layer plus a product of low rank."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.scale = layer, nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * (1 + self.scale)


def replaced(kinds: tuple[type, ...], make):
    """Replace the first module of these kinds by what `make` returns for it."""

    def change(net: nn.Module) -> bool:
        for parent in net.modules():
            for name, child in parent.named_children():
                if isinstance(child, kinds):
                    setattr(parent, name, make(child))
                    return True
        return False

    return change


LAYERS = (nn.Linear, nn.Conv2d, ZeroConv)
PARTS = (*LAYERS, ActNorm, BatchNorm, nn.ReLU)


def subclassed(layer: nn.Module) -> nn.Module:
    class Doubled(type(layer)):
        def forward(self, *args):
            return 2 * super().forward(*args)

    layer.__class__ = Doubled
    return layer


def patched(layer: nn.Module) -> nn.Module:
    forward = layer.forward
    layer.forward = lambda *args: 2 * forward(*args)
    return layer


def hooked(layer: nn.Module) -> nn.Module:
    def doubled(module, args, out):
        return tuple(2 * part for part in out) if isinstance(out, tuple) else 2 * out

    layer.register_forward_hook(doubled)
    return layer


def hooked_before(layer: nn.Module) -> nn.Module:
    layer.register_forward_pre_hook(lambda module, args: (2 * args[0], *args[1:]))
    return layer


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.utils.weight_norm(layer)
    layer.weight_g.data.mul_(2)
    return layer


def new_weight_norm(layer: nn.Module) -> nn.Module:
    layer = parametrizations.weight_norm(layer)
    layer.parametrizations.weight.original0.data.mul_(2)
    return layer


def without_bias(layer: nn.Module) -> nn.Module:
    layer.bias.data.fill_(1.0)
    layer.bias = None
    return layer


def followed_by_relu(layers: nn.Module) -> nn.Module:
    return layers.append(nn.ReLU()) if isinstance(layers, nn.Sequential) else layers


WITH_WEIGHT = (nn.Linear,)
CHANGES = {
    "another activation": replaced((nn.ReLU,), lambda layer: nn.Tanh()),
    "a subclass": replaced(PARTS, subclassed),
    "a patched forward": replaced(PARTS, patched),
    "a hook": replaced(PARTS, hooked),
    "a hook before": replaced(PARTS, hooked_before),
    "a hook on a container": replaced((nn.Sequential,), hooked),
    "a low-rank module": replaced((nn.Linear, nn.Conv2d, ZeroConv), Low),
    "old weight norm": replaced(WITH_WEIGHT, old_weight_norm),
    "new weight norm": replaced(WITH_WEIGHT, new_weight_norm),
    "pruning": replaced(WITH_WEIGHT, lambda layer: prune.l1_unstructured(layer, "weight", 0.7)),
    "no bias": replaced(WITH_WEIGHT, without_bias),
    "a last activation": replaced((nn.Sequential,), followed_by_relu),
}
CASES = [
    (flow, change)
    for flow in FLOWS
    for change in CHANGES
    if CHANGES[change](next(p for p in FLOWS[flow]().modules() if isinstance(p, Conditioned)))
]


def made(name: str) -> tuple[diffeo.Flow, Tensor, Tensor | None]:
    flow = FLOWS[name]()
    context = torch.randn(6, 2, dtype=torch.float64) if flow.context_features else None
    if flow.takes_pixels:
        x = torch.randint(256, (6, *flow.shape), dtype=torch.uint8)
    else:
        x = torch.randn(6, *flow.shape, dtype=torch.float64)
    return perturb(flow.double().initialize(x, context), 0.2).double(), x, context


def coupling(flow: nn.Module) -> Conditioned:
    return next(part for part in flow.modules() if isinstance(part, Conditioned))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "change"), CASES)
def test_a_change_counts_with_and_without_gradients(name, change, training):
    flow, x, context = made(name)
    link = coupling(flow)
    assert CHANGES[change](link)
    flow.double().train(training)
    net = link.conditioner
    h = torch.randn(5, *_input_of(link, flow, x, context), dtype=torch.float64)
    c = None if context is None else torch.randn(5, 2, dtype=torch.float64)
    truth = of_modules(net, h, c)
    with torch.no_grad():
        torch.testing.assert_close(net(h, c), truth, rtol=1e-10, atol=1e-10)
    h.requires_grad_()
    found = net(h, c)
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-10)
    weights = [p for p in net.parameters() if p.requires_grad]
    grads = torch.autograd.grad(found.square().sum(), [h, *weights], allow_unused=True)
    for weight, grad in zip([h, *weights], grads, strict=True):
        assert grad is not None
        truth = _slope(net, weight, h, c)
        torch.testing.assert_close((grad * _direction(weight)).sum(), truth, rtol=1e-4, atol=1e-6)


def _input_of(link: Conditioned, flow, x, context) -> tuple[int, ...]:
    """The shape of what a coupling's network takes."""
    seen = []
    hook = link.conditioner.register_forward_pre_hook(lambda net, args: seen.append(args[0].shape))
    with torch.no_grad():
        flow.eval().log_prob(x, context)
    hook.remove()
    return seen[0][1:]


def _direction(weight: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(weight.shape, generator=generator, dtype=weight.dtype)


@torch.no_grad()
def of_modules(net: nn.Module, h: Tensor, c: Tensor | None) -> Tensor:
    """What the modules of a network compute one by one, as they do while a hook watches them."""
    handle = register_module_forward_hook(lambda *_: None)
    try:
        return net(h, c)
    finally:
        handle.remove()


@torch.no_grad()
def _slope(net: nn.Module, weight: Tensor, h: Tensor, c: Tensor | None) -> Tensor:
    """The derivative of the sum of squares along a direction, by differences."""
    step, by = 1e-6, _direction(weight)
    ends = []
    for sign in (1, -2):
        weight.data.add_(by, alpha=sign * step)
        ends.append(of_modules(net, h, c).square().sum())
    weight.data.add_(by, alpha=step)
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize(("name", "change"), CASES)
def test_a_changed_flow_is_its_own_inverse_and_has_a_right_log_det(name, change):
    flow, x, context = made(name)
    assert CHANGES[change](coupling(flow))
    flow.double().eval()
    z = flow.encode(x, context)
    back = flow.decode(z, context)
    if flow.takes_pixels:
        assert torch.equal(back, x)
        return
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    for row in range(3):
        given = None if context is None else context[row : row + 1]

        def encode(v: Tensor, given: Tensor | None = given) -> Tensor:
            return flow.encode(v[None], given)[0]

        jacobian = torch.autograd.functional.jacobian(encode, x[row])
        log_det = torch.linalg.slogdet(jacobian)[1]
        log_prob = flow.log_prob(x[row : row + 1], given)[0]
        truth = flow.base.log_prob(z[row : row + 1])[0] + log_det
        torch.testing.assert_close(log_prob, truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FLOWS)
def test_a_hook_on_all_modules_sees_every_layer(name):
    flow, x, context = made(name)
    link, seen = coupling(flow), []
    handle = register_module_forward_hook(lambda module, args, out: seen.append(module))
    try:
        flow.train().log_prob(x, context)
    finally:
        handle.remove()
    layers = [part for part in link.conditioner.modules() if isinstance(part, PARTS)]
    assert layers
    assert all(any(layer is module for module in seen) for layer in layers)


def test_dropout_in_a_network_drops_in_training_and_not_in_evaluation():
    flow, x, _ = made("MLP")
    coupling(flow).conditioner.layers.insert(2, nn.Dropout(0.5))
    flow.train()
    assert not torch.equal(flow.log_prob(x), flow.log_prob(x))
    flow.eval()
    assert torch.equal(flow.log_prob(x), flow.log_prob(x))
    torch.testing.assert_close(flow.decode(flow.encode(x)), x, rtol=1e-9, atol=1e-9)


class Stretched(ActNorm):
    """Twice an actnorm."""

    def forward(self, x, context=None):
        y, log_det = super().forward(x, context)
        return 2 * y, log_det + y[0].numel() * math.log(2)

    def inverse(self, y, context=None):
        x, log_det = super().inverse(y / 2, context)
        return x, log_det - y[0].numel() * math.log(2)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_subclass_of_actnorm_counts_where_it_is_folded_into_a_convolution(training):
    link = NormalizedConv1x1(Stretched(3), InvertibleConv1x1(3)).double().train(training)
    perturb(link, 0.1)
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    y, log_det = link(x)
    back, back_log_det = link.inverse(y)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(back_log_det, -log_det, rtol=1e-9, atol=1e-9)
    jacobian = torch.autograd.functional.jacobian(lambda v: link(v[None])[0].flatten(), x[0])
    truth = torch.linalg.slogdet(jacobian.reshape(12, 12))[1]
    torch.testing.assert_close(log_det[0], truth, rtol=1e-9, atol=1e-9)


def test_a_hook_on_a_convolution_or_actnorm_of_glow_is_called():
    flow, x, _ = made("GlowNet")
    flow.train()
    link = next(part for part in flow.modules() if isinstance(part, NormalizedConv1x1))
    before, seen = flow.log_prob(x, generator=torch.Generator().manual_seed(0)), []
    for part in (link.norm, link.conv):
        part.register_forward_hook(lambda module, args, out: seen.append(module))
    after = flow.log_prob(x, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    assert seen == [link.norm, link.conv]

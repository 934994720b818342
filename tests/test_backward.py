"""Gradients by hand, and those of rebuilt activations, compared with autograd through `forward`."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from constructors import BIJECTIONS, Entry, perturb
from diffeo.bijections.backward import Gradients, weights_of
from torch import Tensor, nn

from diffeo import Chain, Flow, Glow, ImageRealNVP, RealNVP
from diffeo.bijections import (
    ActNorm,
    Coupling,
    FeatureSplit,
    InvertibleConv1x1,
    NormalizedConv1x1,
    backward,
    together,
)
from diffeo.bijections.checkerboard import CompactCheckerboard, MaskedCheckerboard
from diffeo.bijections.normalization import BatchNorm
from diffeo.bijections.univariate import Additive, Affine, Univariate
from diffeo.networks import MLP, glow, products
from diffeo.networks.glow import GlowNet

every = pytest.mark.parametrize("entry", BIJECTIONS.values(), ids=BIJECTIONS.keys())
both_modes = pytest.mark.parametrize("training", [True, False])


def close(one: Tensor | None, other: Tensor | None, tolerance: float = 1e-10) -> None:
    if one is None or other is None:
        assert one is None or not one.any()
        assert other is None or not other.any()
        return
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def weighted(*outputs: Tensor) -> tuple[Tensor, ...]:
    """A gradient for each output, different for each of its elements."""
    return tuple(torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape) for y in outputs)


@both_modes
@every
def test_run_and_back_are_autograds(entry: Entry, training: bool):
    module = entry.ready().train(training)
    x, context = entry.x(5).requires_grad_(), entry.context(5)
    context = None if context is None else context.requires_grad_()
    weights = list(module.parameters())
    outputs = module(x, context)
    asked = [x, *weights] + ([] if context is None else [context])
    grads = weighted(*outputs)
    truth = torch.autograd.grad(
        [o for o in outputs if o.requires_grad],
        asked,
        [g for o, g in zip(outputs, grads, strict=True) if o.requires_grad],
        allow_unused=True,
    )
    # As in a training step: without a graph.
    with torch.no_grad():
        *result, kept = module.run(x.detach(), context)
    found = Gradients()
    with torch.no_grad():
        by_x = module.back(kept, context, *grads, found)
        found.settle()
    for one, other in zip(result, outputs, strict=True):
        close(one, other.detach())
        assert not one.requires_grad
    close(by_x, truth[0])
    for tensor, gradient in zip(asked[1:], truth[1:], strict=True):
        close(found.get(tensor), gradient)
    assert set(found) <= set(asked[1:])


@both_modes
@every
def test_what_is_rebuilt_is_what_was(entry: Entry, training: bool):
    module, x, context = entry.ready().train(training), entry.x(5), entry.context(5)
    with torch.no_grad():
        y, log_det, kept = module.run(x, context)
        note = module.note()
        if training and not module.alone:
            module(entry.x(5, seed=6), context)  # another batch comes between
        again, kept_again = module.rebuild(y, context, note)
        close(again, x)
        found, found_again = Gradients(), Gradients()
        grads = weighted(y, log_det)
        close(
            module.back(kept_again, context, *grads, found_again),
            module.back(kept, context, *grads, found),
            1e-9,
        )
        found.settle()
        found_again.settle()
    assert found.keys() == found_again.keys()
    for tensor, gradient in found.items():
        close(found_again[tensor], gradient, 1e-9)


@pytest.mark.parametrize("bend", [Additive(), Affine(0.7)], ids=["additive", "affine"])
def test_a_bends_own_gradients_are_those_of_any_bend(bend: Univariate):
    x, parameters = torch.randn(3, 2, 4).double(), torch.randn(3, 2 * bend.parameters_each, 4)
    parameters = parameters.double()
    *outputs, kept = bend.run(x, parameters)
    *general, kept_general = Univariate.run(bend, x, parameters)
    grads = weighted(*outputs)
    rebuilt = bend.rebuild(outputs[0], parameters)
    close(rebuilt[0], x)
    truth = Univariate.back(bend, kept_general, *grads)
    for own in (bend.back(kept, *grads), bend.back(rebuilt[1], *grads)):
        for one, other in zip(own, truth, strict=True):
            close(one, other)
    for one, other in zip(outputs, general, strict=True):
        close(one, other)
    close(Univariate.rebuild(bend, outputs[0], parameters)[0], x)


@pytest.mark.parametrize(
    "cut",
    [FeatureSplit(5), FeatureSplit(5, "second"), CompactCheckerboard("anti"), MaskedCheckerboard()],
    ids=repr,
)
def test_gather_is_the_transpose_of_split(cut):
    shape = (2, 5) if isinstance(cut, FeatureSplit) else (2, 1, 4, 4)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    parts = cut.split(x)
    grads = [torch.randn_like(part) for part in parts]
    (truth,) = torch.autograd.grad(parts, x, grads)
    close(cut.gather(*grads), truth)


@pytest.mark.parametrize("context_features", [0, 2])
def test_single_pixels_take_the_place_of_a_convolution_back(context_features, monkeypatch):
    """In wide networks; here in float64, where both must agree."""
    net = perturb(GlowNet(2, 4, 5, context_features)).double()
    for norm in (net.first_norm, net.second_norm):
        norm.initialized.fill_(True)
    x = torch.randn(3, 2, 4, 6, dtype=torch.float64)
    context = torch.randn(3, context_features, dtype=torch.float64, requires_grad=True)
    context = context if context_features else None
    results = []
    for pays in (True, False):
        monkeypatch.setattr(glow, "_few_pay", lambda x, by=pays: by)
        found = Gradients()
        with torch.no_grad():
            out, kept = net.run(x, context, torch.float64)
            by_x = net.back(kept, context, *weighted(out), found)
            found.settle()
        results.append([by_x, *(found[w] for w in net.parameters())])
    for one, other in zip(*results, strict=True):
        close(one, other)
    monkeypatch.undo()
    assert glow._few_pay(torch.empty(2, 512, 4, 4))
    assert not glow._few_pay(torch.empty(2, 128, 4, 4))
    assert not glow._few_pay(torch.empty(2, 512, 4, 4, device="meta"))


def test_a_batch_in_parts_is_the_batch(monkeypatch):
    net = perturb(GlowNet(2, 4, 5)).double()
    for norm in (net.first_norm, net.second_norm):
        norm.initialized.fill_(True)
    x = torch.randn(5, 2, 4, 6, dtype=torch.float64)
    results = []
    for activations in (1, 2 * 5 * 24, 2**40):  # one picture, two, all
        monkeypatch.setattr(glow, "IN_CACHE", activations)
        found = Gradients()
        with torch.no_grad():
            out, kept = net.run(x, None, torch.float64)
            assert [len(inputs[0]) for inputs in kept[0]] == [len(part) for part in net._parts(x)]
            by_x = net.back(kept, None, *weighted(out), found)
            found.settle()
            results.append([net(x), out, by_x, *(found[w] for w in net.parameters())])
    assert len(net._parts(x)) == 1
    for other in results[:2]:
        for one, whole in zip(other, results[2], strict=True):
            close(one, whole)


def test_convolution_and_relu_in_one_pass_are_the_two():
    net = perturb(GlowNet(2, 4, 8)).eval()
    x = torch.randn(3, 2, 6, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        fast = net(x)
        glow._IN_ONE_PASS, before = False, glow._IN_ONE_PASS
        slow = net(x)
        glow._IN_ONE_PASS = before
    torch.testing.assert_close(fast, slow, rtol=1e-2, atol=1e-2)


# Whole flows


def flows() -> dict[str, tuple[Flow, Tensor, Tensor | None]]:
    pictures = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    context = torch.randn(6, 2)
    rows = torch.randn(40, 5)
    return {
        "Glow": (Glow((3, 8, 8), 2, 3, 8), pictures, None),
        "Glow, context": (Glow((3, 8, 8), 2, 3, 8, context=2), pictures, context),
        "Glow, dense": (Glow((3, 8, 8), 2, 3, 8, lu=False), pictures, None),
        "Glow, shuffle": (Glow((3, 8, 8), 2, 3, 8, permutation="shuffle"), pictures, None),
        "ImageRealNVP": (ImageRealNVP((3, 8, 8), 2, 8, 1), pictures, None),
        "ImageRealNVP, masked": (
            ImageRealNVP((3, 8, 8), 2, 8, 1, checkerboard="masked", context=2),
            pictures,
            context,
        ),
        "RealNVP": (RealNVP(5, 6, (8,)), rows, None),
    }


def trained(flow: Flow, x: Tensor, context: Tensor | None, by: float = 0.05) -> Flow:
    return perturb(flow.initialize(x, context), by).train()


def gradients(flow: Flow, x: Tensor, context: Tensor | None) -> list[Tensor]:
    """The loss, and the gradient of each weight, of the context, and of x where it has one."""
    asked = list(flow.parameters())
    if context is not None:
        asked.append(context := context.clone().requires_grad_())
    if x.is_floating_point():
        asked.append(x := x.clone().requires_grad_())
    loss = -flow.log_prob(x, context, generator=torch.Generator().manual_seed(1)).mean()
    return [loss.detach(), *torch.autograd.grad(loss, asked)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", list(flows()))
def test_constant_memory_changes_no_gradient(name: str, dtype: torch.dtype, monkeypatch):
    monkeypatch.setattr("diffeo.bijections.base.LAST", 0)  # all are rebuilt
    flow, x, context = flows()[name]
    flow = trained(flow, x, context, by=0.02).to(dtype)
    x = x if x.dtype == torch.uint8 else x.to(dtype)
    context = None if context is None else context.to(dtype)
    stored, constant = (
        (other := copy.deepcopy(flow).set_memory(memory), gradients(other, x, context))
        for memory in ("stored", "constant")
    )
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    loss, *found = stored[1]
    close(constant[1][0], loss, tolerance)
    # Together, since some are nothing but rounding errors.
    one, other = (torch.cat([g.flatten() for g in part]) for part in (constant[1][1:], found))
    assert (one - other).norm() <= tolerance * other.norm()
    if not x.is_floating_point() and context is not None:
        assert (constant[1][-1] - found[-1]).norm() <= tolerance * found[-1].norm()
    # Statistics are kept once, and nothing else is left behind.
    for one, other in zip(constant[0].buffers(), stored[0].buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=lambda dtype: str(dtype)[6:])
def test_constant_memory_is_exact_at_96_steps(dtype: torch.dtype):
    torch.manual_seed(1)
    x = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
    flow = trained(Glow((3, 8, 8), 1, 96, 16), x, None, by=0.003).to(dtype)
    stored, constant = (
        torch.cat([g.flatten() for g in gradients(flow.set_memory(memory), x, None)[1:]])
        for memory in ("stored", "constant")
    )
    error = float((constant - stored).norm() / stored.norm())
    assert error < (1e-10 if dtype == torch.float64 else 1e-5)
    assert stored.norm() > 1


def test_constant_memory_with_networks_in_bfloat16():
    flow, x, _ = flows()["Glow"]
    flow = trained(flow, x, None).set_precision(torch.bfloat16)
    stored, constant = (
        torch.cat([g.flatten() for g in gradients(flow.set_memory(memory), x, None)[1:]])
        for memory in ("stored", "constant")
    )
    # A kept part that comes back with another last bit may be rounded to its neighbour.
    assert (constant - stored).norm() < 1e-2 * stored.norm()


def test_constant_memory_does_not_grow_with_depth():
    def held(memory: str, steps: int) -> int:
        torch.manual_seed(0)
        flow = Glow((3, 8, 8), 1, steps, 64).set_memory(memory)
        x = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8)
        trained(flow, x, None, by=0.01)
        gc.collect()
        before = {id(t) for t in gc.get_objects() if isinstance(t, Tensor)}
        loss = flow.log_prob(x).mean()
        alive = [t for t in gc.get_objects() if isinstance(t, Tensor) and id(t) not in before]
        del loss
        return sum({t.data_ptr(): t.untyped_storage().nbytes() for t in alive}.values())

    few, many = 8, 32
    stream = 16 * 3 * 64 * 4  # bytes
    assert held("stored", many) > 3 * held("stored", few)
    # At most what comes out of each node, of 16 links or 8 steps.
    grown = held("constant", many) - held("constant", few)
    assert grown <= (many - few) / 8 * stream * 1.1
    assert held("constant", many) < 0.15 * held("stored", many)


def test_a_chain_may_be_made_with_constant_memory():
    links = [Coupling(FeatureSplit(4), Affine(), nn.Linear(2, 4)) for _ in range(2)]

    class Plain(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            return self.inner(x)

    for link in links:
        link.conditioner = Plain(link.conditioner)
    chain = Chain(*links, memory="constant")
    assert chain[:1].memory == "constant"
    x = torch.randn(3, 4, requires_grad=True)
    found = []
    for memory in ("constant", "stored"):
        chain.memory = memory
        y, log_det = chain(x)
        total = (y * y).sum() + (log_det * log_det).sum()
        found.append(torch.autograd.grad(total, [x, *chain.parameters()]))
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-5)


# What else may be done with a graph


@pytest.fixture
def chain() -> tuple[Chain, Tensor]:
    entry = BIJECTIONS["Glow's coupling"]
    module = Chain(
        NormalizedConv1x1(ActNorm(3), InvertibleConv1x1(3, seed=0)), entry.make(), ActNorm(3)
    )
    x = torch.randn(4, 3, 2, 2)
    module.train()(x, torch.randn(4, 2))
    return perturb(module, 0.1).double(), x.double()


def loss_of(chain: Chain, x: Tensor) -> Tensor:
    y, log_det = chain(x, torch.ones(len(x), 2, dtype=x.dtype))
    return y.square().sum() + log_det.square().sum()


def test_it_is_one_node(chain):
    module, x = chain
    y, _ = module(x, torch.ones(len(x), 2, dtype=x.dtype))
    assert type(y.grad_fn).__name__ == "_RunBackward"
    leaves = {type(node).__name__ for node, _ in y.grad_fn.next_functions if node is not None}
    assert leaves == {"AccumulateGrad"}


def test_gradients_of_gradients(chain, monkeypatch):
    module, x = chain
    found = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr("diffeo.bijections.base.wanted", lambda: False)
        x = x.detach().requires_grad_()
        (first,) = torch.autograd.grad(loss_of(module, x), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [x, *module.parameters()]))
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-9)
    monkeypatch.undo()
    module.memory = "constant"
    monkeypatch.setattr("diffeo.bijections.base.LAST", 1)
    with pytest.raises(RuntimeError, match="memory='stored'"):
        torch.autograd.grad(loss_of(module, x), x, create_graph=True)


@pytest.mark.parametrize("memory", ["stored", "constant"])
def test_back_twice(chain, memory):
    module, x = chain
    module.memory = memory
    loss = loss_of(module, x.requires_grad_())
    one = torch.autograd.grad(loss, [x, *module.parameters()], retain_graph=True)
    other = torch.autograd.grad(loss, [x, *module.parameters()])
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


def test_what_was_kept_is_freed_by_going_back(chain):
    module, x = chain
    loss = loss_of(module, x)
    node = loss.grad_fn
    while type(node).__name__ != "_RunBackward":
        node = next(n for n, _ in node.next_functions if n is not None)
    assert len(node.kept) == 3
    loss.backward(retain_graph=True)
    assert len(node.kept) == 3
    loss.backward()
    assert not node.kept
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_weights_lent_for_a_call_get_the_gradients(chain):
    module, x = chain
    lent = {k: (v.detach() + 0.1).requires_grad_() for k, v in module.named_parameters()}
    context = torch.ones(len(x), 2, dtype=x.dtype)
    y, log_det = torch.func.functional_call(module, lent, (x, context))
    found = torch.autograd.grad(y.square().sum() + log_det.sum(), list(lent.values()))
    other = copy.deepcopy(module)
    other.load_state_dict(lent, strict=False)
    y, log_det = other(x, context)
    truth = torch.autograd.grad(y.square().sum() + log_det.sum(), list(other.parameters()))
    for one, true in zip(found, truth, strict=True):
        close(one, true)
    module.memory = "constant"
    y, log_det = torch.func.functional_call(module, lent, (x, context))
    assert y.grad_fn is not None
    with pytest.raises(RuntimeError, match="has other weights"):
        torch.autograd.grad(y.sum(), list(lent.values()))


@pytest.mark.parametrize("memory", ["stored", "constant"])
def test_weights_that_changed_in_between_are_noticed(chain, memory):
    module, x = chain
    module.memory = memory
    loss = loss_of(module, x)
    with torch.no_grad():
        next(module.parameters()).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_may_change_before_going_back(chain, training):
    module, x = chain
    weights = list(module.parameters())
    truth = torch.autograd.grad(loss_of(module.train(training), x), weights)
    loss = loss_of(module, x)
    module.train(not training)
    for one, other in zip(torch.autograd.grad(loss, weights), truth, strict=True):
        close(one, other)
    module.memory = "constant"
    loss = loss_of(module, x)
    module.train(training)
    with pytest.raises(RuntimeError, match="another mode"):
        loss.backward()


def test_a_hook_on_a_link_or_a_network_is_called(chain):
    module, x = chain
    truth = torch.autograd.grad(loss_of(module, x), list(module.parameters()))
    called = []
    for part in (module[0], module[1].conditioner):
        part.register_forward_hook(lambda *_, part=part: called.append(type(part).__name__))
    found = torch.autograd.grad(loss_of(module, x), list(module.parameters()))
    assert called == ["NormalizedConv1x1", "GlowNet"]
    for one, other in zip(found, truth, strict=True):
        close(one, other)


def test_frozen_weights_get_no_gradient(chain):
    module, x = chain
    frozen = next(module[1].parameters()).requires_grad_(False)
    loss_of(module, x).backward()
    assert frozen.grad is None
    assert all(p.grad is not None for p in module.parameters() if p is not frozen)


def test_a_weight_shared_by_two_links_gets_both_gradients():
    link = perturb(ActNorm(3)).double()
    link.initialized.fill_(True)
    x = torch.randn(4, 3, dtype=torch.float64)
    chain = Chain(link, link)
    found = torch.autograd.grad(loss_of(chain, x), list(link.parameters()))
    y, first = link(x)
    y, second = link(y)
    truth = torch.autograd.grad(
        y.square().sum() + (first + second).square().sum(), list(link.parameters())
    )
    for one, other in zip(found, truth, strict=True):
        close(one, other)


def test_weights_are_all_that_learn():
    flow = flows()["ImageRealNVP"][0]
    assert list(weights_of(flow)) == list(flow.parameters())


def test_a_rebuilt_link_leaves_no_trace():
    norm = BatchNorm(3)
    norm.train()(torch.randn(5, 3))
    before = norm.running_mean.clone(), norm.last_mean.clone()
    with backward._again():
        norm(torch.randn(5, 3) + 7)
        assert torch.equal(norm.running_mean, before[0])
        assert torch.equal(norm.last_mean, before[1])
    norm(torch.randn(5, 3) + 7)
    assert not torch.equal(norm.running_mean, before[0])


# Products of tables


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("by", ["oneDNN", "MKL", "switched off"])
def test_products_by_either_library_are_the_same(dtype: torch.dtype, by: str, monkeypatch):
    """Wide enough for oneDNN, which takes float32 alone; other dtypes and builds go without."""
    if by == "MKL":
        monkeypatch.setattr(products, "_linear_pointwise", None)
    source = torch.Generator().manual_seed(3)
    shapes = (48, 64), (48,), (64, 256), (48, 256)
    weight, bias, h, grad = (
        torch.randn(shape, generator=source, dtype=torch.float64) for shape in shapes
    )
    tolerance = {torch.bfloat16: 2e-2, torch.float32: 1e-4, torch.float64: 1e-12}[dtype]
    close = {"rtol": tolerance, "atol": 15 * tolerance}
    w, b, x, g = (part.to(dtype) for part in (weight, bias, h, grad))
    out = weight @ h + bias[:, None]
    with torch.backends.mkldnn.flags(enabled=by != "switched off"):
        for found, truth in (
            (products.linear(w, b, x), out),
            (products.linear(w, b, x.t().contiguous().t()), out),
            (products.relu_of_linear(x.t(), w, b), out.t().relu()),
            (products.relu_of_linear(x.t().contiguous(), w, b), out.t().relu()),
            (products.by_input(w, g), weight.t() @ grad),
            (products.by_weight(g, x), grad @ h.t()),
        ):
            assert found.dtype == dtype
            torch.testing.assert_close(found.double(), truth, **close)


@pytest.mark.parametrize("context_features", [0, 2])
def test_a_perceptron_by_hand_is_the_plain_one(context_features):
    net = perturb(MLP(3, 4, (40, 30), context_features)).eval()
    x, context = torch.randn(700, 3), torch.randn(700, context_features)
    rows = torch.cat((x, context), dim=1)
    given = (x, context if context_features else None)
    truth = net.layers(rows).detach()
    with torch.no_grad():
        torch.testing.assert_close(net(*given), truth, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(net.run(*given, x.dtype)[0], truth, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            assert net(*given).dtype == torch.bfloat16

    def of_row(row: Tensor) -> Tensor:
        return net(row[None, :3], row[None, 3:] if context_features else None)[0]

    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(of_row)(rows), truth, rtol=1e-4, atol=1e-4)


def test_each_feature_of_a_table_stays_in_one_piece():
    """Through a whole flow; what comes out of it is laid as people expect."""
    flow = RealNVP(5, 4, (8,)).initialize(torch.randn(20, 5)).eval()
    with torch.no_grad():
        x = torch.randn(20, 5)
        y, _ = flow.bijection(x)
        assert y.t().is_contiguous()
        assert flow.encode(x).is_contiguous()
        assert flow.decode(flow.encode(x)).is_contiguous()
        assert flow.sample(3).is_contiguous()


def test_only_what_learns_is_noted():
    frozen, learns = torch.zeros(2), torch.zeros(2, requires_grad=True)
    found = Gradients()
    found.add(frozen, torch.ones(2))
    found.add(learns, None)
    assert not found
    found.add(learns, torch.ones(2))
    found.add(learns, torch.ones(2))
    assert torch.equal(found[learns], torch.full((2,), 2.0))


def test_gradients_lie_side_by_side_where_that_is_asked():
    a, b, other = (torch.randn(2, 3, requires_grad=True) for _ in range(3))
    found = Gradients([a, b])
    values = torch.randn(3, 2, 3)
    found.add(a, values[0])
    found.add_product(b, values[1], torch.full((2, 1), 3.0))
    found.add_product(other, values[2], torch.tensor(2.0))
    assert found[a].untyped_storage().data_ptr() == found[b].untyped_storage().data_ptr()
    assert torch.equal(found[a], values[0])
    assert torch.equal(found[b], 3 * values[1])
    assert torch.equal(found[other], 2 * values[2])
    found.add_product(b, values[0], torch.ones(()))
    found.add(a, values[1])
    assert torch.equal(found[b], 3 * values[1] + values[0])
    assert torch.equal(found[a], values[0] + values[1])


def test_what_is_prepared_together_is_what_each_prepares_alone():
    links = [
        perturb(NormalizedConv1x1(ActNorm(c), InvertibleConv1x1(c, seed=seed))).double()
        for seed, c in enumerate((4, 4, 6, 4))
    ]
    for link in links:
        link.norm.initialized.fill_(True)
    dtype = torch.float64
    with torch.no_grad():
        alone = [link.prepare([link], dtype)[0] for link in links]
        with together.prepared((link, dtype) for link in links):
            for link, single in zip(links, alone, strict=True):
                ready = together.known(link, dtype)
                for name in ("weight", "bias", "log_det"):
                    close(getattr(ready, name), getattr(single, name))
                inverse, offset = (part[ready.place] for part in ready.alike.inverse)
                close(inverse @ ready.weight, torch.eye(len(inverse), dtype=dtype))
                close(inverse @ ready.bias, -offset)
            assert together.known(links[0], torch.float32) is None
            with torch.enable_grad():
                assert together.known(links[0], dtype) is None
        assert together.known(links[0], dtype) is None

"""A run of links as one node of the graph of gradients, with memory constant in depth if asked.

A flow is made of many small operations, and to autograd each is a call, a node, and tensors to
keep. Here a run of links is one node: each link computes without a graph and hands over what its
gradient needs, or, with constant memory, rebuilds that from its output.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from diffeo.bijections.together import Alike, prepared
from diffeo.bijections.watching import watched, watching

if TYPE_CHECKING:
    from diffeo.bijections.base import Bijection

Memory = Literal["stored", "constant"]
# So many links are a node. With more, distributed training would wait longer for gradients to
# share, and rounding errors would add up for longer where inputs are rebuilt.
LINKS = 16
# So many links at the end of a run keep their activations even in constant memory: theirs would be
# rebuilt before any other is needed, so nothing is saved by it.
LAST = 2


class Gradients(dict[Tensor, Tensor]):
    """The gradient of each tensor that needs one, as far as it has been found.

    Args:
        together: tensors whose gradients are to lie side by side in one block of memory. Each in a
            block of its own, among those of activations that come and go, they would leave holes
            into which nothing large fits: memory that grows with depth.
    """

    def __init__(self, together: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.raws: dict[Hashable, list[tuple[Alike, Any]]] = {}
        self.places: dict[Tensor, Tensor] = {}
        if together:
            block = together[0].new_empty(sum(tensor.numel() for tensor in together))
            parts = block.split([tensor.numel() for tensor in together])
            places = (part.view(t.shape) for part, t in zip(parts, together, strict=True))
            self.places = dict(zip(together, places, strict=True))

    def add(self, tensor: Tensor, gradient: Tensor | None) -> None:
        """Note a part of the gradient of a tensor."""
        if gradient is None or not tensor.requires_grad:
            return
        if tensor in self:
            self[tensor] = self[tensor] + gradient
        elif tensor in self.places:
            self[tensor] = self.places[tensor].copy_(gradient)
        else:
            self[tensor] = gradient

    def add_each(self, tensors: Iterable[Tensor], gradients: Tensor) -> None:
        """Note one gradient for each tensor; they are stacked along the first axis."""
        for tensor, gradient in zip(tensors, gradients, strict=True):
            self.add(tensor, gradient)

    def add_product(self, tensor: Tensor, a: Tensor, b: Tensor) -> None:
        """Note a b as a part of the gradient, computed where it is to lie."""
        if tensor in self or tensor not in self.places:
            self.add(tensor, a * b)
        else:
            self[tensor] = torch.mul(a, b, out=self.places[tensor])

    def later(self, module: Alike, raw: Any) -> None:
        """Leave what a module's gradients are made of, until those like it have left theirs."""
        likeness = module.likeness()
        alone = id(module) if likeness is None else None
        self.raws.setdefault((type(module), likeness, alone), []).append((module, raw))

    def settle(self) -> None:
        """Find the gradients of what was left for later."""
        for left in self.raws.values():
            type(left[0][0]).settle([raw for _, raw in left], self)
        self.raws.clear()


def wanted() -> bool:
    """Whether gradients are asked for, and none of `torch.func` and `torch.compile` looks on."""
    return torch.is_grad_enabled() and ordinary()


def ordinary() -> bool:
    """Whether operations are computed as they are called, not transformed or recorded."""
    return not torch._C._are_functorch_transforms_active() and not torch.compiler.is_compiling()


def hooked(module: nn.Module) -> bool:
    """Whether somebody wants to know when a module is called."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def weights_of(module: nn.Module) -> Iterator[Tensor]:
    """Its parameters that learn, as `parameters()` finds them by a longer way."""
    for parameter in module._parameters.values():
        if parameter is not None and parameter.requires_grad:
            yield parameter
    for part in module._modules.values():
        if part is not None:
            yield from weights_of(part)


def through(
    links: Sequence[Bijection],
    x: Tensor,
    context: Tensor | None,
    memory: Memory,
    keeps: int = 0,
) -> tuple[Tensor, Tensor]:
    """One link after another: `(y, log_det)`.

    With memory "stored" each link keeps what its gradient needs. With "constant" only y is kept:
    the backward pass goes from it backwards, and each link rebuilds its input from its output. That
    costs another evaluation of each link, as checkpoints would, and gradients are those of "stored"
    to about the precision of the dtype, as the inverses' rounding errors allow; gradients of
    gradients it has none. The last links, `keeps` of them, are spared it. (Gomez et al. 2017)
    """
    weights = tuple(dict.fromkeys(weight for link in links for weight in weights_of(link)))
    rebuilt = max(0, len(links) - keeps) if memory == "constant" else 0
    y, log_det = _Run.apply(links, rebuilt, x, context, *weights)
    return y, log_det


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        links: Sequence[Bijection],
        rebuilt: int,
        x: Tensor,
        context: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.links, ctx.rebuilt = links, rebuilt
        ctx.modes = [link.training for link in links]
        ctx.autocast = _autocast(x)
        ctx.kept, ctx.watch = [], watching()
        leaf = context
        if context is not None and context.requires_grad:
            leaf = context.detach().requires_grad_()
        ctx.context = leaf
        start, log_det = x, x.new_zeros(x.shape[0])
        with prepared(part for link in links for part in link.prepares(x)):
            for i, link in enumerate(links):
                if i < rebuilt:
                    x, step = link(x, leaf)
                    kept = link.note()
                    start = x
                else:
                    x, step, kept = link.run(x, leaf)
                log_det = log_det + step
                ctx.kept.append(kept)
                if ctx.watch is not None:
                    ctx.watch.passed(link, x, step)
        # With the weights, of which autograd then notices any change before the backward pass.
        ctx.save_for_backward(start, context, *weights)
        return x, log_det

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_log_det: Tensor) -> Any:
        stream, context, *weights = ctx.saved_tensors
        again = ctx.rebuilt or torch.is_grad_enabled()
        if again and ctx.modes != [link.training for link in ctx.links]:
            raise RuntimeError(
                "a chain that is evaluated again in the backward pass was in another mode before: "
                "call backward before train() or eval()."
            )
        if again and not _are_those_of(ctx.links, weights):
            raise RuntimeError(
                "a chain that is evaluated again in the backward pass has other weights there: "
                "where they are lent for a call, take memory='stored' and first gradients."
            )
        if torch.is_grad_enabled():
            return None, None, *_with_graph(ctx, stream, context, weights, grad, grad_log_det)
        found = Gradients([w for w in weights if w.dtype == stream.dtype] if ctx.rebuilt else ())
        kind, dtype, enabled = ctx.autocast
        with (
            _again(),
            watched(None),  # what is computed again was told before
            torch.autocast(kind, dtype, enabled=enabled),
            prepared(part for link in ctx.links[: ctx.rebuilt] for part in link.prepares(stream)),
        ):
            # Freed one by one, unless somebody wants to go back twice.
            all_kept = list(ctx.kept) if _graph_stays() else ctx.kept
            for i, link in reversed(list(enumerate(ctx.links))):
                kept = all_kept.pop()
                if i < ctx.rebuilt:
                    stream, kept = link.rebuild(stream, ctx.context, kept)
                    if ctx.watch is not None:
                        ctx.watch.rebuilt(link, stream)
                grad = link.back(kept, ctx.context, grad, grad_log_det, found)
                if ctx.watch is not None:
                    ctx.watch.went_back(link, grad)
            found.settle()
        by_context = None if ctx.context is None else found.get(ctx.context)
        return None, None, grad, by_context, *[found.get(weight) for weight in weights]


def _graph_stays() -> bool:
    """Whether `retain_graph=True` holds in this backward pass."""
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return asked is None or asked()


def _are_those_of(links: Sequence[Bijection], weights: Sequence[Tensor]) -> bool:
    """Whether the links still have these weights: `torch.func.functional_call` lends others."""
    held = dict.fromkeys(weight for link in links for weight in weights_of(link))
    return len(held) == len(weights) and all(weight in held for weight in weights)


def _with_graph(
    ctx: Any,
    x: Tensor,
    context: Tensor | None,
    weights: list[Tensor],
    grad: Tensor,
    grad_log_det: Tensor,
) -> list[Tensor | None]:
    """The gradients, with a graph for gradients of their own: by autograd, link after link."""
    if ctx.rebuilt:
        raise RuntimeError(
            "a chain with constant memory has no gradients of gradients: take memory='stored'."
        )
    log_det = x.new_zeros(x.shape[0])
    y = x
    for link in ctx.links:
        y, step = link(y, context)
        log_det = log_det + step
    inputs = [x, context, *weights]
    asked = [i for i, value in enumerate(inputs) if ctx.needs_input_grad[2 + i]]
    found = torch.autograd.grad(
        (y, log_det),
        [inputs[i] for i in asked],  # type: ignore[arg-type]
        (grad, grad_log_det),
        create_graph=True,
        allow_unused=True,
    )
    by_input = dict(zip(asked, found, strict=True))
    return [by_input.get(i) for i in range(len(inputs))]


def by_autograd(
    outputs: Sequence[Tensor],
    grads: Sequence[Tensor],
    x: Tensor,
    found: Gradients,
    *others: Tensor | None,
) -> Tensor:
    """The gradient of x, and of others into `found`, of outputs that have a graph of their own."""
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.requires_grad]
    asked = [tensor for tensor in others if tensor is not None and tensor.requires_grad]
    ours, theirs = zip(*pairs, strict=True)
    # The graph stays for whoever goes back twice, and is freed with the node that holds it.
    by_x, *rest = torch.autograd.grad(
        ours, (x, *asked), theirs, retain_graph=True, allow_unused=True
    )
    for tensor, gradient in zip(asked, rest, strict=True):
        found.add(tensor, gradient)
    return torch.zeros_like(x) if by_x is None else by_x


def precision_of(x: Tensor) -> torch.dtype:
    """The dtype in which a network computes on x: that of autocast, where it is on."""
    kind = x.device.type
    lower = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if lower else x.dtype


def _autocast(x: Tensor) -> tuple[str, torch.dtype | None, bool]:
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):
        return "cpu", None, False
    return kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)


class _State(threading.local):
    rebuilding = False


_state = _State()


def rebuilding() -> bool:
    """Whether a backward pass evaluates a link again, which must leave no trace in it."""
    return _state.rebuilding


@contextmanager
def _again() -> Iterator[None]:
    _state.rebuilding = True
    try:
        yield
    finally:
        _state.rebuilding = False

"""Modules and tensors of PyTorch: eval mode, chunks, and whether numbers are finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules

PLAIN: set[type] = {Tensor, nn.Parameter, type(None)}  # None where a layer has no bias
SMALLER_LR = "take a smaller --optimizer.lr"


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a call of a module does what its class says, and nobody watches it.

    Not a subclass or a parametrized module, which has a class of its own; none with a `forward` of
    its own, with hooks (old weight norm and pruning are some), or with weights that are no plain
    tensors. While hooks on all modules are set, no module is plain.
    """
    return (
        type(module) is kind
        and "forward" not in vars(module)
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not (module._backward_hooks or module._backward_pre_hooks)
        and not modules._has_any_global_hook()
        and PLAIN.issuperset(map(type, module._parameters.values()))
    )


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """A module in eval mode and without gradients; afterwards each part's own mode is restored."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def on_device(
    x: Tensor, context: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Events and their context on a device."""
    return x.to(device), None if context is None else context.to(device)


def in_chunks(
    function: Callable[[Tensor, Tensor | None], Tensor],
    x: Tensor,
    context: Tensor | None,
    size: int,
    device: torch.device,
) -> Tensor:
    """`function(x, context)`, for so many events at a time, to bound the memory of activations.

    Of no events the function gets one empty chunk, so that it can refuse a wrong shape.
    """
    parts = []
    for start in range(0, max(1, len(x)), size):
        rows = slice(start, start + size)
        given = None if context is None else context[rows]
        parts.append(function(*on_device(x[rows], given, device)))
    return torch.cat(parts)


def check_tensor(name: str, value: Any, like: Tensor, dtype: torch.dtype | None = None) -> None:
    """Refuse what is no tensor, or is one of another dtype or device than the flow's.

    Args:
        name: of the argument.
        value: what was passed.
        like: a tensor of the flow.
        dtype: that of `value`, if not that of the flow.

    Raises:
        ValueError: with what to pass instead.
    """
    wanted = dtype or like.dtype
    if not isinstance(value, Tensor):
        kind, made = type(value).__name__, f"torch.tensor({name}, dtype={wanted})"
        if hasattr(value, "to_numpy"):  # of pandas
            made = f"torch.tensor({name}.to_numpy(), dtype={wanted})"
        elif hasattr(value, "dtype"):
            kind, same = "NumPy array", str(value.dtype) == str(wanted).removeprefix("torch.")
            made = f"torch.from_numpy({name})" + ("" if same else f".to({wanted})")
        raise ValueError(f"{name} is a {kind} and the flow takes tensors: pass {made}.")
    if value.dtype != wanted:
        remedy = f"pass {name}.to({wanted})"
        if wanted == torch.uint8:
            remedy = "pass pixels as they are, 0 to 255"
        raise ValueError(f"{name} is {value.dtype} and the flow takes {wanted}: {remedy}.")
    if value.device != like.device:
        raise ValueError(
            f"{name} is on {value.device} and the flow on {like.device}: "
            f"pass {name}.to(flow.device)."
        )


class NotFiniteError(FloatingPointError):
    """A training met numbers that are not finite and cannot go on.

    Args:
        what: a clause that names the place.
        remedy: what a user may do, as a command.
    """

    def __init__(self, what: str, remedy: str = SMALLER_LR) -> None:
        super().__init__(what)
        self.remedy = remedy


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers of these tensors, which are on one device, are finite."""
    looks = [tensor.detach().isfinite().all() for tensor in tensors]
    return not looks or bool(torch.stack(looks).all())


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds a number that is not finite; None if none does."""
    if all_finite(tensors.values()):
        return None
    return next(name for name, tensor in tensors.items() if not all_finite([tensor]))


def nan_to_minus_infinity(values: Tensor, *given: Tensor | None) -> Tensor:
    """Values `(batch,)` with -inf for NaN, except in rows where something given is NaN."""
    lost = values.isnan()
    for tensor in given:
        if tensor is not None and tensor.is_floating_point():
            lost = lost & ~tensor.flatten(1).isnan().any(1)
    return values.masked_fill(lost, -math.inf)

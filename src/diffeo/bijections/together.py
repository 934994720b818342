"""What modules of one shape make of their weights, for all of them in one go.

A step of Glow makes a dozen small tensors of its weights before it meets its data, and as many of
their gradients. Each is a call of some microseconds whatever its size, and the steps of a level are
alike: their weights are stacked, and each call serves them all.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffeo.bijections.backward import Gradients


@runtime_checkable
class Alike(Protocol):
    """A module that computes something of its weights alone, and may do so with others."""

    def likeness(self) -> Hashable:
        """The same for modules that may be prepared together; None for one that may not be."""

    @classmethod
    def prepare(cls, modules: Sequence[Self], dtype: torch.dtype) -> list[Any]:
        """What each of these modules, which are alike, makes of its weights."""

    @classmethod
    def settle(cls, raws: Sequence[Any], found: Gradients) -> None:
        """The gradients of the weights of modules that are alike, from what `back` left of each."""


class _State(threading.local):
    def __init__(self) -> None:
        self.prepared: dict[tuple[Alike, torch.dtype], Any] = {}


_state = _State()


@contextmanager
def prepared(modules: Iterable[tuple[Alike, torch.dtype]]) -> Iterator[None]:
    """Prepare modules for a dtype; inside, `prepare` answers what they made. No graph is made."""
    groups: dict[tuple[type[Alike], torch.dtype, Hashable], list[Alike]] = {}
    for module, dtype in modules:
        likeness = module.likeness()
        if likeness is not None:
            groups.setdefault((type(module), dtype, likeness), []).append(module)
    before, made = _state.prepared, {}
    for (kind, dtype, _), members in groups.items():
        for module, value in zip(members, kind.prepare(members, dtype), strict=True):
            made[module, dtype] = value
    _state.prepared = made
    try:
        yield
    finally:
        _state.prepared = before


def known(module: Alike, dtype: torch.dtype) -> Any:
    """What a module has prepared for a dtype; None if it has not."""
    return None if torch.is_grad_enabled() else _state.prepared.get((module, dtype))


def prepare(module: Alike, dtype: torch.dtype) -> Any:
    """What a module makes of its weights for a dtype: now, if it is not prepared."""
    ready = known(module, dtype)
    return type(module).prepare([module], dtype)[0] if ready is None else ready


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape as one, along a new first axis; of a single one no copy."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))

"""Looking on while links compute: what they make going forward, and what goes back through them.

Hooks of PyTorch would see neither the links inside a node of the graph of gradients nor what is
rebuilt there (see `backward`), and would make a chain compute in its plain form instead.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Watch(ABC):
    """Who looks on. Each method is called with a part of the flow, in the order of computing."""

    @abstractmethod
    def passed(self, part: nn.Module, *made: Tensor) -> None:
        """A link, or what steers one, has made these of its input."""

    @abstractmethod
    def rebuilt(self, part: nn.Module, x: Tensor) -> None:
        """With constant memory, a link has made its input again from its output."""

    @abstractmethod
    def went_back(self, part: nn.Module, gradient: Tensor) -> None:
        """The gradient has gone back through a link, whose input has this one."""


class _State(threading.local):
    watch: Watch | None = None


_state = _State()


def watching() -> Watch | None:
    """Who looks on, if anybody does."""
    return None if torch.compiler.is_compiling() else _state.watch


@contextmanager
def watched(watch: Watch | None) -> Iterator[None]:
    """Let somebody look on in this thread."""
    before, _state.watch = _state.watch, watch
    try:
        yield
    finally:
        _state.watch = before


def tell_going_back(watch: Watch, part: nn.Module, x: Tensor) -> None:
    """Tell of the gradient of a link's input, where autograd finds it."""
    if x.requires_grad:
        x.register_hook(lambda gradient: watch.went_back(part, gradient))

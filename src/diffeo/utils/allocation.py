"""Builds a stranger's model in no more memory and time than its weights tell of.

A few bytes of config.json may ask for 10^9 layers, or for layers 10^9 wide. What is built must fit
the weights beside it, so whatever goes far beyond these is refused as it begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registry
from torch.overrides import TorchFunctionMode

# What a model may hold beyond its weights: what is not saved with it, what starting it takes.
TIMES, NUMBERS, TENSORS = 4, 2**24, 1_000


@contextmanager
def limit_allocation(state: Mapping[str, Tensor]) -> Iterator[None]:
    """Let what is built in the block have a few times the weights of `state`, and no more.

    Raises:
        ValueError: as soon as the block goes beyond.
    """
    budget = _Budget(
        TIMES * sum(tensor.numel() for tensor in state.values()) + NUMBERS,
        TIMES * len(state) + TENSORS,
    )
    hooks = [
        registry.register_module_parameter_registration_hook(budget.count),
        registry.register_module_buffer_registration_hook(budget.count),
        registry.register_module_module_registration_hook(budget.count),
    ]
    try:
        with _Sizes(budget):
            yield
    finally:
        for hook in hooks:
            hook.remove()


class _Budget:
    """What is left: numbers, and tensors and modules."""

    def __init__(self, numbers: int, things: int) -> None:
        self.numbers, self.things = numbers, things

    def count(self, owner: nn.Module, name: str, value: Any) -> None:
        """Take off what a module has been given."""
        self.things -= 1
        if isinstance(value, Tensor):
            self.check(value.numel())
            self.numbers -= value.numel()
        if self.things < 0:
            raise ValueError("it asks for many more weights than there are in the file")

    def check(self, numbers: int) -> None:
        """Refuse so many at once."""
        if numbers > self.numbers:
            raise ValueError("it asks for many more weights than there are in the file")


class _Sizes(TorchFunctionMode):
    """Looks at the sizes that torch is asked for, before it takes the memory."""

    def __init__(self, budget: _Budget) -> None:
        super().__init__()
        self.budget = budget

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _FACTORIES and args:
            size = list(args[0]) if isinstance(args[0], (list, tuple)) else [*args]
            if func is torch.eye:
                size = [*size, size[0]][:2]
            self.budget.check(math.prod(n for n in size if isinstance(n, int)))
        return func(*args, **kwargs or {})


_FACTORIES = {
    torch.arange,
    torch.empty,
    torch.eye,
    torch.full,
    torch.ones,
    torch.rand,
    torch.randn,
    torch.randperm,
    torch.zeros,
}

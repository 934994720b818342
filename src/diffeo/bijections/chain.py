"""Bijections combined: one after another, backwards, and of half of the channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import overload

import torch
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Example
from diffeo.bijections.elementwise import Scale, SinhArcsinh, Standardize
from diffeo.bijections.memory import Memory, checkpointed, in_constant_memory
from diffeo.bijections.normalization import ActNorm
from diffeo.bijections.reshape import Flatten, Permutation
from diffeo.utils.ranges import Count


class Chain(Bijection):
    """One bijection after another.

        y = f_n(... f_2(f_1(x))),   log|det dy/dx| = sum_i log|det df_i|

    Args:
        links: the bijections, in the order in which data meets them.
        memory: "stored" keeps all that the backward pass needs, which grows with the number of
            links. "constant" keeps the output of every sixteenth link and recomputes the rest, for
            about a third more time.

    Indexing and slicing work as for a list: `chain[0]` is a link, `chain[:2]` a shorter chain.
    """

    def __init__(self, *links: Bijection, memory: Memory = "stored") -> None:
        super().__init__()
        self.links: nn.ModuleList = nn.ModuleList(links)
        self.memory = memory

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        # The compiler decides for itself what to store.
        constant = self.memory == "constant" and not torch.compiler.is_compiling()
        if constant and torch.is_grad_enabled():
            return self._forward_in_constant_memory(x, context)
        log_det = x.new_zeros(x.shape[0])
        for link in self.links:
            x, step = link(x, context)
            log_det = log_det + step
        return x, log_det

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = y.new_zeros(y.shape[0])
        for link in reversed(self.links):
            y, step = link.inverse(y, context)  # type: ignore[operator]
            log_det = log_det + step
        return y, log_det

    def _forward_in_constant_memory(
        self, x: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(x.shape[0])
        for how, group in groupby(self, _how_to_run):
            if how == "replay":
                x, step = in_constant_memory(list(group), x, context)
                log_det = log_det + step
                continue
            for link in group:
                x, step = link(x, context) if how == "call" else checkpointed(link, x, context)
                log_det = log_det + step
        return x, log_det

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        for link in self:
            x = link.initialize(x, context)
        return x

    @property
    def cheap_inverse(self) -> bool:  # type: ignore[override]
        """Whether that of each link is."""
        return all(link.cheap_inverse for link in self)

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(), (3,), "zero")
        yield Example(
            lambda: cls(Permutation([1, 2, 0]), cls(Scale(3), Standardize(3))), (3,), "constant"
        )

    def __len__(self) -> int:
        return len(self.links)

    def __iter__(self) -> Iterator[Bijection]:
        return iter(self.links)  # type: ignore[arg-type]

    @overload
    def __getitem__(self, index: int) -> Bijection: ...
    @overload
    def __getitem__(self, index: slice) -> Chain: ...
    def __getitem__(self, index: int | slice) -> Bijection:
        if isinstance(index, slice):
            return Chain(*self.links[index], memory=self.memory)  # type: ignore[arg-type]
        return self.links[index]  # type: ignore[return-value]


def _how_to_run(link: Bijection) -> str:
    """Whether a link is replayed in constant memory, checkpointed, or holds chains that decide."""
    if any(isinstance(part, Chain) for part in link.modules()):
        return "call"
    return "replay" if link.cheap_inverse else "checkpoint"


class Inverse(Bijection):
    """The same bijection, backwards.

        y = f^-1(x),   log|det dy/dx| = log|det df^-1/dx|

    Args:
        bijection: f.
    """

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection = bijection

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.bijection.inverse(x, context)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.bijection(y, context)

    @property
    def cheap_inverse(self) -> bool:  # type: ignore[override]
        """Whether that of the bijection is."""
        return self.bijection.cheap_inverse

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(Permutation([1, 2, 0])), (3,), "zero")
        yield Example(lambda: cls(SinhArcsinh(3)), (3,))


class FactorOut(Bijection):
    """Send half of the channels out as they are, and the other half through a further flow.

        (a, b) = halves of x,   y = [flat(b), inner(a)],   log|det dy/dx| = log|det dinner/da|

    A learned prior of the part that leaves is a coupling before this one, in which `a` passes
    unchanged: b is then standardized given a, and all latents are standard noise.

    Args:
        shape: (C, H, W) of the input; C is even.
        inner: maps a `(batch, C/2, H, W)` to a flat vector `(batch, dims)`.

    (Dinh et al. 2017, section 3.6)
    """

    def __init__(self, shape: tuple[Count, Count, Count], inner: Bijection) -> None:
        super().__init__()
        channels, height, width = shape
        if channels % 2:
            raise ValueError(f"half of {channels} channels cannot be factored out: squeeze first.")
        self.shape: tuple[int, int, int] = (channels // 2, height, width)
        self.inner = inner

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        stays, leaves = x.chunk(2, dim=1)
        z, log_det = self.inner(stays, context)
        return torch.cat((leaves.flatten(1), z), dim=1), log_det

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        size = self.shape[0] * self.shape[1] * self.shape[2]
        stays, log_det = self.inner.inverse(y[:, size:], context)
        return torch.cat((stays, y[:, :size].unflatten(1, self.shape)), dim=1), log_det

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        stays, leaves = x.chunk(2, dim=1)
        return torch.cat((leaves.flatten(1), self.inner.initialize(stays, context)), dim=1)

    @property
    def cheap_inverse(self) -> bool:  # type: ignore[override]
        """Whether that of the inner flow is."""
        return self.inner.cheap_inverse

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(
            lambda: cls((4, 2, 2), Chain(ActNorm(2), Flatten(2, 2, 2))), (4, 2, 2), "constant"
        )

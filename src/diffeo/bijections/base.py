"""The contract that every map keeps, and the two ways of putting maps together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Generator, Tensor, nn

from diffeo.bijections import rebuilding
from diffeo.bijections.fused import wanted

Context = Float[Tensor, "batch context_features"]
Memory = Literal["stored", "constant"]


class Bijection(nn.Module, ABC):
    """An invertible map that knows how much it stretches space.

        forward(x) = (y, log|det dy/dx|),   inverse(y) = (x, log|det dx/dy|)

    `forward` runs from data to noise. Shapes: x `(batch, *shape)`, log-determinant `(batch,)` in
    nats and in the dtype of x. `context` `(batch, context_features)` steers the map where it is a
    conditional one, and is ignored elsewhere.

    A bijection never changes its input and never draws from torch's global random state. One that
    initialises from data does so in `forward` in training mode only, and says so in its state.

    Attributes:
        rebuilds: whether a chain of constant memory may rebuild the input of this link from its
            output. Those that have no weights, or that hold a chain of their own, say no.
    """

    rebuilds: bool = True

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "batch *shape"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch *out"], Float[Tensor, " batch"]]:
        """Map data x `(batch, *shape)` towards noise: `(y, log|det dy/dx|)`."""

    @abstractmethod
    def inverse(
        self, y: Float[Tensor, "batch *out"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, " batch"]]:
        """Map noise-side y `(batch, *out)` back: `(x, log|det dx/dy|)`."""

    def rebuild(
        self,
        y: Tensor,
        context: Context | None,
        grad: Tensor,
        grad_log_det: Tensor,
        asked: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor, Sequence[Tensor | None]]:
        """Rebuild x from y, and go back with the gradients: `(x, gradient of x, those asked for)`.

        Args:
            y: what `forward` returned, `(batch, *out)`.
            context: what it was given.
            grad: gradient of y.
            grad_log_det: gradient of the log-determinant `(batch,)`.
            asked: tensors whose gradients are asked for beside that of x.
        """
        with torch.no_grad():
            x = self.inverse(y, context)[0]
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            outputs = self(x, context)
        by_x, *others = rebuilding.gradients(outputs, (grad, grad_log_det), (x, *asked))
        assert by_x is not None
        return x.detach(), by_x, others

    def note(self) -> Any:
        """What `rebuild` has to know of the last `forward` beside its output; most know nothing."""
        return None

    def recall(self, note: Any) -> None:
        """Go back to what `note` returned, before `rebuild`."""


class Dequantizer(nn.Module, ABC):
    """The door for discrete data: a surjection onto a grid, with a way in that adds noise.

    `forward` puts a value at the middle of its cell, `noisy` anywhere in the cell, and `inverse`
    returns any point of the cell to the value, so `inverse(forward(x))` is x bit for bit.

    Attributes:
        takes: the dtype of data at the door; None for that of the flow.
    """

    takes: torch.dtype | None = None

    @abstractmethod
    def forward(
        self, x: Shaped[Tensor, "batch *shape"]
    ) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, " batch"]]:
        """The middle of each cell: `(y, log_det)`."""

    @abstractmethod
    def noisy(
        self, x: Shaped[Tensor, "batch *shape"], generator: Generator | None = None
    ) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, " batch"]]:
        """A point drawn uniformly from each cell: `(y, log_det)`."""

    @abstractmethod
    def inverse(self, y: Float[Tensor, "batch *shape"]) -> Shaped[Tensor, "batch *shape"]:
        """The value whose cell holds y."""


class Chain(Bijection):
    """One bijection after another.

        y = f_n(... f_2(f_1(x))),   log|det dy/dx| = sum_i log|det df_i|

    Args:
        links: the bijections, in the order in which data meets them.
        memory: "stored" keeps all that the backward pass needs, which grows with the number of
            links. "constant" keeps only what comes out, and rebuilds the rest from it, for about a
            third more time (see `rebuilding.through`).

    Indexing and slicing work as for a list: `chain[0]` is a link, `chain[:2]` a shorter chain.
    """

    rebuilds = False

    def __init__(self, *links: Bijection, memory: Memory = "stored") -> None:
        super().__init__()
        self.links = nn.ModuleList(links)
        self.memory = memory

    def forward(
        self, x: Float[Tensor, "batch *shape"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch *out"], Float[Tensor, " batch"]]:
        log_det = x.new_zeros(x.shape[0])
        constant = self.memory == "constant" and wanted()
        for rebuilds, run in groupby(self.links, lambda link: constant and link.rebuilds):
            if rebuilds:
                x, step = rebuilding.through(list(run), x, context)
                log_det = log_det + step
                continue
            for link in run:
                x, step = link(x, context)
                log_det = log_det + step
        return x, log_det

    def inverse(
        self, y: Float[Tensor, "batch *out"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, " batch"]]:
        log_det = y.new_zeros(y.shape[0])
        for link in reversed(self.links):
            y, step = link.inverse(y, context)  # type: ignore[operator]
            log_det = log_det + step
        return y, log_det

    def __len__(self) -> int:
        return len(self.links)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.links)

    def __getitem__(self, index: int | slice) -> nn.Module:
        picked = self.links[index]
        return Chain(*picked, memory=self.memory) if isinstance(index, slice) else picked  # type: ignore[misc]


class Inverse(Bijection):
    """The same bijection, read backwards.

        y = f^-1(x),   log|det dy/dx| = log|det df^-1/dx|

    Args:
        bijection: f.
    """

    rebuilds = False

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection = bijection

    def forward(
        self, x: Float[Tensor, "batch *shape"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch *out"], Float[Tensor, " batch"]]:
        return self.bijection.inverse(x, context)

    def inverse(
        self, y: Float[Tensor, "batch *out"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, " batch"]]:
        return self.bijection(y, context)

"""The contract that every map keeps, and the two ways of putting maps together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Generator, Tensor, nn

from diffeo.bijections.backward import (
    LAST,
    LINKS,
    Gradients,
    Memory,
    by_autograd,
    hooked,
    through,
    wanted,
    weights_of,
)
from diffeo.bijections.together import Alike
from diffeo.bijections.watching import tell_going_back, watching

Context = Float[Tensor, "batch context_features"]


class Bijection(nn.Module, ABC):
    """An invertible map that knows how much it stretches space.

        forward(x) = (y, log|det dy/dx|),   inverse(y) = (x, log|det dx/dy|)

    `forward` runs from data to noise. Shapes: x `(batch, *shape)`, log-determinant `(batch,)` in
    nats and in the dtype of x. `context` `(batch, context_features)` steers the map where it is a
    conditional one, and is ignored elsewhere.

    A bijection never changes its input and never draws from torch's global random state. One that
    initialises from data does so in `forward` in training mode only, and says so in its state.

    Attributes:
        alone: whether it stays out of the runs of links that a chain makes one node of the graph
            of gradients (see `backward`): those that hold a chain of their own, and those without
            weights.
    """

    alone: bool = False

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

    # How gradients go back through a run of links (see `backward`). What follows is right for any
    # bijection; one that is used much says the same with fewer operations.

    def run(self, x: Tensor, context: Context | None) -> tuple[Tensor, Tensor, Any]:
        """What `forward` returns, without a graph, and what `back` needs: `(y, log_det, kept)`."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y, log_det = self(x, context)
        return y.detach(), log_det.detach(), (x, (y, log_det), list(weights_of(self)))

    def rebuild(self, y: Tensor, context: Context | None, note: Any) -> tuple[Tensor, Any]:
        """The x that `forward` made y of, and what `run` would have kept: `(x, kept)`."""
        with torch.no_grad():
            x = self.inverse(y, context)[0]
        return x, self.run(x, context)[2]

    def prepares(self, x: Tensor) -> Iterable[tuple[Alike, torch.dtype]]:
        """The parts that prepare their weights with those of other links (see `together`)."""
        return ()

    def note(self) -> Any:
        """What `rebuild` has to know of the last `forward` beside y; most need nothing."""
        return None

    def back(
        self,
        kept: Any,
        context: Context | None,
        grad: Tensor,
        grad_log_det: Tensor,
        found: Gradients,
    ) -> Tensor:
        """The gradient of x, from those of y and of the log-determinant.

        Those of the weights and of the context go into `found`.
        """
        x, outputs, weights = kept
        return by_autograd(outputs, (grad, grad_log_det), x, found, *weights, context)


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
            links. "constant" keeps only what comes out, once in 16 links, and rebuilds the rest,
            for about a quarter more time (see `backward.through`).

    Indexing and slicing work as for a list: `chain[0]` is a link, `chain[:2]` a shorter chain.
    """

    alone = True

    def __init__(self, *links: Bijection, memory: Memory = "stored") -> None:
        super().__init__()
        self.links = nn.ModuleList(links)
        self.memory = memory

    def forward(
        self, x: Float[Tensor, "batch *shape"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch *out"], Float[Tensor, " batch"]]:
        if not wanted():
            return self._one_by_one(list(self.links), x, context)
        log_det = x.new_zeros(x.shape[0])
        for alone, group in groupby(self.links, lambda link: link.alone or hooked(link)):
            links = list(group)
            if alone:
                x, step = self._one_by_one(links, x, context)
                log_det = log_det + step
                continue
            for start in range(0, len(links), LINKS):
                node: list[Any] = links[start : start + LINKS]
                # The last links of the run are where the backward pass begins.
                keeps = min(LAST, start + LINKS - len(links) + LAST)
                x, step = through(node, x, context, self.memory, max(0, keeps))
                log_det = log_det + step
        return x, log_det

    @staticmethod
    def _one_by_one(
        links: list[nn.Module], x: Tensor, context: Context | None
    ) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(x.shape[0])
        watch = watching()
        for link in links:
            given = x
            x, step = link(x, context)
            log_det = log_det + step
            if watch is not None:
                tell_going_back(watch, link, given)
                watch.passed(link, x, step)
        return x, log_det

    def inverse(
        self, y: Float[Tensor, "batch *out"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, " batch"]]:
        log_det = y.new_zeros(y.shape[0])
        watch = watching()
        for link in reversed(self.links):
            y, step = link.inverse(y, context)  # type: ignore[operator]
            log_det = log_det + step
            if watch is not None:
                watch.passed(link, y, step)
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

    alone = True

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

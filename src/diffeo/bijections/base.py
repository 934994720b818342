"""The contract of every bijection: `forward`, `inverse`, and what has a default."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from diffeo.utils import html
from diffeo.utils.config import Configurable


class Bijection(Configurable, nn.Module, ABC):
    """An invertible map with the logarithm of its Jacobian's determinant.

        forward(x) = (y, log|det dy/dx|),   inverse(y) = (x, log|det dx/dy|)

    `forward` runs from data to noise. Shapes: x `(batch, *shape)`, log-determinant `(batch,)` in
    nats and in the dtype of x. `context` `(batch, context_features)` conditions the map, if it is a
    conditional one, and is ignored elsewhere. These two methods are all that an author writes.

    A bijection does not modify its input and does not use torch's global random state.

    Attributes:
        cheap_inverse: False where the inverse needs a loop or a solver, or is none in training
            mode; training in constant memory then recomputes `forward` from its input.
    """

    cheap_inverse: bool = True

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data x `(batch, *shape)` towards noise: `(y, log|det dy/dx|)`."""

    @abstractmethod
    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise-side y `(batch, *out)` back: `(x, log|det dx/dy|)`."""

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Set what starts from data, unless it was set before, and return `forward`'s y."""
        return self(x, context)[0]

    def replay(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Recompute `forward` from its output, with a graph: `(x, y, log_det)`, x a leaf of it."""
        with torch.no_grad():
            x = self.inverse(y, context)[0]
        x = x.detach().requires_grad_()
        return x, *self(x, context)

    def _repr_html_(self) -> str:
        """The tree of its parts, for notebooks."""
        facts = [fact for fact in (self.extra_repr(), html.weights(self)) if fact]
        return html.page(html.heading(type(self).__name__, facts), html.tree(self))

    @classmethod
    def examples(cls) -> Iterable[Example]:
        """Small instances, which the conformance tests visit."""
        return ()


@dataclass(frozen=True)
class Example:
    """A small bijection, and what the conformance tests have to know of it.

    Args:
        make: makes it.
        shape: of one event x.
        log_det: "zero" where volume is preserved, "constant" where it is the same for all rows.
        context_features: width of the context; 0 for none.
        interval: where x lies, if not on the whole line.
        other: makes one of the same shapes in another state, where perturbed weights do not.
        normalizes_batches: whether training mode depends on the other rows of a batch.
        perturbation: standard deviation by which weights are moved from their start; less for
            deep stacks, whose Jacobian would otherwise be too ill-conditioned to compare with.
        exact: False where log_det is an estimate, which has a test of its own.
        tolerance: how far numbers may be from the truth, where a solver has a tolerance.
    """

    make: Callable[[], Bijection]
    shape: tuple[int, ...]
    log_det: Literal["zero", "constant", "varying"] = "varying"
    context_features: int = 0
    interval: tuple[float, float] | None = None
    other: Callable[[], Bijection] | None = None
    normalizes_batches: bool = False
    perturbation: float = 0.3
    exact: bool = True
    tolerance: float = 0.0

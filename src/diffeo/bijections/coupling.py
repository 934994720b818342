"""The coupling layer: where to cut, how to bend, what steers it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffeo.bijections.backward import (
    Gradients,
    by_autograd,
    hooked,
    precision_of,
    weights_of,
)
from diffeo.bijections.base import Bijection, Context
from diffeo.bijections.splits import Cut
from diffeo.bijections.together import Alike
from diffeo.bijections.univariate import Univariate
from diffeo.bijections.watching import watching


class Coupling(Bijection):
    """Keep one part of the input, and bend the other as the kept part says.

        (a, b) = cut(x),   y = merge(a, bend(b; conditioner(a, context)))
        log|det dy/dx| = log|det dbend/db|

    The kept part is there on both sides, so the inverse needs no inverse of the conditioner.

    Args:
        cut: takes x apart and together again.
        bend: how the second part is mapped, given its parameters.
        conditioner: network `(kept, context) -> parameters`, with `bend.parameters_each` of them
            for each bent element, stacked along axis 1. One whose gradient is written by hand has
            `by_hand(dtype of kept, dtype to compute in)`, which says whether it is of use,
            `run(kept, context, dtype) -> (parameters, what back needs)` and
            `back(what it needs, context, grad, found) -> gradient of kept`.

    Attributes:
        precision: the dtype in which the conditioner computes, such as `torch.bfloat16`; None for
            that of x. Its parameters come back in the dtype of x, which all else keeps. The
            inverse of a coupling stays exact; in a stack of them, a kept part that comes back with
            another last bit may be rounded to its neighbour, and be steered a little differently.

    (Dinh et al. 2014, section 3.1; Dinh et al. 2017, section 3.2)
    """

    precision: torch.dtype | None = None

    def __init__(self, cut: Cut, bend: Univariate, conditioner: nn.Module) -> None:
        super().__init__()
        self.cut = cut
        self.bend = bend
        self.conditioner = conditioner

    def forward(
        self, x: Float[Tensor, "batch *shape"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, " batch"]]:
        kept, bent = self.cut.split(x)
        bent, log_det = self.bend(bent, self._parameters_for(kept, context))
        return self.cut.merge(kept, bent), log_det

    def inverse(
        self, y: Float[Tensor, "batch *shape"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, " batch"]]:
        kept, bent = self.cut.split(y)
        bent, log_det = self.bend.inverse(bent, self._parameters_for(kept, context))
        return self.cut.merge(kept, bent), log_det

    # Backward -----------------------------------------------------------------------------------

    def run(self, x: Tensor, context: Context | None) -> tuple[Tensor, Tensor, Any]:
        """See `Bijection.run`."""
        kept, bent = self.cut.split(x)
        parameters, steering = self._steer(kept, context)
        bent, log_det, bending = self.bend.run(bent, parameters)
        return self.cut.merge(kept, bent), log_det, (steering, bending)

    def rebuild(self, y: Tensor, context: Context | None, note: Any) -> tuple[Tensor, Any]:
        """See `Bijection.rebuild`.

        The kept part that steers is the same on both sides, so what the conditioner says of it
        serves both to straighten the bent part and to find the gradients.
        """
        kept, bent = self.cut.split(y)
        parameters, steering = self._steer(kept, context)
        bent, bending = self.bend.rebuild(bent, parameters)
        return self.cut.merge(kept, bent), (steering, bending)

    def back(
        self,
        kept: Any,
        context: Context | None,
        grad: Tensor,
        grad_log_det: Tensor,
        found: Gradients,
    ) -> Tensor:
        """See `Bijection.back`."""
        steering, bending = kept
        by_kept, by_bent = self.cut.split(grad)
        by_bent, by_parameters = self.bend.back(bending, by_bent, grad_log_det)
        by_hand, *steering = steering
        conditioner: Any = self.conditioner
        if by_hand:
            steered = conditioner.back(*steering, context, by_parameters, found)
        else:
            leaf, parameters, weights = steering
            outputs = (parameters,), (by_parameters,)
            steered = by_autograd(*outputs, leaf, found, *weights, context)
        return self.cut.gather(by_kept + steered, by_bent)

    def prepares(self, x: Tensor) -> Iterator[tuple[Alike, torch.dtype]]:
        """See `Bijection.prepares`."""
        conditioner: Any = self.conditioner
        if hasattr(conditioner, "likeness") and not hooked(conditioner):
            yield conditioner, self.precision or precision_of(x)

    def _steer(self, kept: Tensor, context: Context | None) -> tuple[Tensor, Any]:
        """What the conditioner says, and what its gradient needs."""
        dtype = self.precision or precision_of(kept)
        conditioner: Any = self.conditioner
        by_hand = getattr(conditioner, "by_hand", None)
        if by_hand is not None and by_hand(kept.dtype, dtype) and not hooked(conditioner):
            parameters, needs = conditioner.run(kept, context, dtype)
            return self._seen(parameters), (True, needs)
        with torch.enable_grad():
            leaf = kept.detach().requires_grad_()
            parameters = self._parameters_for(leaf, context)
        weights = list(weights_of(self.conditioner))
        return parameters.detach(), (False, leaf, parameters, weights)

    # --------------------------------------------------------------------------------------------

    def _parameters_for(self, kept: Tensor, context: Context | None) -> Tensor:
        """What the conditioner says about the bent part."""
        if self.precision is None:
            return self._seen(self.conditioner(kept, context))
        with torch.autocast(kept.device.type, self.precision):
            return self._seen(self.conditioner(kept, context).to(kept.dtype))

    def _seen(self, parameters: Tensor) -> Tensor:
        watch = watching()
        if watch is not None:
            watch.passed(self.conditioner, parameters)
        return parameters

"""The coupling layer: where to cut, how to bend, what steers it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Context
from diffeo.bijections.bends import Bend
from diffeo.bijections.cuts import Cut
from diffeo.bijections.rebuilding import gradients


class Coupling(Bijection):
    """Keep one part of the input, and bend the other as the kept part says.

        (a, b) = cut(x),   y = merge(a, bend(b; conditioner(a, context)))
        log|det dy/dx| = log|det dbend/db|

    The kept part is there on both sides, so the inverse needs no inverse of the conditioner.

    Args:
        cut: takes x apart and together again.
        bend: how the second part is mapped, given its parameters.
        conditioner: network `(kept, context) -> parameters`, with `bend.parameters_each` of them
            for each bent element, stacked along axis 1.

    Attributes:
        precision: the dtype in which the conditioner computes, such as `torch.bfloat16`; None for
            that of x. Its parameters come back in the dtype of x, which all else keeps. The
            inverse of a coupling stays exact; in a stack of them, a kept part that comes back with
            another last bit may be rounded to its neighbour, and be steered a little differently.

    (Dinh et al. 2014, section 3.1; Dinh et al. 2017, section 3.2)
    """

    precision: torch.dtype | None = None

    def __init__(self, cut: Cut, bend: Bend, conditioner: nn.Module) -> None:
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

    def rebuild(
        self,
        y: Tensor,
        context: Context | None,
        grad: Tensor,
        grad_log_det: Tensor,
        asked: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor, Sequence[Tensor | None]]:
        """`Bijection.rebuild`, with one evaluation of the conditioner.

        What it says about the bent part serves both to straighten that and to find the gradients,
        since the kept part that steers it is on both sides the same.
        """
        kept, bent = (part.detach() for part in self.cut.split(y))
        with torch.enable_grad():
            parameters = self._parameters_for(kept.requires_grad_(), context)
        by_kept, by_bent = self.cut.split(grad)
        bent, by_bent, by_parameters = self.bend.rebuild(
            bent, parameters.detach(), by_bent, grad_log_det
        )
        steering, *others = gradients((parameters,), (by_parameters,), (kept, *asked))
        with torch.enable_grad():
            x = self.cut.merge(kept.detach(), bent).requires_grad_()
            parts = self.cut.split(x)
        (by_x,) = gradients(parts, (by_kept + steering, by_bent), (x,))
        return x.detach(), by_x, others

    def _parameters_for(self, kept: Tensor, context: Context | None) -> Tensor:
        """What the conditioner says about the bent part."""
        if self.precision is None:
            return self.conditioner(kept, context)
        with torch.autocast(kept.device.type, self.precision):
            return self.conditioner(kept, context).to(kept.dtype)

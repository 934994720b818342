"""The coupling layer: where to cut, how to bend, what steers it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Context
from diffeo.bijections.bends import Bend
from diffeo.bijections.cuts import Cut


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

    (Dinh et al. 2014, section 3.1; Dinh et al. 2017, section 3.2)
    """

    def __init__(self, cut: Cut, bend: Bend, conditioner: nn.Module) -> None:
        super().__init__()
        self.cut = cut
        self.bend = bend
        self.conditioner = conditioner

    def forward(
        self, x: Float[Tensor, "batch *shape"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, " batch"]]:
        kept, bent = self.cut.split(x)
        bent, log_det = self.bend(bent, self.conditioner(kept, context))
        return self.cut.merge(kept, bent), log_det

    def inverse(
        self, y: Float[Tensor, "batch *shape"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, " batch"]]:
        kept, bent = self.cut.split(y)
        bent, log_det = self.bend.inverse(bent, self.conditioner(kept, context))
        return self.cut.merge(kept, bent), log_det

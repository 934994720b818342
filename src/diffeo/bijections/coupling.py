"""The coupling: one part of the input conditions the map of the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Example
from diffeo.bijections.splits import FeatureSplit, NoSplit, Split
from diffeo.bijections.univariate import Affine, Univariate
from diffeo.networks.constant import Constant
from diffeo.networks.mlp import MLP

# A class of `diffeo.networks`, or `functools.partial` of one, called with the number of inputs, of
# outputs, the widths of hidden layers (for images: the number of hidden channels), and the width
# of the context.
Network: TypeAlias = Callable[[int, int, Any, int], nn.Module]


class Conditioned(Bijection):
    """A bijection that maps with parameters from a network.

    Attributes:
        univariate: the elementwise map.
        conditioner: the network.
        precision: the dtype in which the network computes, such as `torch.bfloat16`; None for that
            of x. Its parameters come back in the dtype of x, as does everything else.
    """

    univariate: Univariate
    conditioner: nn.Module
    precision: torch.dtype | None = None

    def _parameters_for(self, a: Tensor, context: Tensor | None) -> Tensor:
        """The parameters of the univariate map, given what conditions it."""
        if self.precision is None:
            return self.conditioner(a, context)
        with torch.autocast(a.device.type, self.precision):
            return self.conditioner(a, context).to(a.dtype)


class Coupling(Conditioned):
    """Pass one part of the input through, and map the other with parameters computed from it.

        (a, b) = split(x),   y = merge(a, univariate(b; conditioner(a, context)))
        log|det dy/dx| = log|det dunivariate/db|

    Part a is the same on both sides, so the inverse needs no inverse of the conditioner.

    Args:
        split: divides x into two parts, and merges them again.
        univariate: the elementwise map of the second part, given its parameters.
        conditioner: network `(a, context) -> parameters`, with `univariate.parameters_each` of
            them for each element of b, stacked along axis 1.

    In a lower `precision` of the network, the inverse of a coupling stays exact. In a stack of
    them, a part a that comes back with another last bit may be rounded to its neighbour, and give
    slightly other parameters.

    (Dinh et al. 2014, section 3.1; Dinh et al. 2017, section 3.2)
    """

    def __init__(self, split: Split, univariate: Univariate, conditioner: nn.Module) -> None:
        super().__init__()
        self.split = split
        self.univariate = univariate
        self.conditioner = conditioner

    @property
    def cheap_inverse(self) -> bool:  # type: ignore[override]
        """Whether that of the univariate map is."""
        return self.univariate.cheap_inverse

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b = self.split.split(x)
        b, log_det = self.univariate(b, self._parameters_for(a, context))
        return self.split.merge(a, b), log_det

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b = self.split.split(y)
        b, log_det = self.univariate.inverse(b, self._parameters_for(a, context))
        return self.split.merge(a, b), log_det

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        a, b = self.split.split(x)
        initialize: Any = getattr(self.conditioner, "initialize", None)
        if initialize is not None:
            initialize(a, context)
        fit: Any = getattr(self.univariate, "fit", None)
        if fit is not None and isinstance(self.conditioner, Constant):
            self.conditioner.start(fit(b))
        return self(x, context)[0]

    def replay(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """See `Bijection.replay`; one evaluation of the conditioner serves both directions."""
        x = y.detach().clone().requires_grad_()
        a, b = self.split.split(x)
        parameters = self._parameters_for(a, context)
        with torch.no_grad():
            b, _ = self.univariate.inverse(b, parameters)
            # Part a stays bit for bit, so what the conditioner saved of it stays true.
            x.data.copy_(self.split.merge(a, b))
        b, log_det = self.univariate(self.split.split(x)[1], parameters)
        return x, self.split.merge(a, b), log_det

    @classmethod
    def examples(cls) -> Iterable[Example]:
        def make(features: int, keep: Literal["first", "second"], context: int) -> Bijection:
            split, univariate = FeatureSplit(features, keep), Affine()
            outputs = univariate.parameters_each * split.transformed
            return cls(split, univariate, MLP(split.identity, outputs, (8, 8), context))

        yield Example(lambda: make(4, "first", 0), (4,))
        yield Example(lambda: make(5, "second", 2), (5,), context_features=2)
        yield Example(
            lambda: cls(NoSplit(3), Affine(), MLP(0, 6, (8, 8), 2)), (3,), context_features=2
        )


def coupling(
    split: Any, univariate: Univariate, network: Network, hidden: Any, context_features: int
) -> Coupling:
    """A coupling with a copy of a univariate map, and a network for the two parts of the split."""
    univariate = copy.deepcopy(univariate)
    outputs = univariate.parameters_each * split.transformed
    return Coupling(split, univariate, network(split.identity, outputs, hidden, context_features))

"""The Sylvester map: a planar map along several orthogonal directions at once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from diffeo.bijections.base import Example
from diffeo.bijections.linear import reflect
from diffeo.bijections.planar import Amortized, tanh_log_slope, undo_tanh
from diffeo.networks.mlp import MLP
from diffeo.utils.ranges import Count

LARGEST = 0.999  # of |diag R|, so that the determinant stays away from 0


class Sylvester(Amortized):
    """A residual step through M orthogonal directions.

        y = x + Q R1 tanh(a),   a = R2 Q^T x + b,   T = R2 R1
        log|det dy/dx| = sum_i log(1 + T_ii (1 - tanh(a_i)^2))

    Q `(D, M)` has orthonormal columns, by reflections; R1 and R2 are upper triangular with
    diagonals from -0.999 to 0.999, so that it is invertible. It starts as the identity. The inverse
    solves a + T tanh(a) = R2 Q^T y + b from the last row to the first, in one dimension each.

    Args:
        features: D of the input `(batch, D)`.
        directions: M, at most D.
        reflections: how many make Q.
        conditioner: network of the context, that computes `Sylvester.count(D, M, reflections)`
            values to be added to all parameters.

    Raises:
        ValueError: if there are more directions than features.

    (van den Berg et al. 2018, sections 3.1 and 3.2)
    """

    cheap_inverse = False

    def __init__(
        self,
        features: Count,
        directions: Count = 2,
        reflections: Count = 4,
        conditioner: nn.Module | None = None,
    ) -> None:
        if directions > features:
            raise ValueError(
                f"{features} features have no {directions} orthogonal directions: take "
                f"{features} at most."
            )
        # With R1 = 0 nothing moves; R2, which is not 0, lets R1 learn.
        mixing = (torch.randn(directions, directions) * directions**-0.5).tril(-1)
        vectors = torch.randn(reflections * features)
        zeros = torch.zeros(directions)
        start = torch.cat((vectors, mixing.flatten(), zeros, torch.ones(directions), zeros))
        super().__init__(start, conditioner)
        self.features = features
        self.directions = directions
        self.sizes: list[int] = _sizes(features, directions, reflections)

    @staticmethod
    def count(features: int, directions: int, reflections: int) -> int:
        """How many parameters there are."""
        return sum(_sizes(features, directions, reflections))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rows, r1, r2, b = self._parts(x, context)
        t = torch.tanh(_times(r2 @ rows, x) + b)
        log_slope = tanh_log_slope(t, self._slope(r1, r2))
        return x + _times(rows.mT @ r1, t), log_slope.sum(1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rows, r1, r2, b = self._parts(y, context)
        right, slope, triangle = _times(r2 @ rows, y) + b, self._slope(r1, r2), r2 @ r1
        found: list[Tensor] = []
        for i in reversed(range(self.directions)):
            rest = right[:, i]
            if found:
                rest = rest - (triangle[:, i, i + 1 :] * torch.stack(found, dim=1)).sum(1)
            found.insert(0, torch.tanh(undo_tanh(rest, slope[:, i])))
        t = torch.stack(found, dim=1)
        return y - _times(rows.mT @ r1, t), -tanh_log_slope(t, slope).sum(1)

    def _parts(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(Q^T, R1, R2, b), of the batch or of one row for all."""
        parts = self._parameters_for(x, context).split(self.sizes, dim=1)
        vectors = parts[0].unflatten(1, (-1, self.features))
        eye = torch.eye(self.directions, self.features, dtype=x.dtype, device=x.device)
        mixing = parts[1].unflatten(1, (self.directions, self.directions))
        r1 = mixing.triu(1) + torch.diag_embed(LARGEST * torch.tanh(parts[2]))
        r2 = mixing.mT.triu(1) + torch.diag_embed(LARGEST * torch.tanh(parts[3]))
        return reflect(eye, vectors), r1, r2, parts[4]

    def _slope(self, r1: Tensor, r2: Tensor) -> Tensor:
        """1 + T_ii, positive."""
        return 1 + r1.diagonal(dim1=1, dim2=2) * r2.diagonal(dim1=1, dim2=2)

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(4, 3, 2), (4,))
        yield Example(
            lambda: cls(2, 2, 2, MLP(0, cls.count(2, 2, 2), (8,), 2)), (2,), context_features=2
        )


def _sizes(features: int, directions: int, reflections: int) -> list[int]:
    """Of the vectors of the reflections, of what is off the diagonals, of these, and of b."""
    return [reflections * features, directions**2, directions, directions, directions]


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    """The matrices `(batch or 1, n, m)` times the rows x `(batch, m)`."""
    return (matrix @ x[:, :, None])[:, :, 0]

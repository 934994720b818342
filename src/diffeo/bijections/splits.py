"""Where a coupling cuts its input: the part that is kept and steers, and the part that is bent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor


class Cut(Protocol):
    """Takes a tensor apart into (kept, bent) and puts the two together again."""

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take `x` apart: `(kept, bent)`."""
        ...

    def merge(self, kept: Tensor, bent: Tensor) -> Tensor:
        """Undo `split`."""
        ...

    def gather(self, kept: Tensor, bent: Tensor) -> Tensor:
        """The transpose of `split`, by which gradients go back."""
        ...


class FeatureSplit:
    """Cut axis 1 into two contiguous halves.

    Args:
        features: D of the input `(batch, D, *rest)`, a table's features or an image's channels.
            Odd D gives the second half one more.
        keep: which half is kept; alternate it from one coupling to the next.

    Attributes:
        kept, bent: the number of features on each side.

    Raises:
        ValueError: if there are fewer than two features, of which neither could steer the other.
    """

    def __init__(self, features: int, keep: Literal["first", "second"] = "first") -> None:
        if features < 2:
            raise ValueError(
                f"a coupling keeps some features to steer the others, so it needs at least 2, not "
                f"{features}: add a column."
            )
        self.keep = keep
        self.first = features // 2
        self.kept, self.bent = self.first, features - self.first
        if keep == "second":
            self.kept, self.bent = self.bent, self.kept

    def split(
        self, x: Float[Tensor, "batch features *rest"]
    ) -> tuple[Float[Tensor, "batch kept *rest"], Float[Tensor, "batch bent *rest"]]:
        """Take x `(batch, D, *rest)` apart: `(kept, bent)`, both views of it."""
        first, second = x.split_with_sizes([self.first, x.shape[1] - self.first], dim=1)
        return (first, second) if self.keep == "first" else (second, first)

    def merge(
        self, kept: Float[Tensor, "batch kept *rest"], bent: Float[Tensor, "batch bent *rest"]
    ) -> Float[Tensor, "batch features *rest"]:
        """Undo `split`: x `(batch, D, *rest)`."""
        return concat_features((kept, bent) if self.keep == "first" else (bent, kept))

    # It moves elements and changes none.
    gather = merge

    def __repr__(self) -> str:
        return f"FeatureSplit(features={self.kept + self.bent}, keep={self.keep!r})"


class NoSplit:
    """Keep nothing and bend all of axis 1, so that the context alone steers.

    Args:
        features: D of the input `(batch, D, *rest)`.

    Attributes:
        kept, bent: the number of features on each side, 0 and D.
    """

    def __init__(self, features: int) -> None:
        self.kept, self.bent = 0, features

    def split(
        self, x: Float[Tensor, "batch bent *rest"]
    ) -> tuple[Float[Tensor, "batch 0 *rest"], Float[Tensor, "batch bent *rest"]]:
        """Nothing of x, and all of it."""
        return x[:, :0], x

    def merge(
        self, kept: Float[Tensor, "batch 0 *rest"], bent: Float[Tensor, "batch bent *rest"]
    ) -> Float[Tensor, "batch bent *rest"]:
        """Undo `split`."""
        return bent

    gather = merge

    def __repr__(self) -> str:
        return f"NoSplit(features={self.bent})"


def concat_features(parts: Sequence[Tensor]) -> Tensor:
    """Parts side by side along axis 1; of a table each feature is laid in one piece.

    So the parts that a cut takes of it are pieces too, and elementwise operations run through.
    """
    if parts[0].ndim == 2:
        return torch.cat([part.t() for part in parts]).t()
    return torch.cat(list(parts), dim=1)

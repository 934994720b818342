"""How a coupling divides its input: one part passes unchanged, the other is transformed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from diffeo.utils.config import Configurable


class Split(Configurable, nn.Module, ABC):
    """Divides a tensor into the part that passes unchanged and the part that is transformed."""

    @abstractmethod
    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Divide x: `(unchanged, transformed)`."""

    @abstractmethod
    def merge(self, unchanged: Tensor, transformed: Tensor) -> Tensor:
        """Undo `split`."""


class FeatureSplit(Split):
    """Divide axis 1 into two contiguous halves.

    Args:
        features: D of the input `(batch, D, *rest)`: columns of a table or channels of an image.
            Odd D gives the second half one more.
        keep: which half passes unchanged; alternate it from one coupling to the next.

    Attributes:
        identity: the number of features that pass unchanged.
        transformed: the number of the others.

    Raises:
        ValueError: if there are fewer than two features.
    """

    def __init__(self, features: int, keep: Literal["first", "second"] = "first") -> None:
        super().__init__()
        if features < 2:
            raise ValueError(
                f"a coupling needs at least 2 features, one to condition the other, not {features}:"
                " add a column."
            )
        self.keep = keep
        self.sizes = [features // 2, features - features // 2]
        self.identity, self.transformed = self.sizes if keep == "first" else self.sizes[::-1]

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.split(self.sizes, dim=1)
        return (first, second) if self.keep == "first" else (second, first)

    def merge(self, unchanged: Tensor, transformed: Tensor) -> Tensor:
        halves = (unchanged, transformed) if self.keep == "first" else (transformed, unchanged)
        # Of a table, feature by feature in memory: the next split is then of whole blocks.
        if unchanged.ndim == 2:
            return torch.cat([half.t() for half in halves]).t()
        return torch.cat(halves, dim=1)


class NoSplit(Split):
    """Transform all of axis 1, so that the context alone conditions the map.

    Args:
        features: D of the input `(batch, D, *rest)`.

    Attributes:
        identity: 0, the number of features that pass unchanged.
        transformed: D.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.identity, self.transformed = 0, features

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, :0], x

    def merge(self, unchanged: Tensor, transformed: Tensor) -> Tensor:
        return transformed

"""How a coupling divides its input: one part passes unchanged, the other is transformed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffeo.bijections.reshape import Squeeze
from diffeo.utils.config import Configurable
from diffeo.utils.ranges import Count

Diagonal = Literal["main", "anti"]


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

    def __init__(self, features: Count, keep: Literal["first", "second"] = "first") -> None:
        super().__init__()
        if features < 2:
            raise ValueError(
                f"a coupling needs at least 2 features, one to condition the other, not {features}:"
                " add a column, or take TableFlow, which has none for one column."
            )
        self.keep = keep
        self.sizes: list[int] = [features // 2, features - features // 2]
        first = keep == "first"
        self.identity: int = self.sizes[0 if first else 1]
        self.transformed: int = self.sizes[1 if first else 0]

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

    def __init__(self, features: Count) -> None:
        super().__init__()
        self.identity: int = 0
        self.transformed = features

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, :0], x

    def merge(self, unchanged: Tensor, transformed: Tensor) -> Tensor:
        return transformed


class CompactCheckerboard(Split):
    """Divide an image into the two colours of a checkerboard, each packed without gaps.

        x (batch, C, H, W) -> unchanged, transformed (batch, 2 C, H/2, W/2)

    In each 2 x 2 block one diagonal passes unchanged; the two pixels of a diagonal become channels.
    So no convolution runs over zeros, and each runs over a quarter of the positions.

    Args:
        keep: which diagonal passes unchanged, "main" (from the upper left) or "anti".
    """

    def __init__(self, keep: Diagonal = "main") -> None:
        super().__init__()
        self.keep = keep
        self.squeeze: Squeeze = Squeeze(ordered=True)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        main, anti = self.squeeze(x)[0].chunk(2, dim=1)
        return (main, anti) if self.keep == "main" else (anti, main)

    def merge(self, unchanged: Tensor, transformed: Tensor) -> Tensor:
        halves = (unchanged, transformed) if self.keep == "main" else (transformed, unchanged)
        return self.squeeze.inverse(torch.cat(halves, dim=1))[0]


class MaskedCheckerboard(Split):
    """Divide an image with a mask, as the paper does: both parts have its size, with zeros between.

        unchanged = m * x,   transformed = (1 - m) * x,   x = unchanged + transformed,
        m[i, j] = 1 where i + j is even (keep "main") or odd ("anti")

    The conditioner has to be a `MaskedNetwork`, so that no pixel that passes is changed.

    Args:
        keep: which colour passes unchanged: "main" has the upper left pixel.
    """

    def __init__(self, keep: Diagonal = "main") -> None:
        super().__init__()
        self.keep = keep

    def mask(self, x: Tensor) -> Tensor:
        """The mask m `(H, W)`, in the dtype and on the device of x."""
        rows = torch.arange(x.shape[2], device=x.device)
        columns = torch.arange(x.shape[3], device=x.device)
        odd = (rows[:, None] + columns) % 2
        return (odd if self.keep == "anti" else 1 - odd).to(x.dtype)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        unchanged = x * self.mask(x)
        return unchanged, x - unchanged

    def merge(self, unchanged: Tensor, transformed: Tensor) -> Tensor:
        return unchanged + transformed


class MaskedNetwork(Configurable, nn.Module):
    """A network that sees the mask as another channel, and gives zeros where pixels pass unchanged.

        out = (1 - m) * conditioner([x, m], context)

    Args:
        split: has the mask.
        conditioner: network for one channel more than x has.
    """

    def __init__(self, split: MaskedCheckerboard, conditioner: nn.Module) -> None:
        super().__init__()
        self.split = split
        self.conditioner = conditioner

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Initialise the network, if it starts from data."""
        initialize: Any = getattr(self.conditioner, "initialize", None)
        if initialize is not None:
            initialize(self._with_mask(x), context)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The parameters `(batch, outputs, H, W)`, zero at pixels that pass unchanged."""
        return (1 - self.split.mask(x)) * self.conditioner(self._with_mask(x), context)

    def _with_mask(self, x: Tensor) -> Tensor:
        mask = self.split.mask(x)
        return torch.cat((x, mask.expand(x.shape[0], 1, -1, -1)), dim=1)

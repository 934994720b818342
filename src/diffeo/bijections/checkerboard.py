"""Checkerboard splits: every other pixel passes unchanged and conditions its neighbours."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffeo.bijections.reshape import Squeeze
from diffeo.bijections.splits import Split
from diffeo.utils.config import Configurable

Diagonal = Literal["main", "anti"]


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
        self.squeeze = Squeeze(ordered=True)

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

"""Maps that move elements and change none: space to depth, and flattening."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from diffeo.bijections.base import Bijection, Example


class Squeeze(Bijection):
    """Space to depth: each 2 x 2 block of pixels becomes four channels.

        (batch, C, H, W) -> (batch, 4 C, H/2, W/2),   log|det dy/dx| = 0

    Args:
        ordered: False puts the four pixels of a channel side by side, so that a split of the
            channels divides whole channels. True puts the two pixels of one diagonal of all
            channels first, then those of the other: a split of the channels is then a
            checkerboard, as in the paper where it factors out.

    Raises:
        ValueError: in `forward`, if H or W is odd.

    (Dinh et al. 2017, section 3.6)
    """

    def __init__(self, ordered: bool = False) -> None:
        super().__init__()
        self.ordered = ordered

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        n, c, h, w = x.shape
        if h % 2 or w % 2:
            raise ValueError(f"a squeeze halves height and width: {h}x{w} has an odd side.")
        blocks = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
        if self.ordered:
            offsets = blocks.reshape(n, 4, c, h // 2, w // 2)
            y = torch.cat((offsets[:, 0::3], offsets[:, 1:3]), dim=1)
        else:
            y = blocks.permute(0, 3, 1, 2, 4, 5)
        return y.reshape(n, 4 * c, h // 2, w // 2), x.new_zeros(n)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        n, c, h, w = y.shape
        if self.ordered:
            four = y.reshape(n, 4, c // 4, h, w)
            offsets = torch.stack((four[:, 0], four[:, 2], four[:, 3], four[:, 1]), dim=1)
            blocks = offsets.reshape(n, 2, 2, c // 4, h, w)
        else:
            blocks = y.reshape(n, c // 4, 2, 2, h, w).permute(0, 2, 3, 1, 4, 5)
        x = blocks.permute(0, 3, 4, 1, 5, 2)
        return x.reshape(n, c // 4, 2 * h, 2 * w), y.new_zeros(n)

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(), (2, 4, 6), "zero")
        yield Example(lambda: cls(ordered=True), (2, 4, 2), "zero")


class Flatten(Bijection):
    """An event of any shape as a vector.

        (batch, *shape) -> (batch, prod(shape)),   log|det dy/dx| = 0

    Args:
        shape: that of an event.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return y.unflatten(1, self.shape), y.new_zeros(y.shape[0])

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(2, 3, 2), (2, 3, 2), "zero")

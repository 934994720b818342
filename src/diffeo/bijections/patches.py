"""Images as sequences of patches, and how couplings divide these."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Example
from diffeo.bijections.reshape import Permutation
from diffeo.bijections.splits import Split
from diffeo.utils.ranges import Count

Pattern = Literal["checkerboard", "columns", "rows"]


class Patches(Bijection):
    """An image as a sequence of tokens, each a patch of p x p pixels, row by row.

        (batch, C, H, W) -> (batch, C p p, H W / p^2),   log|det dy/dx| = 0

    Args:
        height: H of the images, a multiple of p.
        width: W, likewise.
        size: p.
        pixels_first: whether the colours of a pixel are neighbours in a token, or the pixels of a
            colour.

    Raises:
        ValueError: if p does not divide both.
    """

    def __init__(
        self, height: Count, width: Count, size: Count, pixels_first: bool = False
    ) -> None:
        super().__init__()
        if height % size or width % size:
            raise ValueError(
                f"the patch is {size} and the images are {height}x{width}: choose a patch that "
                "divides both."
            )
        self.size = size
        self.rows: int = height // size
        self.columns: int = width // size
        self.pixels_first = pixels_first

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        n, c, p = x.shape[0], x.shape[1], self.size
        blocks = x.reshape(n, c, self.rows, p, self.columns, p)
        order = (0, 3, 5, 1, 2, 4) if self.pixels_first else (0, 1, 3, 5, 2, 4)
        tokens = blocks.permute(order).reshape(n, c * p * p, self.rows * self.columns)
        return tokens, x.new_zeros(n)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        n, p, grid = y.shape[0], self.size, (self.rows, self.columns)
        c = y.shape[1] // p**2
        if self.pixels_first:
            blocks = y.reshape(n, p, p, c, *grid).permute(0, 3, 4, 1, 5, 2)
        else:
            blocks = y.reshape(n, c, p, p, *grid).permute(0, 1, 4, 2, 5, 3)
        return blocks.reshape(n, c, self.rows * p, self.columns * p), y.new_zeros(n)

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(4, 6, 2), (2, 4, 6), "zero")
        yield Example(lambda: cls(4, 2, 2, pixels_first=True), (3, 4, 2), "zero")


class ShuffledSplit(Split):
    """Divide axis 1 by a split, after a fixed permutation; merging undoes both.

    Args:
        permutation: of the features.
        inner: the split of the permuted features, such as a `FeatureSplit`.
    """

    def __init__(self, permutation: Permutation, inner: Split) -> None:
        super().__init__()
        self.permutation = permutation
        self.inner = inner

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner.split(self.permutation(x)[0])

    def merge(self, unchanged: Tensor, transformed: Tensor) -> Tensor:
        return self.permutation.inverse(self.inner.merge(unchanged, transformed))[0]


class TokenSplit(Split):
    """Divide the tokens of a grid: half of them pass unchanged.

        x (batch, C, T) -> unchanged, transformed (batch, C/2, T)

    Each half of T/2 tokens is again a sequence of T tokens, in which the two halves of a token's
    channels follow each other. So a network for it has the size of one for a split of channels.

    Args:
        rows: of the grid of tokens, an even number.
        columns: likewise.
        pattern: a "checkerboard" of tokens, or every other of the "columns" or of the "rows".
        keep: which of the two passes unchanged: "first" has the upper left token.

    Raises:
        ValueError: if rows or columns are odd.

    (Kolesnikov et al. 2024, section 3.2)
    """

    chosen: Tensor
    undo: Tensor

    def __init__(
        self,
        rows: Count,
        columns: Count,
        pattern: Pattern = "checkerboard",
        keep: Literal["first", "second"] = "first",
    ) -> None:
        super().__init__()
        if rows % 2 or columns % 2:
            raise ValueError(
                f"a grid of {rows}x{columns} tokens has no two equal halves: choose a patch that "
                "divides height and width an even number of times."
            )
        # On the CPU even where a model is constructed without storage, to be loaded.
        row = torch.arange(rows, device="cpu")[:, None].expand(rows, columns)
        column = torch.arange(columns, device="cpu").expand(rows, columns)
        place = {"checkerboard": row + column, "columns": column, "rows": row}[pattern]
        odd = place.flatten() % 2 == (1 if keep == "first" else 0)
        order = torch.cat((torch.where(~odd)[0], torch.where(odd)[0]))
        self.chosen = nn.Buffer(order, persistent=False)
        self.undo = nn.Buffer(order.argsort(), persistent=False)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.index_select(2, self.chosen).chunk(2, dim=2)
        return _halved(first), _halved(second)

    def merge(self, unchanged: Tensor, transformed: Tensor) -> Tensor:
        whole = torch.cat((_joined(unchanged), _joined(transformed)), dim=2)
        return whole.index_select(2, self.undo)


def _halved(x: Tensor) -> Tensor:
    """`(batch, C, n)` as `(batch, C/2, 2 n)`: the halves of a token become neighbours."""
    n, channels, tokens = x.shape
    return (
        x.reshape(n, 2, channels // 2, tokens)
        .permute(0, 2, 3, 1)
        .reshape(n, channels // 2, 2 * tokens)
    )


def _joined(x: Tensor) -> Tensor:
    """Undo `_halved`."""
    n, channels, tokens = x.shape
    return (
        x.reshape(n, channels, tokens // 2, 2)
        .permute(0, 3, 1, 2)
        .reshape(n, 2 * channels, tokens // 2)
    )

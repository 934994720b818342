"""Whether samples are copies of training images: the nearest training image of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffeo.utils.ranges import Count, checked


@dataclass(frozen=True)
class Nearest:
    """The nearest training images of some images.

    Args:
        places: their numbers among the training images, nearest first, `[n, k]`.
        distances: root mean squares of the differences of pixels `[n, k]`, from 0 to 255.
    """

    places: Tensor
    distances: Tensor

    @property
    def copies(self) -> int:
        """How many images equal a training image, pixel by pixel."""
        return int((self.distances[:, 0] == 0).sum())

    @property
    def median(self) -> float:
        """The median distance to the nearest training image."""
        return float(self.distances[:, 0].median())

    def nearer_than(self, other: Nearest) -> float:
        """The share of pairs of which the image of this set is nearer to a training image.

            P(d < d') + 1/2 P(d = d')

        It is 1/2 where both sets are drawn alike, and 1 for copies (Mann & Whitney 1947).
        """
        mine = self.distances[:, 0].contiguous()
        others = other.distances[:, 0].sort().values
        below = torch.searchsorted(others, mine)
        above = len(others) - torch.searchsorted(others, mine, right=True)
        return float((1 + (above - below).double() / len(others)).mean() / 2)

    def closest(self, count: int) -> Tensor:
        """The numbers of the `count` images that are nearest to a training image, `[count]`."""
        return self.distances[:, 0].argsort(stable=True)[:count]


@checked
def find_nearest(images: Tensor, training: Iterable[Tensor], k: Count = 1) -> Nearest:
    """The k nearest of all training images, pixel by pixel.

    Args:
        images: uint8 `[n, C, H, W]`.
        training: uint8 `[m, C, H, W]`, batch by batch, in all at least k.
        k: how many.

    Raises:
        ValueError: if there are fewer than k training images, or images of another size.
    """
    # Sums of squares of whole numbers, which float64 holds exactly, so that a copy has distance 0.
    x = images.cpu().flatten(1).double()
    places = torch.empty(len(x), 0, dtype=torch.long)
    squares, count = x.new_empty(len(x), 0), 0
    for batch in training:
        if batch.shape[1:] != images.shape[1:]:
            raise ValueError(
                f"images of shape {tuple(images.shape[1:])} have no nearest one among those of "
                f"shape {tuple(batch.shape[1:])}: pass images of one size."
            )
        y = batch.cpu().flatten(1).double()
        near = x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T
        squares = torch.cat([squares, near], dim=1)
        places = torch.cat([places, torch.arange(count, count + len(y)).expand(near.shape)], dim=1)
        squares, order = squares.topk(min(k, squares.shape[1]), dim=1, largest=False)
        places, count = places.gather(1, order), count + len(y)
    if count < k:
        raise ValueError(f"there are {count} training images: ask for no more than {count}.")
    return Nearest(places, (squares / x.shape[1]).sqrt())

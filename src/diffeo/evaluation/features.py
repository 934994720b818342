"""Features of images by a network of random weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from diffeo.utils.ranges import Seed, checked

WIDTH = 16  # filters of a level
CELLS = 2  # along a side of the grid whose means are the features
SMALLEST = 4  # pixels along a side of the last level


class RandomFeatures:
    """Features of 8-bit images by convolutions of fixed random weights.

        h_0 = x / 255 - 1/2,   h_l = |w_l * pool(h_{l-1})|,   features: means of h_l in 2 x 2 cells

    for as many levels l as the size of the images can be halved. The weights are of mean 0 in each
    filter, so that the first level sees edges and no flat grey; the mean colours of the cells are
    features as well. Each feature is standardized by the images of `learn`. They need no download
    and know no classes, and their distances compare with those of no other features.

    Args:
        shape: (C, H, W) of the images.
        seed: of the weights.
    """

    @checked
    def __init__(self, shape: Sequence[int], seed: Seed = 0) -> None:
        channels, side = shape[0], min(shape[1:])
        generator = Generator().manual_seed(seed)
        self.filters: list[Tensor] = []
        before = channels
        while side >= SMALLEST or not self.filters:
            weight = torch.randn(WIDTH, before, 3, 3, generator=generator)
            weight = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
            self.filters.append(F.normalize(weight.flatten(1)).view_as(weight))
            before, side = WIDTH, side // 2
        self.mean: Tensor = torch.zeros(0)
        self.std: Tensor = torch.zeros(0)

    def learn(self, batches: Iterable[Tensor]) -> Tensor:
        """Standardize by images `[n, C, H, W]`; returns their features `[n, features]`."""
        raw = torch.cat([self._raw(x) for x in batches])
        self.mean, self.std = raw.mean(0), raw.std(0).clamp_min(1e-6)
        return (raw - self.mean) / self.std

    def __call__(self, batches: Iterable[Tensor]) -> Tensor:
        """The features of images `[n, C, H, W]`, float64 `[n, features]`."""
        return (torch.cat([self._raw(x) for x in batches]) - self.mean) / self.std

    def _raw(self, x: Tensor) -> Tensor:
        h = x.cpu().float() / 255 - 0.5
        parts = [F.adaptive_avg_pool2d(h, CELLS)]
        for i, weight in enumerate(self.filters):
            h = h if i == 0 else F.avg_pool2d(h, 2, ceil_mode=True)
            h = F.conv2d(F.pad(h, (1, 1, 1, 1), mode="replicate"), weight).abs()
            parts.append(F.adaptive_avg_pool2d(h, CELLS))
        return torch.cat([part.flatten(1) for part in parts], dim=1).double()

"""Random changes of training images."""

from __future__ import annotations

import torch
from torch import Tensor


def augment(x: Tensor, flip: bool, shift: int, generator: torch.Generator) -> Tensor:
    """Mirrors and moves each image at random, for training only.

    Args:
        x: images, uint8 `[n, channels, height, width]`.
        flip: whether each is mirrored left to right with probability 1/2.
        shift: how far each is moved at most, in pixels, down or up and right or left, all
            distances being equally likely; what moves in repeats the edge.
        generator: draws the random numbers, on its device.

    Returns:
        Images of the same shape; each of their pixels is one of the same image's.
    """
    n, channels, height, width = x.shape

    def positions(length: int) -> Tensor:
        distance = torch.randint(
            -shift, shift + 1, (n, 1), generator=generator, device=generator.device
        )
        steps = torch.arange(length, device=generator.device)
        return (steps - distance).clamp(0, length - 1).to(x.device)

    rows, columns = positions(height), positions(width)
    if flip:
        mirrored = torch.rand((n, 1), generator=generator, device=generator.device) < 0.5
        columns = torch.where(mirrored.to(x.device), width - 1 - columns, columns)
    image = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[None, :, None, None]
    return x[image, channel, rows[:, None, :, None], columns[:, None, None, :]]

"""Guidance: samples that are moved towards their class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Guidance:
    """What is computed of a context, moved away from what is computed of another one.

        given + weight * (given - without)

    Args:
        without: the other context `(batch, context_features)`, of all classes alike.
        weight: how far; 0 changes nothing.

    (Ho & Salimans 2022; Zhai et al. 2024, section 2.6)
    """

    without: Tensor
    weight: float

    def both(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """A batch twice, first with its context and then without: one pass for two."""
        return torch.cat((x, x)), torch.cat((context, self.without))

    def moved(self, both: Tensor) -> Tensor:
        """The numbers `(batch, ...)`, of those of a batch of `both`."""
        given, without = both.chunk(2)
        return given + self.weight * (given - without)

"""Permutations of features, so that each coupling divides them differently."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffeo.bijections.base import Bijection, Example


class Permutation(Bijection):
    """Reorder the features (axis 1).

        y[:, i] = x[:, order[i]],   log|det dy/dx| = 0

    Args:
        order: where each output feature comes from; a permutation of 0 .. D-1.

    Raises:
        ValueError: if `order` is no permutation.
    """

    order: Tensor
    undo: Tensor

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        if sorted(order) != list(range(len(order))):
            raise ValueError(
                f"order {list(order)} is no permutation: give each of 0 .. {len(order) - 1} once."
            )
        index = torch.tensor(order)
        self.register_buffer("order", index)
        # Not saved: it follows from `order`, which a loaded state replaces.
        self.register_buffer("undo", index.argsort(), persistent=False)
        # A function, since a lambda cannot be pickled.
        self.register_load_state_dict_post_hook(_update_inverse)

    @classmethod
    def reverse(cls, features: int) -> Permutation:
        """The last feature first; a baseline of Kingma & Dhariwal 2018, section 3.2."""
        return cls(range(features)[::-1])

    @classmethod
    def shuffle(cls, features: int, seed: int) -> Permutation:
        """A fixed random order, drawn from a generator of its own."""
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randperm(features, generator=generator, device="cpu").tolist())

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if x.ndim == 2:  # feature by feature in memory, as in FeatureSplit
            return x.t().index_select(0, self.order).t(), x.new_zeros(x.shape[0])
        return x.index_select(1, self.order), x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return y.index_select(1, self.undo), y.new_zeros(y.shape[0])

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls.reverse(4), (4,), "zero", other=lambda: cls(range(4)))
        yield Example(lambda: cls.shuffle(7, 1), (7,), "zero", other=lambda: cls.shuffle(7, 2))
        yield Example(lambda: cls([1, 2, 0]), (3, 2, 2), "zero")


def _update_inverse(permutation: Permutation, _: Any) -> None:
    """Make the inverse that of an order that was loaded."""
    undo = permutation.order.argsort()
    if not torch.equal(permutation.order[undo], torch.arange(len(undo), device=undo.device)):
        raise ValueError("the order that was loaded is no permutation.")
    permutation.undo = undo

"""Maps that move elements and change none: permutations, space to depth, and flattening."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffeo.bijections.base import Bijection, Example
from diffeo.utils.ranges import Count, Seed, Whole, checked

MOST_STACKED = 128  # rows, each of which is an operation of a compiled program


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

    def __init__(self, order: Sequence[Whole]) -> None:
        super().__init__()
        if sorted(order) != list(range(len(order))):
            raise ValueError(
                f"order {list(order)} is no permutation: give each of 0 .. {len(order) - 1} once."
            )
        self.places: tuple[int, ...] = tuple(order)
        index = torch.tensor(order)
        self.register_buffer("order", index)
        # Not saved: it follows from `order`, which a loaded state replaces.
        self.register_buffer("undo", index.argsort(), persistent=False)
        # A function, since a lambda cannot be pickled.
        self.register_load_state_dict_post_hook(_update_inverse)

    @classmethod
    @checked
    def reverse(cls, features: Count) -> Permutation:
        """The last feature first; a baseline of Kingma & Dhariwal 2018, section 3.2."""
        return cls(range(features)[::-1])

    @classmethod
    @checked
    def shuffle(cls, features: Count, seed: Seed) -> Permutation:
        """A fixed random order, drawn from a generator of its own."""
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randperm(features, generator=generator, device="cpu").tolist())

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if x.ndim == 2:  # feature by feature in memory, as in FeatureSplit
            return _in_order(x.t(), self.order, self.places).t(), x.new_zeros(x.shape[0])
        return x.index_select(1, self.order), x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return y.index_select(1, self.undo), y.new_zeros(y.shape[0])

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls.reverse(4), (4,), "zero", other=lambda: cls(range(4)))
        yield Example(lambda: cls.shuffle(7, 1), (7,), "zero", other=lambda: cls.shuffle(7, 2))
        yield Example(lambda: cls([1, 2, 0]), (3, 2, 2), "zero")


def _in_order(rows: Tensor, order: Tensor, places: Sequence[int]) -> Tensor:
    """Rows in another order.

    In a compiled program the gradient of `index_select` adds numbers one by one, and that of rows
    which are taken apart and stacked moves rows.
    """
    learns = torch.compiler.is_compiling() and torch.is_grad_enabled()
    if not learns or torch.compiler.is_exporting() or len(places) > MOST_STACKED:
        return rows.index_select(0, order)
    parts = rows.unbind(0)
    return torch.stack([parts[place] for place in places])


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

    def __init__(self, *shape: Count) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return y.unflatten(1, self.shape), y.new_zeros(y.shape[0])

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(2, 3, 2), (2, 3, 2), "zero")


def _update_inverse(permutation: Permutation, _: Any) -> None:
    """Make the inverse that of an order that was loaded."""
    undo = permutation.order.argsort()
    if not torch.equal(permutation.order[undo], torch.arange(len(undo), device=undo.device)):
        raise ValueError("the order that was loaded is no permutation.")
    permutation.undo = undo
    if not undo.is_meta:
        permutation.places = tuple(permutation.order.tolist())

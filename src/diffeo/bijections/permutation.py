"""Maps that exchange features, so that couplings cut differently each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffeo.bijections.backward import Gradients
from diffeo.bijections.base import Bijection, Context


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
        # No lambda, which could not be pickled.
        self.register_load_state_dict_post_hook(_follow)

    @classmethod
    def reverse(cls, features: int) -> Permutation:
        """The last feature first; a baseline of Kingma & Dhariwal 2018, section 3.2."""
        return cls(range(features)[::-1])

    @classmethod
    def shuffle(cls, features: int, seed: int) -> Permutation:
        """A fixed random order, drawn from a generator of its own."""
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randperm(features, generator=generator).tolist())

    def forward(
        self, x: Float[Tensor, "batch features *rest"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch features *rest"], Float[Tensor, " batch"]]:
        return _reordered(x, self.order), x.new_zeros(x.shape[0])

    def inverse(
        self, y: Float[Tensor, "batch features *rest"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch features *rest"], Float[Tensor, " batch"]]:
        return _reordered(y, self.undo), y.new_zeros(y.shape[0])

    # Backward -----------------------------------------------------------------------------------

    def run(self, x: Tensor, context: Context | None) -> tuple[Tensor, Tensor, Any]:
        """See `Bijection.run`."""
        return *self(x), None

    def rebuild(self, y: Tensor, context: Context | None, note: Any) -> tuple[Tensor, Any]:
        """See `Bijection.rebuild`."""
        return _reordered(y, self.undo), None

    def back(
        self,
        kept: Any,
        context: Context | None,
        grad: Tensor,
        grad_log_det: Tensor,
        found: Gradients,
    ) -> Tensor:
        """See `Bijection.back`."""
        return _reordered(grad, self.undo)


def _follow(permutation: Permutation, _: Any) -> None:
    """Let the inverse be that of an order that was loaded."""
    undo = permutation.order.argsort()
    if not torch.equal(permutation.order[undo], torch.arange(len(undo), device=undo.device)):
        raise ValueError("the order that was loaded is no permutation.")
    permutation.undo = undo


def _reordered(x: Tensor, order: Tensor) -> Tensor:
    if x.ndim == 2:  # where each feature is in one piece (see `beside`)
        return x.t().index_select(0, order).t()
    return x.index_select(1, order)

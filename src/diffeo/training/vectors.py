"""The weights of a model as vectors, so that an optimizer moves all of them in a few operations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class Vectors:
    """Weights laid one after another in memory: a vector for each group of an optimizer.

    The weights and their gradients are views of the vectors and of the vectors' gradients, so a
    step on the vectors is one on the weights. A model of a hundred small layers then takes one
    operation where it would take a hundred.

    Args:
        groups: of weights; those of a group share a dtype and a device, and learn or do not.

    Attributes:
        weights: those of each group that has any.
        vectors: a parameter for each of these groups; of weights that learn, with a gradient.
    """

    def __init__(self, groups: Iterable[Iterable[nn.Parameter]]) -> None:
        self.weights: list[list[nn.Parameter]] = [group for group in map(list, groups) if group]
        self.vectors: list[nn.Parameter] = []
        for group in self.weights:
            vector = nn.Parameter(_joined(group), requires_grad=group[0].requires_grad)
            if vector.requires_grad:
                vector.grad = torch.zeros_like(vector)
            self.vectors.append(vector)
        self.hold()

    @torch.no_grad()
    def hold(self) -> None:
        """Let the weights be views of the vectors, with the values that they have now."""
        for group, vector in zip(self.weights, self.vectors, strict=True):
            for weight, value in zip(group, _views(vector.data, group), strict=True):
                value.copy_(weight)
                weight.data = value
            if vector.grad is not None:
                for weight, gradient in zip(group, _views(vector.grad, group), strict=True):
                    weight.grad = gradient

    def start(self) -> None:
        """Set the gradients to zero, before `backward` adds to them."""
        for gradient in self.gradients():
            gradient.zero_()

    @torch.no_grad()
    def release(self) -> None:
        """Give each weight memory of its own again, and no gradient; `hold` undoes it."""
        for group in self.weights:
            for weight in group:
                weight.data, weight.grad = weight.data.clone(), None

    def gradients(self) -> list[Tensor]:
        """That of each vector."""
        return [vector.grad for vector in self.vectors if vector.grad is not None]

    def joined(self, tensors: Sequence[Tensor], group: int) -> Tensor:
        """One tensor for each weight of a group, as a vector."""
        return _joined(tensors, self.weights[group])


def _joined(tensors: Sequence[Tensor], like: Sequence[Tensor] | None = None) -> Tensor:
    """Tensors one after another, each as it, or another of its shape, lies in memory."""
    like = like or tensors
    vector = torch.empty(
        sum(tensor.numel() for tensor in tensors), dtype=tensors[0].dtype, device=tensors[0].device
    )
    with torch.no_grad():
        for view, tensor in zip(_views(vector, like), tensors, strict=True):
            view.copy_(tensor)
    return vector


def _views(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Pieces of a vector with the shapes of tensors, and their order in memory."""
    pieces = vector.split([tensor.numel() for tensor in like])
    return [
        piece.as_strided(tensor.shape, torch.empty_like(tensor, device="meta").stride())
        if tensor.ndim > 1
        else piece.view(tensor.shape)
        for piece, tensor in zip(pieces, like, strict=True)
    ]

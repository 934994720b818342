"""Linear layers of several masked networks as one module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffeo.utils.fused import call, gradients_with_graph
from diffeo.utils.products import onednn, onednn_pays

EVERY = slice(None)


class MaskedLinears(nn.Module):
    """A linear layer for each of several networks, with the same mask.

        out_e = (W_e * mask)^T h_e + b_e

    Rows come last, `(members, units, n)`: sums over the components of each then run along rows.

    Args:
        members: how many networks.
        mask: `(outputs, inputs)`, of zeros and ones.
        zero: whether weights start at zero.
    """

    mask: Tensor

    def __init__(self, members: int, mask: Tensor, zero: bool = False) -> None:
        super().__init__()
        weight = torch.zeros(members, *mask.T.shape)
        if not zero:
            seen = mask.sum(1).clamp(min=1).to(weight.device)
            weight = weight.normal_() * (2 / seen).sqrt()
        self.weight: nn.Parameter = nn.Parameter(weight)
        self.bias: nn.Parameter = nn.Parameter(torch.zeros(members, 1, len(mask)))
        self.register_buffer("mask", mask.T.to(weight.dtype).contiguous(), persistent=False)

    def forward(self, h: Tensor, members: slice = EVERY, outputs: slice = EVERY) -> Tensor:
        """Some outputs of some of the networks."""
        weight = self.weight[members][..., outputs] * self.mask[:, outputs]
        bias = self.bias[members][..., outputs].mT
        if onednn_pays(weight[0].numel() * h.shape[2], h):
            return call(_EachByOneDNN, _plain, weight, bias, h)
        return _plain(weight, bias, h)


def _plain(weight: Tensor, bias: Tensor, h: Tensor) -> Tensor:
    return torch.baddbmm(bias, weight.mT, h)


class _EachByOneDNN(torch.autograd.Function):
    """`_plain` by a product for each network."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, h: Tensor) -> Tensor:
        ctx.save_for_backward(weight, bias, h)
        return _each(weight.mT.contiguous(), h, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        weight, bias, h = ctx.saved_tensors
        if torch.is_grad_enabled():
            return gradients_with_graph(ctx, _plain, (weight, bias, h), grad)
        needed = ctx.needs_input_grad[2]
        of_h = _each(weight, grad) if needed else None
        return _each(h, grad.mT), grad.sum(2, keepdim=True), of_h


def _each(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left_e right_e + bias_e `(members, k, n)`."""
    out = left.new_empty(*left.shape[:2], right.shape[2])
    for e, (part, *pair) in enumerate(zip(out, left, right, strict=True)):
        product = onednn(*pair)
        if bias is None:
            part.copy_(product)
        else:
            torch.add(product, bias[e], out=part)
    return out

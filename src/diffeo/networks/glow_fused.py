"""Glow's three convolutions as one operation, for speed: the same numbers in fewer passes.

On a CPU the batch is computed in parts whose activations stay in the processor's cache, ReLU works
in place, and the gradient of the last convolution, which has few outputs, is a matrix product.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from diffeo.bijections.normalization import ActNorm
from diffeo.utils.fused import backward_of_relu, call, dtype_of, gradients_with_graph

# So many hidden activations are computed at a time, in all pixels of some images.
PART = 2**21
# From so many channels on, the gradient by `_back_of_few` is faster on a CPU.
WIDE = 256


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution that keeps height and width; weight `(outputs, size, size, inputs)`."""
    return F.conv2d(x, weight.permute(0, 3, 1, 2), bias, padding=weight.shape[1] // 2)


def scaled(weight: Tensor, log_scale: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of `exp(3 s) * (conv(x) + b)` as one convolution."""
    factor = (ActNorm.SPEED * log_scale).exp()
    return weight * factor[:, None, None, None], factor * bias


def plain(h: Tensor, *layers: Tensor) -> Tensor:
    """Scaled convolutions with ReLU between them; layers are weight, log_scale, bias in turn."""
    for i in range(0, len(layers), 3):
        h = convolve(h.relu() if i else h, *scaled(*layers[i : i + 3]))
    return h


def fused(h: Tensor, *layers: Tensor) -> Tensor:
    """`plain` in fewer passes, in the dtype of autocast where that is on."""
    return call(_Fused, plain, h, *layers)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, *layers: Tensor) -> Tensor:
        dtype = dtype_of(h)
        pairs = [scaled(*layers[i : i + 3]) for i in range(0, len(layers), 3)]
        pairs = [(weight.to(dtype), bias.to(dtype)) for weight, bias in pairs]
        parts = _parts(h.to(dtype, memory_format=torch.channels_last), len(layers[0]))
        passes = [_forward(part, pairs) for part in parts]
        out = _joined([inputs.pop() for inputs in passes]).contiguous()
        weights = (weight for weight, _ in pairs)
        ctx.save_for_backward(h, *layers, *weights, *itertools.chain(*passes))
        ctx.count = len(pairs)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        h, *rest = ctx.saved_tensors
        n = ctx.count
        layers, weights, saved = rest[: 3 * n], rest[3 * n : 4 * n], rest[4 * n :]
        if torch.is_grad_enabled():
            return gradients_with_graph(ctx, plain, (h, *layers), grad)
        passes = [saved[i : i + n] for i in range(0, len(saved), n)]
        grad = grad.to(weights[0].dtype, memory_format=torch.channels_last)
        by_h: list[Tensor] = []
        sums: list[Tensor] = []
        for inputs, part in zip(passes, grad.split(len(passes[0][0])), strict=True):
            by_part, found = _backward(part, inputs, weights)
            by_h.append(by_part)
            # In the dtype of the weights: parts may be of a lower precision.
            found = [tensor.to(h.dtype) for tensor in found]
            sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
        by_layers = [
            by
            for i in range(n)
            for by in _back_of_scale(*sums[2 * i : 2 * i + 2], *layers[3 * i : 3 * i + 3])
        ]
        return _joined(by_h).to(h.dtype, memory_format=torch.contiguous_format), *by_layers


def _back_of_scale(
    by_scaled: Tensor, by_scaled_bias: Tensor, weight: Tensor, log_scale: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of weight, log_scale and bias from those of `scaled`."""
    factor = (ActNorm.SPEED * log_scale).exp()
    by_weight, by_bias = by_scaled * factor[:, None, None, None], by_scaled_bias * factor
    by_factor = torch.linalg.vecdot(by_weight.flatten(1), weight.flatten(1)) + by_bias * bias
    return by_weight, ActNorm.SPEED * by_factor, by_bias


def _parts(h: Tensor, width: int) -> Sequence[Tensor]:
    if h.device.type != "cpu":
        return (h,)
    return h.split(max(1, PART // (width * h.shape[2] * h.shape[3])))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _forward(h: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """What goes into each convolution, and what comes out of the last."""
    passed = [h]
    for i, (weight, bias) in enumerate(pairs):
        h = convolve(h, weight, bias)
        passed.append(h.relu_() if i < len(pairs) - 1 else h)
    return passed


def _backward(
    grad: Tensor, inputs: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The gradients of what went in, and of each convolution's weight and bias in turn."""
    found: list[Tensor] = []
    for i in reversed(range(len(inputs))):
        last = i == len(inputs) - 1
        wide = inputs[i].device.type == "cpu" and inputs[i].shape[1] >= WIDE
        back = _back_of_few if last and wide else _back
        grad, *by_layer = back(grad, inputs[i], weights[i])
        found = [*by_layer, *found]
        if i > 0:
            backward_of_relu(grad, inputs[i])
    return grad, found


def _back(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a convolution: of its input, weight and bias."""
    padding = [weight.shape[1] // 2] * 2
    by_x, by_weight, by_bias = torch.ops.aten.convolution_backward.default(
        grad,
        x,
        weight.permute(0, 3, 1, 2),
        [len(weight)],
        [1, 1],
        padding,
        [1, 1],
        False,
        [0, 0],
        1,
        [True, True, True],
    )
    return by_x, by_weight.permute(0, 2, 3, 1), by_bias


def _back_of_few(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`_back` of a 3x3 convolution with few outputs, as convolutions of single pixels.

    To each pixel of x the gradients of the nine pixels that it went into are collected: few
    channels become nine times as many, and a 3x3 convolution a matrix product, which is faster.
    """
    n, o, h, w = grad.shape
    i = x.shape[1]
    padded = F.pad(grad.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    a, b, c, d = padded.stride()
    nine = padded.as_strided((n, h, w, 3, 3, o), (a, b, c, b, c, d)).reshape(n, h, w, 9 * o)
    nine = nine.permute(0, 3, 1, 2)
    # Its pixel (r, s) met weight (2 - r, 2 - s).
    flipped = weight.flip(1, 2).permute(3, 1, 2, 0).reshape(i, 1, 1, 9 * o)
    by_x = F.conv2d(nine, flipped.permute(0, 3, 1, 2))
    by_flipped = conv2d_weight(x, (9 * o, i, 1, 1), nine)
    by_weight = by_flipped.view(3, 3, o, i).flip(0, 1).permute(2, 0, 1, 3)
    return by_x, by_weight.contiguous(), grad.sum((0, 2, 3))

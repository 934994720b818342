"""The networks of Glow: three convolutions that steer a coupling, one that predicts a latent."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffeo.bijections.base import Context
from diffeo.bijections.fused import fused
from diffeo.bijections.normalization import ActNorm
from diffeo.conditioners.resnet import laid_over

WEIGHT_STD = 0.05
_IN_ONE_PASS = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_convolution_pointwise"
)


class ZeroConv(nn.Module):
    """A 3x3 convolution that starts at zero, with a learned scale of each output channel.

        out = exp(3 s) * (conv3x3([x, context]) + b)

    Args:
        inputs: channels of x `(batch, inputs, H, W)`.
        outputs: channels of the output `(batch, outputs, H, W)`.
        context_features: width of the context, laid over all pixels as further channels.

    A coupling that it steers starts as the identity. (Kingma & Dhariwal 2018, in their code)
    """

    def __init__(self, inputs: int, outputs: int, context_features: int = 0) -> None:
        super().__init__()
        self.weight = kernel(inputs + context_features, outputs, 3, std=0.0)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.log_scale = nn.Parameter(torch.zeros(outputs))

    def forward(
        self, x: Float[Tensor, "batch inputs height width"], context: Context | None = None
    ) -> Float[Tensor, "batch outputs height width"]:
        """`(batch, outputs, H, W)` for x `(batch, inputs, H, W)`."""
        x = torch.cat((x, *laid_over(context, x)), dim=1) if context is not None else x
        layer = self.weight, self.log_scale, self.bias
        return _as_stream(_scaled(x, *layer, precision_of(x)), x)


class GlowNet(nn.Module):
    """Three convolutions with actnorm and ReLU between them.

        h_1 = relu(actnorm(conv3x3([x, 1, context])))
        h_2 = relu(actnorm(conv1x1(h_1)))
        out = zeroconv3x3(h_2)

    The channel of ones tells pixels at the edge, where a convolution sees zeros beyond, from
    others.

    Args:
        inputs: channels of x `(batch, inputs, H, W)`.
        outputs: channels of the output `(batch, outputs, H, W)`.
        hidden_channels: channels of h.
        context_features: width of the context, laid over all pixels as further channels.

    (Kingma & Dhariwal 2018, section 3.3 and their code)
    """

    def __init__(
        self, inputs: int, outputs: int, hidden_channels: int = 512, context_features: int = 0
    ) -> None:
        super().__init__()
        c = hidden_channels
        self.first = kernel(inputs + 1 + context_features, c, 3, std=WEIGHT_STD)
        self.second = kernel(c, c, 1, std=WEIGHT_STD)
        self.first_norm, self.second_norm = ActNorm(c), ActNorm(c)
        self.last = ZeroConv(c, outputs)

    def forward(
        self, x: Float[Tensor, "batch inputs height width"], context: Context | None = None
    ) -> Float[Tensor, "batch outputs height width"]:
        """The parameters `(batch, outputs, H, W)` for kept channels x `(batch, inputs, H, W)`."""
        inside = x.new_ones(()).expand(len(x), 1, *x.shape[2:])
        h = torch.cat((x, inside, *laid_over(context, x)), dim=1)
        dtype = precision_of(x)
        self._start(h, dtype)
        first, second, last = self.first_norm, self.second_norm, self.last
        return three_convolutions(
            h,
            *(self.first, first.log_scale, first.shift),
            *(self.second, second.log_scale, second.shift),
            *(last.weight, last.log_scale, last.bias),
            dtype,
        )

    @torch.no_grad()
    def _start(self, h: Tensor, dtype: torch.dtype) -> None:
        """Let the actnorms see their first batch."""
        if self.first_norm.awaits_data() or self.second_norm.awaits_data():
            for weight, norm in ((self.first, self.first_norm), (self.second, self.second_norm)):
                norm.start_from(_convolve(h.to(dtype), weight.to(dtype)))
                h = _scaled(h, weight, norm.log_scale, norm.shift, dtype, relu=True)


def kernel(inputs: int, outputs: int, size: int, std: float) -> nn.Parameter:
    """The weights of a convolution, drawn as N(0, std^2): `(outputs, size, size, inputs)`.

    The inputs are last, as convolutions read them fastest.
    """
    return nn.Parameter(torch.randn(outputs, size, size, inputs) * std)


def precision_of(x: Tensor) -> torch.dtype:
    """The dtype in which a network computes on x: that of autocast, where it is on."""
    kind = x.device.type
    lower = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if lower else x.dtype


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """A convolution that keeps height and width, by weights as `kernel` has them, then ReLU."""
    x = x.contiguous(memory_format=torch.channels_last)
    weight, padding = weight.permute(0, 3, 1, 2), weight.shape[1] // 2
    in_one_pass = relu and x.dtype == torch.bfloat16 and x.device.type == "cpu"
    if in_one_pass and _IN_ONE_PASS and not torch.is_grad_enabled():
        # As `torch.compile` does it; of float32 it would not be faster.
        sides = [padding, padding], [1, 1], [1, 1]
        return torch.ops.mkldnn._convolution_pointwise.default(
            x, weight, bias, *sides, 1, "relu", [], ""
        )
    result = F.conv2d(x, weight, bias, padding=padding)
    return result.relu_() if relu else result


def _as_stream(x: Tensor, like: Tensor) -> Tensor:
    """In the dtype and the layout of what flows around the networks, whole channels one by one."""
    return x.to(like.dtype, memory_format=torch.contiguous_format)


def _factor(log_scale: Tensor) -> Tensor:
    return (ActNorm.SPEED * log_scale).exp_()


def _scaled(
    x: Tensor,
    weight: Tensor,
    log_scale: Tensor,
    bias: Tensor,
    dtype: torch.dtype,
    relu: bool = False,
) -> Tensor:
    """A convolution and an actnorm in one, `exp(3 s) * (conv(x) + b)`, then ReLU.

    To scale the weights costs less than to scale what they make.
    """
    factor = _factor(log_scale)
    weight = (weight * factor[:, None, None, None]).to(dtype)
    return _convolve(x.to(dtype), weight, (factor * bias).to(dtype), relu)


def _three(h: Tensor, *layers: Any) -> Tensor:
    *tensors, dtype = layers
    first, second, last = zip(*[iter(tensors)] * 3, strict=True)
    result = _scaled(h, *first, dtype, relu=True)
    result = _scaled(result, *second, dtype, relu=True)
    return _as_stream(_scaled(result, *last, dtype), h)


def _run_three(h: Tensor, *layers: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    *tensors, dtype = layers
    x = h.to(dtype, memory_format=torch.channels_last)
    inputs, weights, factors = [], [], []
    for weight, log_scale, bias in zip(*[iter(tensors)] * 3, strict=True):
        factor = _factor(log_scale)
        scaled = (weight * factor[:, None, None, None]).to(dtype)
        inputs.append(x)
        weights.append(scaled)
        factors.append(factor)
        x = _convolve(x, scaled, (factor * bias).to(dtype), relu=len(inputs) < 3)
    return _as_stream(x, h), (*inputs, *weights, *factors)


def _back(
    grad: Tensor, x: Tensor, weight: Tensor, by_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """The gradients of a convolution, of its input, weight and bias."""
    found, by_weight, by_bias = torch.ops.aten.convolution_backward.default(
        grad,
        x,
        weight.permute(0, 3, 1, 2),
        [len(weight)],
        [1, 1],
        [weight.shape[1] // 2] * 2,
        [1, 1],
        False,
        [0, 0],
        1,
        [by_x, True, True],
    )
    return found, by_weight.permute(0, 2, 3, 1), by_bias


def _products_pay(x: Tensor) -> bool:
    """Whether `_back_of_few` is faster than `_back`; in float32 it is not, nor on a GPU."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.numel() >= 2**18


def _back_of_few(
    grad: Tensor, x: Tensor, weight: Tensor, by_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """`_back` of a 3x3 convolution with few outputs, as two products of matrices.

    Beside each pixel of x stand the gradients of the nine pixels that it went into.
    """
    n, o, h, w = grad.shape
    i = x.shape[1]
    padded = F.pad(grad.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    a, b, c, d = padded.stride()
    nine = padded.as_strided((n, h, w, 3, 3, o), (a, b, c, b, c, d)).reshape(-1, 9 * o)
    # Its pixel (r, s) met weight (2 - r, 2 - s).
    turned = weight.flip(1, 2).permute(1, 2, 0, 3).reshape(9 * o, i)
    found = (nine @ turned).view(n, h, w, i).permute(0, 3, 1, 2)
    by_turned = nine.T @ x.permute(0, 2, 3, 1).reshape(-1, i)
    by_weight = by_turned.view(3, 3, o, i).flip(0, 1).permute(2, 0, 1, 3)
    return found, by_weight.contiguous(), grad.sum((0, 2, 3))


def _three_gradients(
    inputs: tuple[Any, ...], kept: tuple[Tensor, ...], needed: tuple[bool, ...], grad: Tensor
) -> tuple[Tensor | None, ...]:
    h, *tensors, dtype = inputs
    grad = grad.to(dtype, memory_format=torch.channels_last)
    found: list[Tensor | None] = []
    for i in (2, 1, 0):
        x, scaled, factor = kept[i::3]
        weight, _, bias = tensors[3 * i : 3 * i + 3]
        back = _back_of_few if i == 2 and _products_pay(x) else _back
        by_x, by_scaled, by_offset = back(grad, x, scaled, i > 0 or needed[0])
        by_scaled = by_scaled.to(weight.dtype)
        by_offset = by_offset.to(bias.dtype)
        by_factor = torch.linalg.vecdot(by_scaled.flatten(1), weight.flatten(1))
        by_log_scale = torch.addcmul(by_factor, by_offset, bias).mul_(factor * ActNorm.SPEED)
        by_weight = by_scaled * factor[:, None, None, None]
        found = [by_weight, by_log_scale, by_offset * factor, *found]
        if i > 0:
            # In place, since nothing else holds it.
            grad = torch.ops.aten.threshold_backward.grad_input(by_x, x, 0, grad_input=by_x)
    return _as_stream(by_x, h) if needed[0] else None, *found


three_convolutions = fused(_three, _run_three, _three_gradients)

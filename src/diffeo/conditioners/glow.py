"""The networks of Glow: three convolutions that steer a coupling, one that predicts a latent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffeo.bijections.backward import Gradients, precision_of
from diffeo.bijections.base import Context
from diffeo.bijections.normalization import ActNorm
from diffeo.conditioners.resnet import laid_over

WEIGHT_STD = 0.05
Layer = tuple[Tensor, Tensor, Tensor]  # weight, log-scale, bias
Kept = tuple[Tensor, Tensor, Tensor, Layer]  # input, scaled weight, factor
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
        h = self._enter(x, context)
        dtype = precision_of(x)
        for weight, log_scale, bias in self._layers():
            relu = weight is not self.last.weight
            h = _scaled(h, weight, log_scale, bias, dtype, relu)
        return _as_stream(h, x)

    def _enter(self, x: Tensor, context: Context | None) -> Tensor:
        """[x, 1, context]."""
        inside = x.new_ones(()).expand(len(x), 1, *x.shape[2:])
        h = torch.cat((x, inside, *laid_over(context, x)), dim=1)
        if self.first_norm.awaits_data() or self.second_norm.awaits_data():
            self._start(h)
        return h

    def _layers(self) -> list[Layer]:
        """Weight, log-scale and bias of each convolution."""
        first, second, last = self.first_norm, self.second_norm, self.last
        return [
            (self.first, first.log_scale, first.shift),
            (self.second, second.log_scale, second.shift),
            (last.weight, last.log_scale, last.bias),
        ]

    @torch.no_grad()
    def _start(self, h: Tensor) -> None:
        """Let the actnorms see their first batch."""
        dtype = precision_of(h)
        for weight, norm in ((self.first, self.first_norm), (self.second, self.second_norm)):
            norm.start_from(_convolve(h.to(dtype), weight.to(dtype)))
            h = _scaled(h, weight, norm.log_scale, norm.shift, dtype, relu=True)

    # Backward -----------------------------------------------------------------------------------

    def run(
        self, x: Tensor, context: Context | None, dtype: torch.dtype
    ) -> tuple[Tensor, list[Kept]]:
        """What `forward` returns, without a graph, and what `back` needs (see `Coupling`)."""
        h = self._enter(x, context).to(dtype, memory_format=torch.channels_last)
        kept = []
        for weight, log_scale, bias in self._layers():
            factor = _factor(log_scale)
            scaled = (weight * factor[:, None, None, None]).to(dtype)
            kept.append((h, scaled, factor, (weight, log_scale, bias)))
            h = _convolve(h, scaled, (factor * bias).to(dtype), relu=len(kept) < 3)
        return _as_stream(h, x), kept

    def back(
        self,
        kept: list[Kept],
        context: Context | None,
        grad: Tensor,
        found: Gradients,
    ) -> Tensor:
        """The gradient of x; those of the weights and of the context go into `found`."""
        by_h = grad.to(kept[0][0].dtype, memory_format=torch.channels_last)
        after: Tensor | None = None
        for h, scaled, factor, (weight, log_scale, bias) in reversed(kept):
            if after is not None:
                # ReLU's; in place, since nothing else holds it.
                torch.ops.aten.threshold_backward.grad_input(by_h, after, 0, grad_input=by_h)
            few = after is None and _products_pay(h)
            by_h, by_scaled, by_offset = (_back_of_few if few else _back)(by_h, h, scaled)
            by_scaled, by_offset = by_scaled.to(weight.dtype), by_offset.to(bias.dtype)
            by_factor = torch.linalg.vecdot(by_scaled.flatten(1), weight.flatten(1))
            by_log_scale = torch.addcmul(by_factor, by_offset, bias).mul_(factor * ActNorm.SPEED)
            found.add(weight, by_scaled * factor[:, None, None, None])
            found.add(log_scale, by_log_scale)
            found.add(bias, by_offset * factor)
            after = h
        by_h = _as_stream(by_h, grad)
        width = by_h.shape[1] - (0 if context is None else context.shape[1])
        if context is not None:
            found.add(context, by_h[:, width:].sum((2, 3)))
        return by_h[:, : width - 1]


def kernel(inputs: int, outputs: int, size: int, std: float) -> nn.Parameter:
    """The weights of a convolution, drawn as N(0, std^2): `(outputs, size, size, inputs)`.

    The inputs are last, as convolutions read them fastest.
    """
    return nn.Parameter(torch.randn(outputs, size, size, inputs) * std)


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


def _back(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a convolution, of its input, weight and bias."""
    by_x, by_weight, by_bias = torch.ops.aten.convolution_backward.default(
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
        [True, True, True],
    )
    return by_x, by_weight.permute(0, 2, 3, 1), by_bias


def _products_pay(x: Tensor) -> bool:
    """Whether `_back_of_few` is faster than `_back`; in float32 it is not, nor on a GPU."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.numel() >= 2**18


def _back_of_few(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
    by_x = (nine @ turned).view(n, h, w, i).permute(0, 3, 1, 2)
    by_turned = nine.T @ x.permute(0, 2, 3, 1).reshape(-1, i)
    by_weight = by_turned.view(3, 3, o, i).flip(0, 1).permute(2, 0, 1, 3)
    return by_x, by_weight.contiguous(), grad.sum((0, 2, 3))

"""The networks of Glow: three convolutions that steer a coupling, one that predicts a latent."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffeo.bijections.backward import Gradients, precision_of
from diffeo.bijections.base import Context
from diffeo.bijections.normalization import ActNorm
from diffeo.bijections.together import prepare, stacked
from diffeo.networks.resnet import laid_over

WEIGHT_STD = 0.05
# So many hidden activations are computed at a time, in all pixels of some pictures.
IN_CACHE = 2**21
# Kernels of more weights are prepared one by one, since to stack them would take as long.
SMALL = 2**16
Layer = tuple[Tensor, Tensor, Tensor]  # weight, log-scale, bias, as they are learned
Scaled = tuple[Tensor, Tensor, Tensor]  # weight, bias, factor
Kept = tuple[list[list[Tensor]], list[Scaled], list[Layer]]
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
        dtype = precision_of(x)
        weight, bias, _ = _scaled(self.weight, self.log_scale, self.bias, dtype)
        return _as_stream(_convolve(x.to(dtype), weight, bias), x)


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
        dtype = precision_of(x)
        h = self._enter(x, context)
        layers = prepare(self, dtype)
        parts = [h] if torch.is_grad_enabled() else self._parts(h)
        out = _together([_through(part.to(dtype), layers)[-1] for part in parts])
        return _as_stream(out, x)

    def _enter(self, x: Tensor, context: Context | None) -> Tensor:
        """[x, 1, context]."""
        inside = x.new_ones(()).expand(x.shape[0], 1, *x.shape[2:])
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
        norms = self.first_norm, self.second_norm
        for norm, (weight, log_scale, shift) in zip(norms, self._layers(), strict=False):
            norm.start_from(_convolve(h.to(dtype), weight.to(dtype)))
            scaled, offset, _ = _scaled(weight, log_scale, shift, dtype)
            h = _convolve(h.to(dtype), scaled, offset).relu_()

    def _parts(self, h: Tensor) -> Sequence[Tensor]:
        """The batch in parts whose activations stay in the processor's cache."""
        if h.device.type != "cpu":
            return (h,)
        return h.split(max(1, IN_CACHE // (len(self.first) * h.shape[2] * h.shape[3])))

    # Backward -----------------------------------------------------------------------------------

    def by_hand(self, given: torch.dtype, dtype: torch.dtype) -> bool:
        """Whether `run` and `back` are of use; they always are."""
        return True

    def run(self, x: Tensor, context: Context | None, dtype: torch.dtype) -> tuple[Tensor, Kept]:
        """What `forward` returns, without a graph, and what `back` needs (see `Coupling`)."""
        h = self._enter(x, context).to(dtype, memory_format=torch.channels_last)
        layers = prepare(self, dtype)
        passes = [_through(part, layers) for part in self._parts(h)]
        out = _as_stream(_together([each.pop() for each in passes]), x)
        return out, (passes, layers, self._layers())

    def back(self, kept: Kept, context: Context | None, grad: Tensor, found: Gradients) -> Tensor:
        """The gradient of x; those of the weights and of the context go into `found`."""
        passes, layers, learned = kept
        grads = grad.to(layers[0][0].dtype, memory_format=torch.channels_last)
        by_h: list[Tensor] = []
        totals: list[Tensor] = []
        for inputs, part in zip(passes, grads.split(len(passes[0][0])), strict=True):
            by_part, sums = _back_through(part, inputs, layers)
            by_h.append(by_part)
            if totals:
                sums = [a.to(grad.dtype) + b for a, b in zip(totals, sums, strict=True)]
            totals = sums
        found.later(self, (learned, layers, totals))
        by_input = _as_stream(_together(by_h), grad)
        width = by_input.shape[1] - (0 if context is None else context.shape[1])
        if context is not None:
            found.add(context, by_input[:, width:].sum((2, 3)))
        return by_input[:, : width - 1]

    # Together with others (see `together.Alike`) --------------------------------------------------

    def likeness(self) -> Hashable:
        """The shapes of its kernels; None for large ones, and before it is initialised."""
        kernels = self.first, self.second, self.last.weight
        if self.first_norm.awaits_data() or max(k.numel() for k in kernels) > SMALL:
            return None
        return tuple(kernel.shape for kernel in kernels)

    @classmethod
    def prepare(cls, modules: Sequence[Self], dtype: torch.dtype) -> list[list[Scaled]]:
        """The convolutions of each net, scaled by what follows them, in a dtype."""
        layers = zip(*[module._layers() for module in modules], strict=True)
        scaled = [_scaled(*_columns(layer), dtype) for layer in layers]
        by_layer = (zip(*(part.unbind() for part in parts), strict=True) for parts in scaled)
        return [list(layers) for layers in zip(*by_layer, strict=True)]

    @classmethod
    def settle(cls, raws: Sequence[Any], found: Gradients) -> None:
        """From the gradients of the scaled convolutions, those of what is learned."""
        for i, layers in enumerate(zip(*[learned for learned, *_ in raws], strict=True)):
            weight, _, bias = _columns(layers)
            factor = stacked([scaled[i][2] for _, scaled, _ in raws])
            sums = zip(*[totals[2 * i : 2 * i + 2] for *_, totals in raws], strict=True)
            by_scaled, by_offset = (stacked(part).to(weight.dtype) for part in sums)
            by_factor = torch.linalg.vecdot(by_scaled.flatten(2), weight.flatten(2))
            by_log_scale = torch.addcmul(by_factor, by_offset, bias).mul_(factor * ActNorm.SPEED)
            factor_of_weight = factor[..., None, None, None]
            if len(raws) == 1:  # large ones
                found.add_product(layers[0][0], by_scaled[0], factor_of_weight[0])
            else:
                found.add_each((weight for weight, *_ in layers), by_scaled * factor_of_weight)
            found.add_each((log_scale for _, log_scale, _ in layers), by_log_scale)
            found.add_each((bias for *_, bias in layers), by_offset * factor)


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


def _together(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _scaled(weight: Tensor, log_scale: Tensor, bias: Tensor, dtype: torch.dtype) -> Scaled:
    """A convolution and an actnorm in one, `exp(3 s) * (conv(x) + b)`: weight, bias and exp(3 s).

    To scale the weights costs less than to scale what they make.
    """
    factor = (ActNorm.SPEED * log_scale).exp()
    return (weight * factor[..., None, None, None]).to(dtype), (factor * bias).to(dtype), factor


def _columns(layers: Sequence[Layer]) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, log-scales and biases of several layers of one shape, along a new first axis."""
    weight, log_scale, bias = map(stacked, zip(*layers, strict=True))
    return weight, log_scale, bias


def _through(h: Tensor, layers: list[Scaled]) -> list[Tensor]:
    """What goes into each layer, and what comes out of the last."""
    passed = [h]
    for i, (weight, bias, _) in enumerate(layers):
        passed.append(_convolve(passed[-1], weight, bias, relu=i < len(layers) - 1))
    return passed


def _back_through(
    grad: Tensor, inputs: list[Tensor], layers: list[Scaled]
) -> tuple[Tensor, list[Tensor]]:
    """The gradients of what went in, and of each layer's weight and bias in turn."""
    sums: list[Tensor] = []
    for i in reversed(range(len(layers))):
        last = i == len(layers) - 1
        back = _back_of_few if last and _few_pay(inputs[i]) else _back
        grad, *by_layer = back(grad, inputs[i], layers[i][0])
        sums = [*by_layer, *sums]
        if i > 0:
            # ReLU's; in place, since nothing else holds it.
            torch.ops.aten.threshold_backward.grad_input(grad, inputs[i], 0, grad_input=grad)
    return grad, sums


def _back(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a convolution, of its input, weight and bias."""
    by_input, by_weight, by_bias = _gradients(grad, x, weight)
    assert by_input is not None
    return by_input, by_weight, by_bias


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, by_x: bool = True
) -> tuple[Tensor | None, Tensor, Tensor]:
    by_input, by_weight, by_bias = torch.ops.aten.convolution_backward.default(
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
    return by_input, by_weight.permute(0, 2, 3, 1), by_bias


def _few_pay(x: Tensor) -> bool:
    """Whether `_back_of_few` is faster than `_back`: for wide networks on a processor."""
    return x.device.type == "cpu" and x.shape[1] >= 256


def _back_of_few(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`_back` of a 3x3 convolution with few outputs, by convolutions of single pixels.

    Beside each pixel of x stand the gradients of the nine pixels that it went into: few channels
    become nine times as many, and a 3x3 convolution a product of matrices, which is faster.
    """
    n, o, h, w = grad.shape
    i = x.shape[1]
    padded = F.pad(grad.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    a, b, c, d = padded.stride()
    nine = padded.as_strided((n, h, w, 3, 3, o), (a, b, c, b, c, d)).reshape(n, h, w, 9 * o)
    nine = nine.permute(0, 3, 1, 2)
    # Its pixel (r, s) met weight (2 - r, 2 - s).
    turned = weight.flip(1, 2).permute(3, 1, 2, 0).reshape(i, 1, 1, 9 * o)
    by_x = F.conv2d(nine, turned.permute(0, 3, 1, 2))
    _, by_turned, by_bias = _gradients(nine, x, x.new_empty(9 * o, 1, 1, i), by_x=False)
    by_weight = by_turned.view(3, 3, o, i).flip(0, 1).permute(2, 0, 1, 3)
    # The sum over the nine's middle is that over all pixels.
    return by_x, by_weight.contiguous(), by_bias.view(9, o)[4]

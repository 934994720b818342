"""The networks of Glow: three convolutions for a coupling, one for the prior of a split."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffeo.bijections.normalization import ActNorm
from diffeo.networks.glow_fused import convolve, fused, scaled
from diffeo.networks.resnet import context_channels
from diffeo.utils.config import Configurable
from diffeo.utils.modules import is_plain
from diffeo.utils.ranges import Count, Whole

WEIGHT_STD = 0.05


class ZeroConv(Configurable, nn.Module):
    """A 3x3 convolution that starts at zero, with a learned scale of each output channel.

        out = exp(3 s) * (conv3x3([x, context]) + b)

    Args:
        inputs: channels of x `(batch, inputs, H, W)`.
        outputs: channels of the output `(batch, outputs, H, W)`.
        context_features: width of the context, added to all pixels as further channels.

    A coupling with it starts as the identity. (Kingma & Dhariwal 2018, in their code)
    """

    def __init__(self, inputs: Whole, outputs: Count, context_features: Whole = 0) -> None:
        super().__init__()
        self.weight: nn.Parameter = kernel(inputs + context_features, outputs, 3, std=0.0)
        self.bias: nn.Parameter = nn.Parameter(torch.zeros(outputs))
        self.log_scale: nn.Parameter = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`(batch, outputs, H, W)` for x `(batch, inputs, H, W)`."""
        if context is not None:
            x = torch.cat((x, *context_channels(context, x)), dim=1)
        return convolve(x, *scaled(self.weight, self.log_scale, self.bias)).to(x.dtype)


class GlowNet(Configurable, nn.Module):
    """Three convolutions with actnorm and ReLU between them.

        h_1 = relu(actnorm(conv3x3([x, 1, context])))
        h_2 = relu(actnorm(conv1x1(h_1)))
        out = zeroconv3x3(h_2)

    The channel of ones distinguishes pixels at the edge, where a convolution sees zeros outside of
    the image, from others. The actnorms are folded into the convolutions before them, since to
    scale a weight costs less than to scale what it makes.

    Args:
        inputs: channels of x `(batch, inputs, H, W)`.
        outputs: channels of the output `(batch, outputs, H, W)`.
        hidden_channels: channels of h.
        context_features: width of the context, added to all pixels as further channels.

    (Kingma & Dhariwal 2018, section 3.3 and their code)
    """

    def __init__(
        self,
        inputs: Whole,
        outputs: Count,
        hidden_channels: Count = 512,
        context_features: Whole = 0,
    ) -> None:
        super().__init__()
        c = hidden_channels
        self.first: nn.Parameter = kernel(inputs + 1 + context_features, c, 3, std=WEIGHT_STD)
        self.second: nn.Parameter = kernel(c, c, 1, std=WEIGHT_STD)
        self.first_norm: ActNorm = ActNorm(c)
        self.second_norm: ActNorm = ActNorm(c)
        self.activation: nn.Module = nn.ReLU()
        self.last: ZeroConv = ZeroConv(c, outputs)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The parameters `(batch, outputs, H, W)` for unchanged channels x."""
        h = self._with_ones_and_context(x, context)
        if self._is_standard():
            norms = self.first_norm, self.second_norm
            first, second = ((norm.log_scale, norm.shift) for norm in norms)
            last = self.last.weight, self.last.log_scale, self.last.bias
            return fused(h, self.first, *first, self.second, *second, *last).to(x.dtype)
        h = self.activation(self.first_norm(convolve(h, self.first))[0])
        h = self.activation(self.second_norm(convolve(h, self.second))[0])
        return self.last(h).to(x.dtype)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Initialise the actnorms from a batch, unless they were before."""
        h = self._with_ones_and_context(x, context)
        for weight, norm in ((self.first, self.first_norm), (self.second, self.second_norm)):
            h = convolve(h, weight)
            norm.initialize(h)
            h = self.activation(norm(h)[0])

    def _with_ones_and_context(self, x: Tensor, context: Tensor | None) -> Tensor:
        ones = x.new_ones(()).expand(x.shape[0], 1, *x.shape[2:])
        return torch.cat((x, ones, *context_channels(context, x)), dim=1)

    def _is_standard(self) -> bool:
        """Whether the parts are of the constructor's kinds, and nobody watches their calls."""
        return (
            is_plain(self.activation, nn.ReLU)
            and is_plain(self.first_norm, ActNorm)
            and is_plain(self.second_norm, ActNorm)
            and is_plain(self.last, ZeroConv)
        )


def kernel(inputs: int, outputs: int, size: int, std: float) -> nn.Parameter:
    """The weights of a convolution, drawn as N(0, std^2): `(outputs, size, size, inputs)`.

    The inputs are last, as convolutions read them fastest.
    """
    return nn.Parameter(torch.randn(outputs, size, size, inputs) * std)

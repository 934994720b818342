"""The networks of Glow: three convolutions that steer a coupling, one that predicts a latent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffeo.bijections.base import Context
from diffeo.bijections.normalization import ActNorm
from diffeo.conditioners.resnet import channels_last, laid_over

WEIGHT_STD = 0.05


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
        self.conv = nn.Conv2d(inputs + context_features, outputs, 3, padding=1, bias=False)
        nn.init.zeros_(self.conv.weight)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.log_scale = nn.Parameter(torch.zeros(outputs))

    def forward(
        self, x: Float[Tensor, "batch inputs height width"], context: Context | None = None
    ) -> Float[Tensor, "batch outputs height width"]:
        """`(batch, outputs, H, W)` for x `(batch, inputs, H, W)`."""
        x = channels_last(
            torch.cat((x, *laid_over(context, x)), dim=1) if context is not None else x
        )
        factor = (3 * self.log_scale).exp()
        return scaled(self.conv, x, factor, factor * self.bias)


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
        self.first = nn.Conv2d(inputs + 1 + context_features, c, 3, padding=1, bias=False)
        self.second = nn.Conv2d(c, c, 1, bias=False)
        for conv in (self.first, self.second):
            nn.init.normal_(conv.weight, std=WEIGHT_STD)
        self.first_norm, self.second_norm = ActNorm(c), ActNorm(c)
        self.last = ZeroConv(c, outputs)

    def forward(
        self, x: Float[Tensor, "batch inputs height width"], context: Context | None = None
    ) -> Float[Tensor, "batch outputs height width"]:
        """The parameters `(batch, outputs, H, W)` for kept channels x `(batch, inputs, H, W)`."""
        inside = x.new_ones(()).expand(len(x), 1, *x.shape[2:])
        h = channels_last(torch.cat((x, inside, *laid_over(context, x)), dim=1))
        h = normalized(self.first, self.first_norm, h).relu_()
        h = normalized(self.second, self.second_norm, h).relu_()
        return self.last(h)


def normalized(conv: nn.Conv2d, norm: ActNorm, x: Tensor) -> Tensor:
    """`norm(conv(x))` in one convolution."""
    if norm.training and not norm.initialized:
        norm.start_from(conv(x))
    factor = norm.factor()
    return scaled(conv, x, factor, factor * norm.shift)


def scaled(conv: nn.Conv2d, x: Tensor, factor: Tensor, bias: Tensor) -> Tensor:
    """A convolution, each of its channels multiplied by a factor, plus another bias."""
    # To scale the weights costs less than to scale what they make.
    weight = conv.weight * factor[:, None, None, None]
    return F.conv2d(x, weight, bias, padding=conv.padding)  # type: ignore[arg-type]

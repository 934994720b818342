"""The convolutional networks of couplings of images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from diffeo.bijections.normalization import BatchNorm
from diffeo.networks.mlp import start_at_zero
from diffeo.utils.config import Configurable
from diffeo.utils.modules import is_plain
from diffeo.utils.ranges import Count, Whole


class Normalized(nn.Module):
    """Batch normalization without scale and shift, then ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm: BatchNorm = BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """`relu(norm(x))`, of the shape of x."""
        if is_plain(self.norm, BatchNorm):
            return self.norm.normalize(x).relu_()
        # As `normalize`, it has statistics of no lower precision than float32.
        y = self.norm(x.to(torch.promote_types(x.dtype, torch.float32)))
        return (y[0] if isinstance(y, tuple) else y).to(x.dtype).relu()


class ResNet(Configurable, nn.Module):
    """Residual network with weight normalisation, and a skip from each block to the output.

        h_0 = conv3x3(relu(norm([x, -x, context])))
        h_i = h_{i-1} + conv3x3(relu(norm(conv3x3(relu(norm(h_{i-1}))))))
        out = conv1x1(relu(norm(sum_i skip_i(h_i)))),   skip_i a 1x1 convolution

    Args:
        inputs: channels of x `(batch, inputs, H, W)`.
        outputs: channels of the output `(batch, outputs, H, W)`.
        hidden_channels: channels of h.
        context_features: width of the context, added to all pixels as further channels.
        blocks: number of residual blocks.

    All convolutions but the last are weight-normalised (Salimans & Kingma 2016). The last starts
    at zero, so that a coupling starts as the identity. Both x and -x go in, so that no half of the
    information is lost in the first ReLU.

    (Dinh et al. 2017, section 4.1)
    """

    def __init__(
        self,
        inputs: Count,
        outputs: Count,
        hidden_channels: Count = 64,
        context_features: Whole = 0,
        blocks: Whole = 8,
    ) -> None:
        super().__init__()
        c = hidden_channels
        self.entry: nn.Sequential = nn.Sequential(
            Normalized(2 * inputs + context_features), conv(2 * inputs + context_features, c, 3)
        )
        self.blocks: nn.ModuleList = nn.ModuleList(
            nn.Sequential(Normalized(c), conv(c, c, 3), Normalized(c), conv(c, c, 3))
            for _ in range(blocks)
        )
        self.skips: nn.ModuleList = nn.ModuleList(conv(c, c, 1) for _ in range(blocks + 1))
        self.exit: nn.Sequential = nn.Sequential(
            Normalized(c), start_at_zero(nn.Conv2d(c, outputs, 1))
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The parameters `(batch, outputs, H, W)` of x `(batch, inputs, H, W)`."""
        h = self.entry(channels_last(torch.cat((x, -x, *context_channels(context, x)), dim=1)))
        total = self.skips[0](h)
        for block, skip in zip(self.blocks, self.skips[1:], strict=True):
            h = block(h) + h
            total = total + skip(h)
        return self.exit(total)


class ConvNet(Configurable, nn.Module):
    """Three plain convolutions: 3x3, 1x1, 3x3, with ReLU between them.

    Args:
        inputs: channels of x `(batch, inputs, H, W)`.
        outputs: channels of the output `(batch, outputs, H, W)`.
        hidden_channels: channels between.
        context_features: width of the context, added to all pixels as further channels.

    The last convolution starts at zero.
    """

    def __init__(
        self,
        inputs: Count,
        outputs: Count,
        hidden_channels: Count = 64,
        context_features: Whole = 0,
    ) -> None:
        super().__init__()
        c = hidden_channels
        self.layers: nn.Sequential = nn.Sequential(
            nn.Conv2d(inputs + context_features, c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, c, 1),
            nn.ReLU(),
            start_at_zero(nn.Conv2d(c, outputs, 3, padding=1)),
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The parameters `(batch, outputs, H, W)` of x `(batch, inputs, H, W)`."""
        return self.layers(channels_last(torch.cat((x, *context_channels(context, x)), dim=1)))


def conv(inputs: int, outputs: int, size: int) -> nn.Module:
    """A weight-normalised convolution that keeps height and width."""
    return weight_norm(nn.Conv2d(inputs, outputs, size, padding=size // 2))


def channels_last(x: Tensor) -> Tensor:
    """The same tensor `(batch, C, H, W)`, its channels side by side in memory.

    Convolutions are faster on it, and what they return is laid out as what they take.
    """
    return x.contiguous(memory_format=torch.channels_last)


def context_channels(context: Tensor | None, x: Tensor) -> list[Tensor]:
    """The context as channels of the size of x; none without a context.

    It is `(batch, features)`, or has channels of that size, `(batch, features, H, W)`.
    """
    if context is None:
        return []
    if context.ndim == 4:
        return [context]
    return [context[:, :, None, None].expand(-1, -1, *x.shape[2:])]

"""The network of Flow++: gated residual blocks of convolution and self-attention."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeo.networks.attention import Attention
from diffeo.networks.mlp import start_at_zero
from diffeo.networks.resnet import channels_last, context_channels
from diffeo.utils.config import Configurable
from diffeo.utils.ranges import Count, Whole

WAVES = 5  # of positions, from 4 pixels on, each twice as long as the one before


class GatedResNet(Configurable, nn.Module):
    """Gated residual blocks, each a convolution and self-attention over all pixels.

        h = conv3x3([x, context]) + V positions
        h <- h + gate(conv1x1(elu(conv3x3(elu(norm(h)))))),   gate([a, b]) = a sigmoid(b)
        h <- h + gate(attention(norm(h))),                    in each block
        out = W elu(norm(h)) + b

    norm is over the channels of each pixel. Positions are sines and cosines of rows and columns, so
    a network fits images of all sizes.

    Args:
        inputs: channels of x `(batch, inputs, H, W)`.
        outputs: channels of the output `(batch, outputs, H, W)`.
        hidden_channels: channels of h.
        context_features: width of the context, added to all pixels as further channels.
        blocks: number of blocks.
        heads: of the attention; they divide the hidden channels. 0 leaves attention out, whose time
            grows with the square of the number of pixels.

    W and b start at zero, so that a coupling starts near the identity. The paper
    normalizes after each sum instead, and has the ELU of -h next to that of h, which doubles the
    cost of convolutions.

    Raises:
        ValueError: if the heads do not divide the hidden channels.

    (Ho et al. 2019, section 3.3)
    """

    def __init__(
        self,
        inputs: Whole,
        outputs: Count,
        hidden_channels: Count = 64,
        context_features: Whole = 0,
        blocks: Count = 2,
        heads: Whole = 4,
    ) -> None:
        super().__init__()
        c = hidden_channels
        self.entry: nn.Conv2d = nn.Conv2d(inputs + context_features, c, 3, padding=1)
        self.places: nn.Linear = nn.Linear(4 * WAVES, c, bias=False)
        self.blocks: nn.ModuleList = nn.ModuleList(_GatedBlock(c, heads) for _ in range(blocks))
        self.norm: nn.LayerNorm = nn.LayerNorm(c)
        self.exit: nn.Linear = nn.Linear(c, outputs)
        start_at_zero(self.exit)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The parameters `(batch, outputs, H, W)` of x `(batch, inputs, H, W)`."""
        h = self.entry(channels_last(torch.cat((x, *context_channels(context, x)), dim=1)))
        h = h.permute(0, 2, 3, 1)  # as it lies in memory, and as norms and attention take it
        h = h + self.places(positions(x))
        for block in self.blocks:
            h = block(h)
        return _channel_by_channel(self.exit, F.elu(self.norm(h)))


class _GatedBlock(nn.Module):
    """One block: `(batch, H, W, channels)` to the same."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        c = channels
        self.norm = nn.LayerNorm(c)
        self.first = nn.Conv2d(c, c, 3, padding=1)
        self.second = nn.Conv2d(c, 2 * c, 1)
        self.attention = Attention(c, heads, outputs=2 * c) if heads else None

    def forward(self, h: Tensor) -> Tensor:
        inner = self.first(F.elu(self.norm(h)).permute(0, 3, 1, 2))
        h = h + F.glu(self.second(F.elu(inner)).permute(0, 2, 3, 1), dim=3)
        if self.attention is None:
            return h
        return h + F.glu(self.attention(h.flatten(1, 2)), dim=2).view(h.shape)


def _channel_by_channel(linear: nn.Linear, h: Tensor) -> Tensor:
    """A linear map of each pixel of h `(batch, H, W, C)`: `(batch, outputs, H, W)`.

    In memory the outputs lie one after another, each of the whole batch, which is how mixtures go
    over their parameters.
    """
    out = torch.addmm(linear.bias[:, None], linear.weight, h.flatten(0, 2).t())
    return out.view(len(out), *h.shape[:3]).transpose(0, 1)


def positions(x: Tensor) -> Tensor:
    """Sines and cosines of the row and column of each pixel of x: `(H, W, 4 WAVES)`."""
    height, width = x.shape[2:]
    waves = math.pi / 2 * 0.5 ** torch.arange(WAVES, dtype=x.dtype, device=x.device)
    parts = []
    for size, shape in ((height, (height, 1, -1)), (width, (1, width, -1))):
        angles = torch.arange(size, dtype=x.dtype, device=x.device)[:, None] * waves
        both = torch.cat((angles.sin(), angles.cos()), dim=1)
        parts.append(both.view(*shape).expand(height, width, -1))
    return torch.cat(parts, dim=2)

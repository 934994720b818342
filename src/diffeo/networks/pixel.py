"""The causal network of images: gated masked convolutions, pixel by pixel in raster order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeo.networks.mlp import start_at_zero
from diffeo.networks.pixel_raster import Choose, raster
from diffeo.networks.resnet import channels_last
from diffeo.utils.config import Configurable
from diffeo.utils.ranges import Count, Whole

# Rows and columns that the first convolutions see, and those that all further ones do.
FIRST_ROWS, FIRST_COLUMNS, FIRST_LEFT = 4, 7, 4
ROWS, COLUMNS, LEFT = 2, 3, 2


class CausalConv(nn.Conv2d):
    """A convolution that sees `rows` rows down to its own and `columns` columns around its own.

    Args:
        inputs: channels of the input.
        outputs: channels of the output, which has the size of the input.
        rows: of the kernel; the last one is that of the pixel.
        columns: of the kernel.
        left: whether the last column is that of the pixel, and not the middle one.
    """

    def __init__(
        self, inputs: Count, outputs: Count, rows: Count, columns: Count, left: bool = False
    ) -> None:
        before = columns - 1 if left else columns // 2
        super().__init__(inputs, outputs, (rows, columns), padding=(rows - 1, before))
        self.rows, self.left = rows, left

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        # Each part that is left out costs a copy of the gradient.
        y = y[:, :, : x.shape[2]] if self.rows > 1 else y
        return y[..., : x.shape[3]] if self.left else y


class GatedLayer(nn.Module):
    """One layer of both stacks.

        v' = v + relu(conv(v)),   q = conv(h) + conv1x1(v') + W context
        h' = h + conv1x1(q_1 * sigmoid(q_2)),   (q_1, q_2) = q

    Args:
        channels: of v and of h.
        context_features: width of the context.
    """

    def __init__(self, channels: Count, context_features: Whole) -> None:
        super().__init__()
        self.vertical = CausalConv(channels, channels, ROWS, COLUMNS)
        self.value = CausalConv(channels, channels, 1, LEFT, left=True)
        self.gate = CausalConv(channels, channels, 1, LEFT, left=True)
        self.value_link = nn.Conv2d(channels, channels, 1)
        self.gate_link = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        self.context = nn.Linear(context_features, 2 * channels) if context_features else None

    def down(self, v: Tensor) -> Tensor:
        """The vertical stack's v'."""
        return v + F.relu(self.vertical(v))

    def links(self, v: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the vertical stack's v' and the context add to q_1 and to q_2."""
        links = self.value_link(v), self.gate_link(v)
        if self.context is None or context is None:
            return links
        value, gate = self.context(context)[:, :, None, None].chunk(2, dim=1)
        return links[0] + value, links[1] + gate

    def right(self, h: Tensor, links: tuple[Tensor, Tensor]) -> Tensor:
        """The horizontal stack's h'."""
        value, gate = self.value(h) + links[0], self.gate(h) + links[1]
        return h + self.out(value * gate.sigmoid())


class Head(nn.Module):
    """The parameters of one channel, given what its pixel's context and earlier channels are.

        out = W [relu(U [h, x]), x] + b

    Args:
        before: the number of channels x before it.
        channels: of h.
        outputs: how many parameters.

    The last layer starts at zero.
    """

    def __init__(self, before: Whole, channels: Count, outputs: Count) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(channels + before, 2 * channels, 1)
        self.out = start_at_zero(nn.Conv2d(2 * channels + before, outputs, 1))

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        hidden = F.relu(self.hidden(_joined(h, x)))
        out: Tensor = self.out(_joined(hidden, x))
        return out


class GatedPixelNet(Configurable, nn.Module):
    """Parameters of each pixel's channels, given the pixels before it and its earlier channels.

        v = convolution of the rows above,   h = v + convolution of the pixels to the left
        v, h = layer(v, h),   parameters of channel c = head_c(relu(h), x_j for all j < c)

    Pixels are in raster order, row by row from the left. The vertical stack v sees all rows above a
    pixel, and the horizontal stack h also those to its left, so that no pixel before it stays
    unseen, as some would with one stack of masked kernels. A channel of ones marks the edge.

    Args:
        inputs: channels of x `(batch, inputs, H, W)`, at about the scale of 1.
        outputs: channels of the output; a multiple of `inputs`. The first output of all channels
            comes first, then the second, as a `Univariate` takes them.
        hidden_channels: channels of v and of h.
        context_features: width of the context, which every layer sees.
        layers: number of layers; each sees one row more, and one pixel to the left.

    All parameters start at zero. The masks of the paper are here in the padding: kernels have no
    weights for what is masked. The vertical stack has residuals and ReLU for the paper's gates.

    Raises:
        ValueError: if `outputs` is no multiple of `inputs`.

    (van den Oord et al. 2016; Salimans et al. 2017 for the order of the channels)
    """

    def __init__(
        self,
        inputs: Count,
        outputs: Count,
        hidden_channels: Count = 32,
        context_features: Whole = 0,
        layers: Count = 12,
    ) -> None:
        super().__init__()
        if outputs % inputs:
            raise ValueError(
                f"outputs is {outputs}, which {inputs} channels cannot share: choose a multiple."
            )
        c = hidden_channels
        self.inputs, self.channels = inputs, c
        self.above = nn.Conv2d(
            inputs + 1, c, (FIRST_ROWS, FIRST_COLUMNS), padding=(FIRST_ROWS, FIRST_COLUMNS // 2)
        )
        self.before = nn.Conv2d(inputs + 1, c, (1, FIRST_LEFT), padding=(0, FIRST_LEFT))
        self.layers = nn.ModuleList(GatedLayer(c, context_features) for _ in range(layers))
        self.heads = nn.ModuleList(Head(i, c, outputs // inputs) for i in range(inputs))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The parameters `(batch, outputs, H, W)` of x `(batch, inputs, H, W)`."""
        height, width = x.shape[2:]
        seen = channels_last(torch.cat((x, torch.ones_like(x[:, :1])), dim=1))
        # Each has a pixel of padding too much, so that the pixel itself and its row stay unseen.
        v = self.above(seen)[:, :, :height]
        h = v + self.before(seen)[..., :width]
        for layer in self.layers:
            v = layer.down(v)
            h = layer.right(h, layer.links(v, context))
        h = F.relu(h)
        parts = [head(h, x[:, :i]) for i, head in enumerate(self.heads)]
        return parts[0] if len(parts) == 1 else torch.stack(parts, dim=2).flatten(1, 2)

    def raster(self, x: Tensor, context: Tensor | None, choose: Choose) -> None:
        """Evaluate the network pixel by pixel while x comes into being; see `raster`."""
        raster(self, x, context, choose)


def _joined(h: Tensor, x: Tensor) -> Tensor:
    """The channels of both; h itself where x has none, since a copy takes time."""
    return torch.cat((h, x.to(h.dtype)), dim=1) if x.shape[1] else h

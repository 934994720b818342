"""The causal network of images: gated masked convolutions, pixel by pixel in raster order."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeo.networks.pixel_layers import GatedLayer, Head, differences, neighbours
from diffeo.networks.pixel_raster import Choose, raster
from diffeo.networks.resnet import channels_last
from diffeo.utils.config import Configurable
from diffeo.utils.ranges import Count, Whole

# What the first convolutions see: rows above, columns around, and columns to the left.
FIRST_ROWS, FIRST_COLUMNS, FIRST_LEFT = 4, 7, 4


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
        near: whether outputs are also a linear function of the four nearest pixels, and the first
            one starts as a guess from them, for a `LogisticsCDF`. Pixels that resemble those next
            to them, as in photographs, are then learned sooner.
        wide: number of further layers, whose vertical stack sees rows and columns that are 2, 4, 8
            and so on apart. They let a pixel see the whole image: what is drawn far above decides
            what a digit still lacks.

    Without `near` all parameters start at zero. The masks of the paper are here in the padding:
    kernels have no weights for what is masked. The vertical stack has residuals and ReLU for the
    paper's gates, and layers with a wide view have dilated kernels.

    Raises:
        ValueError: if `outputs` is no multiple of `inputs`.

    (van den Oord et al. 2016; Salimans et al. 2017 for the order of the channels; Yu & Koltun 2016
    for dilated kernels)
    """

    def __init__(
        self,
        inputs: Count,
        outputs: Count,
        hidden_channels: Count = 32,
        context_features: Whole = 0,
        layers: Count = 12,
        near: bool = False,
        wide: Whole = 0,
    ) -> None:
        super().__init__()
        if outputs % inputs:
            raise ValueError(
                f"outputs is {outputs}, which {inputs} channels cannot share: choose a multiple."
            )
        c = hidden_channels
        self.near = near
        self.above: nn.Conv2d = nn.Conv2d(
            inputs + 1, c, (FIRST_ROWS, FIRST_COLUMNS), padding=(FIRST_ROWS, FIRST_COLUMNS // 2)
        )
        self.before: nn.Conv2d = nn.Conv2d(inputs + 1, c, (1, FIRST_LEFT), padding=(0, FIRST_LEFT))
        self.layers: nn.ModuleList = nn.ModuleList(
            GatedLayer(c, context_features, spacing)
            for spacing in [1] * layers + [2 ** (i + 1) for i in range(wide)]
        )
        each, neighbouring = outputs // inputs, 4 * inputs if near else 0
        self.heads: nn.ModuleList = nn.ModuleList(
            Head(i, c, each, neighbouring) for i in range(inputs)
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The parameters `(batch, outputs, H, W)` of x `(batch, inputs, H, W)`."""
        height, width = x.shape[2:]
        x = differences(x) if self.near else x
        seen = channels_last(torch.cat((x, torch.ones_like(x[:, :1])), dim=1))
        # Each has a pixel of padding too much, so that the pixel itself and its row stay unseen.
        v = self.above(seen)[:, :, :height]
        h = v + self.before(seen)[..., :width]
        for layer in cast(list[GatedLayer], self.layers):
            v = layer.down(v, context)
            h = layer.right(h, layer.links(v, context))
        h = F.relu(h)
        near = neighbours(x) if self.near else x[:, :0]
        parts = [head(h, x[:, :i], near) for i, head in enumerate(self.heads)]
        return parts[0] if len(parts) == 1 else torch.stack(parts, dim=2).flatten(1, 2)

    def raster(self, x: Tensor, context: Tensor | None, choose: Choose) -> None:
        """Evaluate the network pixel by pixel while x comes into being; see `raster`."""
        layers = cast(list[GatedLayer], list(self.layers))
        heads = cast(list[Head], list(self.heads))
        raster(self.above, self.before, layers, heads, self.near, x, context, choose)

"""A causal network of images, evaluated pixel by pixel: only what is new is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeo.networks.pixel_layers import GatedLayer, Head, differences, neighbours
from diffeo.utils.products import matmul

# Called with the parameters `(batch, each)` of one channel of one pixel, and its channel, row and
# column, it returns the value `(batch,)` that the network sees from then on.
Choose: TypeAlias = Callable[[Tensor, int, int, int], Tensor]


@torch.no_grad()
def raster(
    above: nn.Conv2d,
    before: nn.Conv2d,
    layers: list[GatedLayer],
    heads: list[Head],
    near: bool,
    x: Tensor,
    context: Tensor | None,
    choose: Choose,
) -> None:
    """Call `choose` with the parameters of each channel of each pixel, in raster order.

    When a row begins, the vertical stack computes that row at once. For each pixel the horizontal
    stack computes that pixel; it remembers what it knows of the pixels to the left.

    Args:
        above: the first convolution of the vertical stack.
        before: that of the horizontal one.
        layers: the further layers of both.
        heads: one for each channel.
        near: whether they take neighbours.
        x: has the shape `(batch, inputs, H, W)`, the dtype and the device of the input. Its values
            are not read: those that `choose` returns are.
        context: `(batch, context_features)`, or None.
        choose: see `Choose`.
    """
    n, channels, height, width = x.shape
    first_rows, left = above.kernel_size[0], before.kernel_size[1]
    # With the zeros around an image that the convolutions see.
    seen = x.new_zeros(n, channels + 1, first_rows + height, left + width + 1)
    seen[:, channels, first_rows:, left : left + width] = 1.0
    steps = [_Layer(layer, context, x) for layer in layers]
    first = _flat(before)
    for i in range(height):
        rows = seen[:, :, i : i + first_rows, left : left + width]
        v = _row(above, rows)
        starts = v[:, :, 0].movedim(2, 0).contiguous()
        for step in steps:
            v = step.begin_row(v)
        for j in range(width):
            window = seen[:, :, first_rows + i, j : j + left]
            h = starts[j] + F.linear(window.flatten(1), first, before.bias)
            for step in steps:
                h = step.right(h, j)
            h = F.relu(h)[:, :, None, None]
            row, column = first_rows + i, left + j
            around = seen[:, :channels, row - 1 : row + 1, column - 1 : column + 2]
            closest = neighbours(around)[:, :, 1:, 1:2] if near else around[:, :0, 1:, 1:2]
            value = h.new_zeros(n)
            for c, head in enumerate(heads):
                known = seen[:, :c, row, column, None, None]
                last, value = value, choose(head(h, known, closest)[:, :, 0, 0], c, i, j)
                pair = torch.stack((last, value), 1)[..., None, None]
                shown = differences(pair)[:, 1, 0, 0] if near and c else value
                seen[:, c, row, column] = shown


class _Layer:
    """What a layer has to remember: its row above, and the row of h up to this pixel."""

    def __init__(self, layer: GatedLayer, context: Tensor | None, x: Tensor) -> None:
        n, width, channels = x.shape[0], x.shape[3], layer.out.out_channels
        self.layer, self.context, self.channels = layer, context, channels
        vertical = layer.vertical
        rows_above = (vertical.kernel_size[0] - 1) * vertical.dilation[0]
        self.above = x.new_zeros(n, channels, rows_above, width)
        self.left = layer.value.kernel_size[1]
        # In memory the channels of a pixel are neighbours, and so are pixels of a window.
        self.row = x.new_zeros(n, self.left - 1 + width, channels)
        both = torch.cat((layer.value.weight, layer.gate.weight))
        self.kernel = both.permute(3, 2, 1, 0).flatten(0, 2).contiguous()
        self.bias = torch.cat((_bias(layer.value), _bias(layer.gate)))
        self.out = _flat(layer.out)
        self.links = x

    def begin_row(self, v: Tensor) -> Tensor:
        """The vertical stack's v' of this row, from v `(batch, channels, 1, W)`."""
        rows = torch.cat((self.above, v), dim=2)
        self.above = rows[:, :, 1:]
        v = v + F.relu(self.layer.given(_row(self.layer.vertical, rows), self.context))
        links = torch.cat(self.layer.links(v, self.context), dim=1)[:, :, 0]
        self.links = links.movedim(2, 0).contiguous() + self.bias
        return v

    def right(self, h: Tensor, j: int) -> Tensor:
        """The horizontal stack's h' of pixel j, from h `(batch, channels)`."""
        self.row[:, self.left - 1 + j] = h
        window = self.row[:, j : j + self.left].flatten(1)
        value, gate = (matmul(window, self.kernel) + self.links[j]).chunk(2, dim=1)
        return h + F.linear(value * gate.sigmoid(), self.out, self.layer.out.bias)


def _row(conv: nn.Conv2d, rows: Tensor) -> Tensor:
    """The last row of a convolution, from the rows that its kernel spans."""
    sides = conv.kernel_size[1] // 2 * conv.dilation[1]
    return F.conv2d(rows, conv.weight, conv.bias, padding=(0, sides), dilation=conv.dilation)


def _flat(conv: nn.Conv2d) -> Tensor:
    """The weight of a convolution of one row, as that of a linear map of the flat window."""
    return conv.weight.flatten(1)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias

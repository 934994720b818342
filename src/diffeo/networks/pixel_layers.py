"""The layers of causal networks of images: what a pixel sees are those before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeo.networks.mlp import start_at_zero
from diffeo.utils.ranges import Count, Whole

# Rows and columns that a layer sees of the vertical stack, and columns of the horizontal one.
ROWS, COLUMNS, LEFT = 2, 3, 2
LINEAR = 4.0  # of the linear part of a head
DIFFERENCE = 4.0  # of channels
GUESS = 16.0  # from -1 to 1 in units of 1/32 of the range


class CausalConv(nn.Conv2d):
    """A convolution that sees `rows` rows down to its own and `columns` columns around its own.

    Args:
        inputs: channels of the input.
        outputs: channels of the output, which has the size of the input.
        rows: of the kernel; the last one is that of the pixel.
        columns: of the kernel.
        left: whether the last column is that of the pixel, and not the middle one.
        spacing: how far apart the rows are, and the columns.
    """

    def __init__(
        self,
        inputs: Count,
        outputs: Count,
        rows: Count,
        columns: Count,
        left: bool = False,
        spacing: Count = 1,
    ) -> None:
        before = columns - 1 if left else columns // 2
        padding = spacing * (rows - 1), spacing * before
        super().__init__(inputs, outputs, (rows, columns), padding=padding, dilation=spacing)
        self.rows = rows
        self.left = left

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        # Each part that is left out costs a copy of the gradient.
        y = y[:, :, : x.shape[2]] if self.rows > 1 else y
        return y[..., : x.shape[3]] if self.left else y


class GatedLayer(nn.Module):
    """One layer of both stacks.

        v' = v + relu(conv(v) + U context),   q = conv(h) + conv1x1(v') + W context
        h' = h + conv1x1(q_1 * sigmoid(q_2)),   (q_1, q_2) = q

    Args:
        channels: of v and of h.
        context_features: width of the context.
        spacing: how far apart the rows and the columns are that the vertical stack sees.
    """

    def __init__(self, channels: Count, context_features: Whole, spacing: Count = 1) -> None:
        super().__init__()
        self.vertical: CausalConv = CausalConv(channels, channels, ROWS, COLUMNS, spacing=spacing)
        self.value: CausalConv = CausalConv(channels, channels, 1, LEFT, left=True)
        self.gate: CausalConv = CausalConv(channels, channels, 1, LEFT, left=True)
        self.value_link: nn.Conv2d = nn.Conv2d(channels, channels, 1)
        self.gate_link: nn.Conv2d = nn.Conv2d(channels, channels, 1)
        self.out: nn.Conv2d = nn.Conv2d(channels, channels, 1)
        self.context: nn.Linear | None = (
            nn.Linear(context_features, 2 * channels) if context_features else None
        )
        self.context_above: nn.Linear | None = (
            nn.Linear(context_features, channels, bias=False) if context_features else None
        )

    def down(self, v: Tensor, context: Tensor | None) -> Tensor:
        """The vertical stack's v'."""
        return v + F.relu(self.given(self.vertical(v), context))

    def given(self, v: Tensor, context: Tensor | None) -> Tensor:
        """What the vertical stack's convolution found, and what the context adds to it."""
        if self.context_above is None or context is None:
            return v
        return v + self.context_above(context)[:, :, None, None]

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

        out = W [relu(U [h, x]), 4 x, 4 neighbours] + b

    The factor of 4 lets an optimizer of small steps find the linear part first. With neighbours a
    guess of the channel from them, times 16, is added to the first output: the place of a
    `LogisticsCDF`. Channels are then `differences`.

    Args:
        before: the number of channels x before it.
        channels: of h.
        outputs: how many parameters.
        near: the number of channels of all neighbours.

    The last layer starts at zero.
    """

    def __init__(self, before: Whole, channels: Count, outputs: Count, near: Whole = 0) -> None:
        super().__init__()
        self.before = before
        self.hidden: nn.Conv2d = nn.Conv2d(channels + before, 2 * channels, 1)
        self.out: nn.Module = start_at_zero(nn.Conv2d(2 * channels + before + near, outputs, 1))

    def forward(self, h: Tensor, x: Tensor, near: Tensor) -> Tensor:
        hidden = F.relu(self.hidden(_joined(h, x)))
        out: Tensor = self.out(_joined(hidden, LINEAR * _joined(near, x)))
        if not near.shape[1]:
            return out
        guess = _guess(near, self.before)
        if self.before:
            guess = original(x)[:, -1:] + guess / DIFFERENCE
        # In the precision of x, which the network may compute in a lower one.
        return torch.cat((out[:, :1].to(x.dtype) + GUESS * guess, out[:, 1:].to(x.dtype)), dim=1)


def _joined(h: Tensor, x: Tensor) -> Tensor:
    """The channels of both; h itself where x has none, since a copy takes time."""
    return torch.cat((h, x.to(h.dtype)), dim=1) if x.shape[1] else h


def differences(x: Tensor) -> Tensor:
    """The first channel, and four times the difference of each other one from that before it.

    Colours change less from pixel to pixel than brightness does.
    """
    return torch.cat((x[:, :1], DIFFERENCE * (x[:, 1:] - x[:, :-1])), dim=1)


def original(x: Tensor) -> Tensor:
    """The channels of `differences`, as they were."""
    return torch.cat((x[:, :1], x[:, 1:] / DIFFERENCE), dim=1).cumsum(1)


def _guess(near: Tensor, channel: int) -> Tensor:
    """A channel as its neighbours have it: `(batch, 1, H, W)`.

    The median of left, above, and left + above - above to the left, which follows edges (Weinberger
    et al. 2000).
    """
    left, corner, above, _ = near[:, channel :: near.shape[1] // 4].chunk(4, dim=1)
    lowest, highest = torch.minimum(left, above), torch.maximum(left, above)
    return torch.minimum(torch.maximum(left + above - corner, lowest), highest)


def neighbours(x: Tensor) -> Tensor:
    """The pixels to the left, above to the left, above, and above to the right, as channels."""
    padded = F.pad(x, (1, 1, 1, 0))
    above, here = padded[:, :, :-1], padded[:, :, 1:]
    return torch.cat((here[..., :-2], above[..., :-2], above[..., 1:-1], above[..., 2:]), dim=1)

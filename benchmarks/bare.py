"""The bare networks of the couplings: what remains of a flow if all around them were free.

Plain re-statements in PyTorch of the network of each coupling, of the same widths and on inputs of
the same sizes, each run once a step on random numbers: no flow, no log-determinant, no bijection
between them. The loss is the sum of the outputs' squares. Every input but the first needs a
gradient, as in the flow.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from benchmarks.subjects import PRECISIONS, Subject

LAYOUTS = {"default": torch.contiguous_format, "channels-last": torch.channels_last}
# Of ImageRealNVP 64 x 8 with 2 scales on 3 x 32 x 32, by checkerboard: inputs, outputs, hidden
# channels in multiples of the first scale's, height and width, how many.
REALNVP_NETWORKS = {
    "compact": [(6, 12, 1, 16, 3), (6, 12, 2, 16, 3), (12, 24, 2, 8, 4)],
    "masked": [(4, 6, 1, 32, 3), (6, 12, 2, 16, 3), (7, 12, 2, 16, 4)],
}


class PlainResNet(nn.Module):
    """The network of section 4.1 of Dinh et al. 2017, as one would write it down."""

    def __init__(self, inputs: int, outputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.entry = nn.Sequential(*active(2 * inputs), conv(2 * inputs, width, 3))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *active(width), conv(width, width, 3), *active(width), conv(width, width, 3)
            )
            for _ in range(blocks)
        )
        self.skips = nn.ModuleList(conv(width, width, 1) for _ in range(blocks + 1))
        self.exit = nn.Sequential(*active(width), nn.Conv2d(width, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The output `(batch, outputs, H, W)` for x `(batch, inputs, H, W)`."""
        h = self.entry(torch.cat((x, -x), dim=1))
        total = self.skips[0](h)
        for block, skip in zip(self.blocks, self.skips[1:], strict=True):
            h = h + block(h)
            total = total + skip(h)
        return self.exit(total)


def active(channels: int) -> tuple[nn.Module, nn.Module]:
    """Batch normalization and ReLU."""
    return nn.BatchNorm2d(channels, eps=1e-4, affine=False), nn.ReLU()


def conv(inputs: int, outputs: int, size: int) -> nn.Module:
    """A weight-normalised convolution that keeps height and width."""
    return weight_norm(nn.Conv2d(inputs, outputs, size, padding=size // 2))


def plain_glow_net(inputs: int, outputs: int, width: int) -> nn.Module:
    """Glow's three convolutions, without actnorm; inputs include the channel of ones."""
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, outputs, 3, padding=1),
    )


def glow(
    width: int,
    precision: str = "float32",
    *,
    shape: tuple[int, int, int] = (3, 32, 32),
    levels: int = 3,
    steps: int = 8,
    batch: int = 32,
    device: str = "cpu",
) -> Subject:
    """The coupling networks of a Glow, channels-last; arguments as for ours."""
    networks = []
    channels, height, across = shape
    for _ in range(levels):
        # Squeezed into four times as many; half of what a level makes goes on.
        channels, height, across = 4 * channels, height // 2, across // 2
        for _ in range(steps):
            net = plain_glow_net(channels // 2 + 1, channels, width)
            networks.append((net, (batch, channels // 2 + 1, height, across)))
        channels //= 2
    return _subject(networks, precision, "channels-last", device)


def image_realnvp(
    precision: str = "float32",
    layout: str = "channels-last",
    *,
    width: int = 64,
    blocks: int = 8,
    batch: int = 16,
    device: str = "cpu",
    checkerboard: str = "compact",
) -> Subject:
    """The coupling networks of an ImageRealNVP with 2 scales on 3 x 32 x 32."""
    networks = []
    for inputs, outputs, times, size, count in REALNVP_NETWORKS[checkerboard]:
        for _ in range(count):
            net = PlainResNet(inputs, outputs, times * width, blocks)
            networks.append((net, (batch, inputs, size, size)))
    return _subject(networks, precision, layout, device)


def _subject(
    networks: Iterable[tuple[nn.Module, tuple[int, int, int, int]]],
    precision: str,
    layout: str,
    device: str,
) -> Subject:
    nets, inputs = nn.ModuleList(), []
    for net, size in networks:
        x = torch.randn(size, device=device).to(memory_format=LAYOUTS[layout])
        inputs.append(x.requires_grad_(bool(nets)))
        nets.append(net)
    nets.to(device, memory_format=LAYOUTS[layout])
    dtype = PRECISIONS[precision]

    def squares() -> Tensor:
        for x in inputs:
            x.grad = None
        with torch.autocast(device, dtype, enabled=dtype is not None):
            outputs = [net(x) for net, x in zip(nets, inputs, strict=True)]
        return torch.stack([y.float().square().sum() for y in outputs]).sum()

    return Subject(nets, squares, squares, squares)

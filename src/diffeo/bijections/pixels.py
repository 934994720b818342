"""Between 8-bit pixels and the real line."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from diffeo.bijections.base import Bijection, Example
from diffeo.bijections.dequantization import Dequantizer


class PixelDequantize(Dequantizer):
    """The dequantizer of images: 8-bit pixels, or their leading bits, spread over unit cells.

        v = floor(x / 2^(8 - bits)),   0 <= v < 2^bits
        forward:  y = v + 1/2
        noisy:    y = v + u,   u ~ U[0, 1)
        inverse:  x = 2^(8 - bits) * clamp(floor(y), 0, 2^bits - 1)

    with log-determinant 0, so that densities are per grey level of v and the mean log-density over
    u is a lower bound of log P(v). With 8 bits, `inverse(forward(x))` is x bit for bit; with fewer
    it is x with its trailing bits cleared.

    Args:
        bits: how many bits of each pixel are kept, 1 to 8.

    (Theis et al. 2016, section 3.1)
    """

    input_dtype = torch.uint8

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise ValueError(f"bits must be 1 to 8, not {bits}.")
        self.bits = bits
        # Only its dtype and device are of interest: they are those of the rest of the flow.
        self.register_buffer("like", torch.zeros(()), persistent=False)

    like: Tensor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = (x >> (8 - self.bits)).to(self.like.dtype) + 0.5
        return y, y.new_zeros(y.shape[0])

    def noisy(self, x: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        device = generator.device if generator is not None else x.device
        u = torch.rand(x.shape, generator=generator, dtype=self.like.dtype, device=device)
        y = (x >> (8 - self.bits)).to(u.dtype) + u.to(x.device)
        return y, y.new_zeros(y.shape[0])

    def inverse(self, y: Tensor) -> Tensor:
        # A latent far out may decode to infinity or NaN of a cell: still a pixel.
        cell = y.floor().nan_to_num(0.0).clamp(0, 2**self.bits - 1)
        return (cell * 2 ** (8 - self.bits)).to(torch.uint8)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class Logit(Bijection):
    """From [0, scale], where pixels lie, to the real line.

        p = margin + (1 - 2 margin) x / scale,   y = log p - log(1 - p)
        log|det dy/dx| = sum(log((1 - 2 margin) / scale) - log p - log(1 - p))

    The margin keeps y finite at the ends. Outside of them, where no pixel lies, y is NaN. The
    inverse, which any y has, undoes the sigmoid and the margin.

    Args:
        scale: the upper end, 2^bits for dequantized pixels.
        margin: share of the unit interval left free at either end, 0 or more and less than 1/2.

    Raises:
        ValueError: if the margin is another.

    (Dinh et al. 2017, section 4.1)
    """

    def __init__(self, scale: float, margin: float = 0.05) -> None:
        super().__init__()
        if not 0 <= margin < 0.5:
            raise ValueError(f"margin must be 0 or more and less than 1/2, not {margin}.")
        self.scale = scale
        self.margin = margin

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        slope = (1 - 2 * self.margin) / self.scale
        p = self.margin + slope * x
        return p.logit(), (math.log(slope) - p.log() - torch.log1p(-p)).flatten(1).sum(1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        slope = (1 - 2 * self.margin) / self.scale
        log_det = F.logsigmoid(y) + F.logsigmoid(-y) - math.log(slope)
        return (y.sigmoid() - self.margin) / slope, log_det.flatten(1).sum(1)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, margin={self.margin}"

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(scale=16.0), (2, 3), interval=(0.5, 15.5))


class Center(Bijection):
    """From [0, scale], where pixels lie, to [-1/2, 1/2].

        y = x / scale - 1/2,   log|det dy/dx| = -dims log(scale)

    Args:
        scale: the upper end, 2^bits for dequantized pixels.

    (Kingma & Dhariwal 2018, in their code)
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x / self.scale - 0.5, self._log_det(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (y + 0.5) * self.scale, -self._log_det(y)

    def _log_det(self, x: Tensor) -> Tensor:
        return x.new_full((x.shape[0],), -math.log(self.scale) * x[:1].numel())

    def extra_repr(self) -> str:
        return f"scale={self.scale}"

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(scale=16.0), (2, 3), "constant", interval=(0.5, 15.5))

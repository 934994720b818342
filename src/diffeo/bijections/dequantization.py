"""Dequantizers: from discrete values to the continuum, by noise, and back by rounding."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Generator, Tensor, nn

from diffeo.utils.config import Configurable
from diffeo.utils.machine import widest
from diffeo.utils.ranges import Bits, NonNegative, Positive

DIGITS = 53  # binary ones, of a float64


class Dequantizer(Configurable, nn.Module, ABC):
    """Maps discrete data to the continuum and back; not a bijection, since it draws noise.

    `forward` puts a value at the middle of its cell, `noisy` anywhere in the cell, and `inverse`
    returns any point of the cell to the value, so `inverse(forward(x))` is x bit for bit. What they
    return as log_det is added to the log-density of y: of `noisy`, it is -log q for noise of a
    density q, in units of the cell.

    Attributes:
        input_dtype: the dtype of discrete data; None for that of the flow.
        bounds: whether the mean log-density over the noise is a lower bound of the log-probability
            of the discrete value: not if the noise leaves the cell.
        exact: whether the density of the flow is constant in each cell. Then it is the probability
            of the value, and `Flow.log_prob` draws no noise.
    """

    input_dtype: torch.dtype | None = None
    bounds = True
    exact: bool = False

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The middle of each cell: `(y, log_det)`."""

    def noisy(self, x: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """A point drawn uniformly from each cell: `(y, log_det)`."""
        y, log_det = self(x)
        device = generator.device if generator else y.device
        u = torch.rand(y.shape, generator=generator, dtype=y.dtype, device=device).to(y.device)
        return y + self.width(y) * (u - 0.5), log_det

    def scored(self, x: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """The point of each cell whose density is the score of x: `(y, log_det)`."""
        return self(x) if self.exact else self.noisy(x, generator)

    def width(self, y: Tensor) -> Tensor | float:
        """That of the cell around each element of y, to which it broadcasts."""
        return 1.0

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """The value whose cell contains y."""

    def prepare(self, shape: Sequence[int]) -> Self:
        """Make what is learned for events of a shape, which every flow does; itself."""
        return self

    def initialize(self, x: Tensor) -> None:
        """Set what starts from data, unless it was set before."""


class UniformDequantize(Dequantizer):
    """Spread the values of rounded columns uniformly over the cell around each of them.

        forward:  y = x,                              the middle of the cell
        noisy:    y = x + step * (u - 1/2),           u ~ U[0, 1)
        inverse:  x = offset + step * round((y - offset) / step)

    with log-determinant 0. The mean over u of the log-density at y is a lower bound of
    `log(P(x) / prod(step))`, the log-probability of the grid point over its cell's volume; so it
    stays finite where a density of x itself would grow without bound.

    Args:
        steps: width of a cell for each feature of `(batch, features)`; 0 for a continuous one,
            which passes untouched.

    The grid goes through 0, or through the first row of `initialize` where that is no multiple of
    the step.
    (Uria et al. 2013, section 5.2; Theis et al. 2016, section 3.1)
    """

    def __init__(self, steps: Sequence[NonNegative]) -> None:
        super().__init__()
        self.steps: tuple[float, ...] = tuple(steps)
        # A step like 0.1 has to keep more digits than float32 has, or the grid drifts off the very
        # numbers that were in the data. So it is a whole number times a power of two, which
        # moves to a device with the flow, and which no change of the flow's dtype rounds.
        parts = [math.frexp(step) for step in self.steps]
        wholes = [int(fraction * 2**DIGITS) for fraction, _ in parts]
        powers = [power - DIGITS for _, power in parts]
        self.wholes: Tensor = nn.Buffer(torch.tensor(wholes, dtype=torch.int64), persistent=False)
        self.powers: Tensor = nn.Buffer(torch.tensor(powers, dtype=torch.int64), persistent=False)
        self.offset: Tensor = nn.Buffer(torch.zeros(len(steps)))
        self.initialized: Tensor = nn.Buffer(torch.tensor(False))

    def _steps(self) -> Tensor:
        """The steps in the widest floats of the device."""
        dtype = widest(self.wholes.device)
        return torch.ldexp(self.wholes.to(dtype), self.powers.to(dtype))

    def _grid(self) -> tuple[Tensor, Tensor]:
        """Which features lie on a grid, and its step, which is 1 for the others."""
        steps = self._steps()
        return steps > 0, torch.where(steps > 0, steps, 1.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.new_zeros(x.shape[0])

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        if self.initialized or not len(x):
            return
        # How far the grid lies from 0: rounding errors of a row that is on the grid of 0 are left
        # out, since they would come back with every value.
        discrete, step = self._grid()
        rest = x[0] - step * (x[0] / step).round()
        self.offset.copy_(torch.where(discrete & (rest.abs() > 1e-3 * step), rest, 0.0))
        self.initialized.fill_(True)

    def width(self, y: Tensor) -> Tensor:
        return self._steps().to(y.dtype)

    def inverse(self, y: Tensor) -> Tensor:
        discrete, step = self._grid()
        cells = ((y - self.offset) / step).round()
        grid = self.offset + step * cells
        return torch.where(discrete, grid.to(y.dtype), y)


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
        bits: how many bits of each pixel are modelled, 1 to 8.
        exact: whether the flow has a constant density in each cell (see `Dequantizer`).

    (Theis et al. 2016, section 3.1)
    """

    input_dtype: torch.dtype | None = torch.uint8

    def __init__(self, bits: Bits = 8, exact: bool = False) -> None:
        super().__init__()
        self.bits = bits
        self.exact = exact
        # Only its dtype and device are of interest: they are those of the rest of the flow.
        self.like: Tensor = nn.Buffer(torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = (x >> (8 - self.bits)).to(self.like.dtype) + 0.5
        return y, y.new_zeros(y.shape[0])

    def inverse(self, y: Tensor) -> Tensor:
        # A latent far out may decode to infinity or NaN of a cell: still a pixel.
        cell = y.floor().nan_to_num(0.0).clamp(0, 2**self.bits - 1)
        return (cell * 2 ** (8 - self.bits)).to(torch.uint8)


class GaussianPixels(Dequantizer):
    """The dequantizer of images that adds Gaussian noise, wider than a cell, to 8-bit pixels.

        forward:  y = x + 1/2
        noisy:    y = x + 1/2 + 128 std e,   e ~ N(0, 1)
        inverse:  x = clamp(floor(y), 0, 255)

    with log-determinant 0. What is learned is the density of noisy images, per grey level: it is no
    bound of log P(x). Samples of it are noisy as well, and can be denoised (`TarFlow.denoise`).

    Args:
        std: standard deviation of the noise, where the range of pixels is [-1, 1]; 0.05 is 6.4
            grey levels.

    (Zhai et al. 2024, section 2.4)
    """

    input_dtype: torch.dtype | None = torch.uint8
    bounds = False

    def __init__(self, std: Positive) -> None:
        super().__init__()
        self.std: float = 128 * std
        self.pixels: PixelDequantize = PixelDequantize()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.pixels(x)

    def noisy(self, x: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        y, log_det = self(x)
        device = generator.device if generator else y.device
        noise = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=device)
        return y + self.std * noise.to(y.device), log_det

    def inverse(self, y: Tensor) -> Tensor:
        return self.pixels.inverse(y)

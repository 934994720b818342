"""Variational dequantization: the noise of each pixel is learned, given the image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from diffeo.bases import Logistic
from diffeo.bijections.chain import Chain
from diffeo.bijections.coupling import Network, coupling
from diffeo.bijections.dequantization import Dequantizer, PixelDequantize
from diffeo.bijections.reshape import Squeeze
from diffeo.bijections.splits import FeatureSplit
from diffeo.bijections.univariate import Affine, Univariate
from diffeo.networks.gated import GatedResNet
from diffeo.utils.ranges import Bits, Count

HALVES: tuple[Literal["first"], Literal["second"]] = ("first", "second")


class VariationalDequantize(Dequantizer):
    """The dequantizer of images that learns the noise in the cells of an image's pixels.

        forward:  y = v + 1/2,   v = floor(x / 2^(8 - bits))
        noisy:    y = v + u,   u = sigmoid(f(e; v)) ~ q(u | v),   e logistic noise
        inverse:  x = 2^(8 - bits) * clamp(floor(y), 0, 2^bits - 1)

    where f is K couplings whose networks see v too. The log-determinant of `noisy` is
    -log q(u | v), with which the mean over the noise is a lower bound of the log-probability:

        log P(v) >= E_q[log p(v + u) - log q(u | v)]

    With uniform noise, where f starts, it is that of a `PixelDequantize`. There the flow has to be
    flat in each cell to reach the bound; here q learns the shape that the flow has. It is part of
    the model: learned with it, and saved.

    Args:
        couplings: K, their number. Each maps every second pixel, in turns.
        hidden_channels: width of their networks.
        univariate: the elementwise map of each coupling; by default `Affine()`.
        network: the network of each coupling (see `diffeo.bijections.coupling.Network`); by
            default a `GatedResNet` of one block without attention.
        bits: how many bits of each pixel are modelled, 1 to 8; a model of images takes its own.

    Raises:
        ValueError: by a flow that it is given to, if its events are no images of even height and
            width.

    (Ho et al. 2019, section 3.1)
    """

    input_dtype: torch.dtype | None = PixelDequantize.input_dtype
    defaults: ClassVar[dict[str, Any]] = {"univariate": Affine()}

    def __init__(
        self,
        couplings: Count = 2,
        hidden_channels: Count = 32,
        univariate: Univariate | None = None,
        network: Network | None = None,
        bits: Bits = 8,
    ) -> None:
        super().__init__()
        self.couplings = couplings
        self.hidden_channels = hidden_channels
        self.network: Network = network or partial(GatedResNet, blocks=1, heads=0)
        self.univariate: Univariate = univariate or self.defaults["univariate"]
        self.bits = bits
        self.pixels: PixelDequantize = PixelDequantize(bits)
        self.squeeze: Squeeze = Squeeze(ordered=True)
        self.noise: Logistic = Logistic()
        self.flow: Chain = Chain()

    def prepare(self, shape: Sequence[int]) -> Self:
        if len(shape) != 3 or shape[1] % 2 or shape[2] % 2:
            raise ValueError(
                f"variational dequantization is for images of even height and width, not for "
                f"events of {'x'.join(map(str, shape))}: resize them, or use uniform noise."
            )
        # Of 2 x 2 pixels as channels: the first half of them is one colour of a checkerboard.
        channels = 4 * shape[0]
        self.flow = Chain(
            *(
                coupling(
                    FeatureSplit(channels, HALVES[i % 2]),
                    self.univariate,
                    self.network,
                    self.hidden_channels,
                    channels,
                )
                for i in range(self.couplings)
            )
        )
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.pixels(x)

    def noisy(self, x: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """A point drawn from q in each cell, and -log q: `(y, log_det)`."""
        middle, _ = self.pixels(x)
        e = self.noise.sample(len(x), middle[0].numel(), middle, generator).to(middle.device)
        return self.moved(middle, e)

    def moved(self, middle: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """The point of each cell for noise e `(batch, dims)`, and -log q there."""
        image, _ = self.squeeze(middle / 2.0 ** (self.bits - 1) - 1)
        w, log_det = self.flow(self.squeeze(e.view(middle.shape))[0], image)
        u, _ = self.squeeze.inverse(w.sigmoid())
        slope = F.logsigmoid(w) + F.logsigmoid(-w)
        return middle - 0.5 + u, log_det + slope.flatten(1).sum(1) - self.noise.log_prob(e)

    def inverse(self, y: Tensor) -> Tensor:
        return self.pixels.inverse(y)


def pixel_dequantizer(bits: int, learned: VariationalDequantize | None) -> Dequantizer:
    """That of a model of images with so many bits: one like the learned one, or of uniform noise.

    The model's bits stand.
    """
    if learned is None:
        return PixelDequantize(bits)
    return VariationalDequantize(**(learned.arguments | {"bits": bits}))

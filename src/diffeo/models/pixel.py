"""PixelFlow: the exact autoregressive flow of images."""

from __future__ import annotations

from functools import partial
from typing import Literal

from diffeo.bijections.chain import Chain
from diffeo.bijections.coupling import Network
from diffeo.bijections.dequantization import PixelDequantize
from diffeo.bijections.discrete import LogisticsCDF, SoftmaxCDF
from diffeo.bijections.normalization import ActNorm
from diffeo.bijections.pixels import PixelAutoregressive
from diffeo.bijections.reshape import Flatten
from diffeo.bijections.univariate import Univariate
from diffeo.context import ContextSpec, Width
from diffeo.models.guided import GuidedFlow
from diffeo.models.sizes import ImageShape
from diffeo.networks.pixel import GatedPixelNet
from diffeo.utils.ranges import Bits, Count, Share, Whole

PixelHead = Literal["softmax", "logistics"]


class PixelFlow(GuidedFlow):
    """Autoregressive flow of 8-bit images, whose bits/dim are exact.

        z_i = Phi^-1(F_i(k_i) + u p_i(k_i)),   log p(x) = sum_i log p_i(k_i)

    Pixels are in raster order, and the channels of a pixel in theirs. A causal network computes the
    distribution p_i of the whole number k_i of each, given those before it; F_i(k) is the
    probability of less than k, and u the position in the cell, 1/2 for `encode`. The probability
    does not depend on u, so `log_prob` is that of the image itself, with no dequantization gap. All
    latents are standard normal, as those of every other flow: temperature, interpolation and
    attribute directions are arithmetic on them.

    The density takes one pass of the network. A sample takes a small part of one for each pixel.

    Args:
        image_shape: (C, H, W) of the images.
        layers: number of gated layers of the network.
        hidden_channels: its width.
        head: "logistics", a mixture of logistic distributions, which knows that 100 is close to
            101; or "softmax", a free probability of each number. MNIST was learned in a fraction of
            the steps by logistics.
        components: of the mixture; a softmax has none.
        network: the causal network (see `diffeo.bijections.coupling.Network`); by default a
            `GatedPixelNet` with so many layers.
        bits: how many bits of each pixel are modelled, 1 to 8.
        context: of a conditional density: a `ContextSpec` (`ContextSpec.classes(10)` for ten
            classes), or how many numbers there are. An actnorm of its own normalizes it.
        wide: number of further layers of the network, which see rows and columns that are 2, 4, 8
            and so on apart.
        class_dropout: share of the training images whose class the model does not see, so that
            samples can be guided; 0.1 is usual.

    Raises:
        ValueError: if there are no classes to drop.

    (van den Oord et al. 2016; Salimans et al. 2017 for logistic mixtures)
    """

    def __init__(
        self,
        image_shape: ImageShape,
        layers: Count = 12,
        hidden_channels: Count = 32,
        head: PixelHead = "logistics",
        components: Count = 10,
        network: Network | None = None,
        bits: Bits = 8,
        context: ContextSpec | Width | None = None,
        wide: Whole = 0,
        class_dropout: Share = 0.0,
    ) -> None:
        spec = ContextSpec.of(context)
        channels, height, width = image_shape
        levels = 2**bits
        univariate: Univariate = SoftmaxCDF(0, levels - 1)
        if head == "logistics":
            univariate = LogisticsCDF(components, 0, levels - 1)
        make = network or partial(GatedPixelNet, layers=layers, near=head == "logistics", wide=wide)
        outputs = univariate.parameters_each * channels
        conditioner = make(channels, outputs, hidden_channels, spec.width)
        super().__init__(
            Chain(
                PixelAutoregressive(univariate, conditioner, levels),
                Flatten(channels, height, width),
            ),
            image_shape,
            class_dropout,
            spec,
            context_encoder=ActNorm(spec.width) if spec else None,
            dequantizer=PixelDequantize(bits, exact=True),
        )

    @property
    def chunk(self) -> int:
        """How many images to pass at once: fewer than of other flows, whose outputs are few."""
        return max(1, 2**17 // self.dims)

"""RealNVP for images, as its paper has it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

from diffeo.bases import Base
from diffeo.bijections.base import Bijection
from diffeo.bijections.chain import Chain, FactorOut, Inverse
from diffeo.bijections.checkerboard import (
    CompactCheckerboard,
    Diagonal,
    MaskedCheckerboard,
    MaskedNetwork,
)
from diffeo.bijections.coupling import Coupling
from diffeo.bijections.dequantization import PixelDequantize
from diffeo.bijections.elementwise import Logit
from diffeo.bijections.normalization import ActNorm, BatchNorm
from diffeo.bijections.reshape import Flatten, Squeeze
from diffeo.bijections.splits import FeatureSplit, Split
from diffeo.bijections.univariate import Affine, Univariate
from diffeo.context import ContextSpec
from diffeo.flow import Flow
from diffeo.models.common import Network, check_size, most_halvings
from diffeo.networks.resnet import ResNet

Checkerboard = Literal["compact", "masked"]


class ImageRealNVP(Flow):
    """Real-valued non-volume-preserving flow for 8-bit images.

        dequantize -> logit -> scale 1 -> ... -> scale L -> base

    A scale is three checkerboard couplings, a squeeze, three channel couplings with networks twice
    as wide, and factoring out half of what there is; the next scale has networks twice as wide. The
    last scale is four checkerboard couplings. Batch normalization follows each coupling.

    Args:
        image_shape: (C, H, W) of the images; H and W are multiples of 2^scales.
        scales: L, the number of scales; by default that of `usual_settings`, as are the next two.
        hidden_channels: width of the networks of the first scale.
        blocks: residual blocks of each network.
        univariate: the elementwise map of each coupling; by default `Affine(bound=2.0)`.
        network: the network of each coupling (see `diffeo.models.common.Network`), in place of a
            `ResNet` with so many blocks.
        mask: "checkerboard+channel" as in the paper, or only one of them.
        checkerboard: "compact" packs the pixels of a colour; "masked" puts zeros between, as in the
            paper.
        bits: how many bits of each pixel are modelled, 1 to 8.
        base: by default `Normal()`.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are. An
            actnorm of its own normalizes it.

    Raises:
        ValueError: if the size cannot be halved so often, with those that can.

    (Dinh et al. 2017)
    """

    defaults: ClassVar[dict[str, Any]] = {"univariate": Affine(2.0)}

    def __init__(
        self,
        image_shape: Sequence[int],
        scales: int | None = None,
        hidden_channels: int | None = None,
        blocks: int | None = None,
        univariate: Univariate | None = None,
        network: Network | None = None,
        mask: Literal["checkerboard+channel", "checkerboard", "channel"] = "checkerboard+channel",
        checkerboard: Checkerboard = "compact",
        bits: int = 8,
        base: Base | None = None,
        context: ContextSpec | int | None = None,
    ) -> None:
        univariate = univariate or self.defaults["univariate"]
        context_features = ContextSpec.of(context).width
        channels, height, width = image_shape
        usual = usual_settings(height, width)
        scales = usual[0] if scales is None else scales
        hidden_channels = usual[1] if hidden_channels is None else hidden_channels
        blocks = usual[2] if blocks is None else blocks
        check_size(height, width, scales, "scale")
        builder = _Scales(
            hidden_channels,
            univariate,
            network or partial(ResNet, blocks=blocks),
            mask,
            checkerboard,
            context_features,
        )
        super().__init__(
            Chain(Logit(2.0**bits), builder.build((channels, height, width), scales)),
            (channels, height, width),
            base=base,
            context=context,
            context_encoder=ActNorm(context_features) if context_features else None,
            dequantizer=PixelDequantize(bits),
            latent_shapes=builder.latent_shapes,
        )
        self._record(
            scales=scales, hidden_channels=hidden_channels, blocks=blocks, univariate=univariate
        )


@dataclass
class _Scales:
    """Builds the scales from the first to the last, and notes the shapes of their latents."""

    hidden_channels: int
    univariate: Univariate
    network: Network
    mask: str
    checkerboard: str
    context_features: int
    latent_shapes: list[tuple[int, ...]] = field(default_factory=list)

    def build(self, shape: tuple[int, int, int], scales: int, scale: int = 0) -> Bijection:
        """The scales from number `scale` on, for an input of this shape."""
        c, h, w = shape
        width = self.hidden_channels * 2**scale
        if scale == scales - 1:
            self.latent_shapes.append(shape)
            return Chain(*self._checkerboards(c, width, 4), Flatten(c, h, w))
        leaves = (2 * c, h // 2, w // 2)
        self.latent_shapes.append(leaves)
        return Chain(
            *self._checkerboards(c, width, 3),
            Squeeze(),
            *self._channels(4 * c, 2 * width, 3),
            Inverse(Squeeze()),
            Squeeze(ordered=True),
            FactorOut((4 * c, h // 2, w // 2), self.build(leaves, scales, scale + 1)),
        )

    def _checkerboards(self, channels: int, width: int, count: int) -> list[Bijection]:
        if self.mask == "channel":
            return []
        links: list[Bijection] = []
        for i in range(count):
            keep: Diagonal = "main" if i % 2 == 0 else "anti"
            if self.checkerboard == "compact":
                links.append(self._couple(CompactCheckerboard(keep), 2 * channels, width))
            else:
                links.append(self._couple(MaskedCheckerboard(keep), channels, width))
            links.append(BatchNorm(channels))
        return links

    def _channels(self, channels: int, width: int, count: int) -> list[Bijection]:
        if self.mask == "checkerboard":
            return []
        links: list[Bijection] = []
        for i in range(count):
            split = FeatureSplit(channels, keep="second" if i % 2 == 0 else "first")
            links += [self._couple(split, channels // 2, width), BatchNorm(channels)]
        return links

    def _couple(self, split: Split, channels: int, width: int) -> Coupling:
        univariate = copy.deepcopy(self.univariate)
        masked = isinstance(split, MaskedCheckerboard)
        outputs = univariate.parameters_each * channels
        net = self.network(channels + masked, outputs, width, self.context_features)
        conditioner = MaskedNetwork(split, net) if isinstance(split, MaskedCheckerboard) else net
        return Coupling(split, univariate, conditioner)


def usual_settings(height: int, width: int) -> tuple[int, int, int]:
    """Scales, hidden channels and blocks by the size of the images, in pixels.

    From 64 on those of the paper for 64 x 64, from 28 on those for CIFAR-10, and less below, where
    so many weights would overfit; fewer scales where the size cannot be halved so often.
    """
    smaller = min(height, width)
    scales, hidden_channels, blocks = (
        (5, 32, 2) if smaller >= 64 else (2, 64, 8) if smaller >= 28 else (2, 32, 1)
    )
    return most_halvings(height, width, scales), hidden_channels, blocks

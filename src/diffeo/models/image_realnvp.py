"""RealNVP for images, as its paper has it."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, ClassVar, Literal

from diffeo.bases import Base
from diffeo.bijections.base import Bijection
from diffeo.bijections.chain import Chain, FactorOut, Inverse
from diffeo.bijections.coupling import Coupling, Network
from diffeo.bijections.elementwise import Logit
from diffeo.bijections.normalization import ActNorm, BatchNorm
from diffeo.bijections.reshape import Flatten, Squeeze
from diffeo.bijections.splits import (
    CompactCheckerboard,
    Diagonal,
    FeatureSplit,
    MaskedCheckerboard,
    MaskedNetwork,
    Split,
)
from diffeo.bijections.univariate import Affine, Univariate
from diffeo.bijections.variational import VariationalDequantize, pixel_dequantizer
from diffeo.context import ContextSpec, Width
from diffeo.flow import Flow
from diffeo.models.sizes import ImageShape, check_size, most_halvings
from diffeo.networks.resnet import ResNet
from diffeo.utils.ranges import Bits, Count, Whole


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
        network: the network of each coupling (see `diffeo.bijections.coupling.Network`);
            by default a `ResNet` with so many blocks.
        mask: "checkerboard+channel" as in the paper, or only one of them.
        checkerboard: "compact" packs the pixels of a colour; "masked" puts zeros between, as in the
            paper.
        bits: how many bits of each pixel are modelled, 1 to 8.
        dequantizer: what learns the noise that spreads pixels over their cells: a
            `VariationalDequantize()`. By default the noise is uniform.
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
        image_shape: ImageShape,
        scales: Count | None = None,
        hidden_channels: Count | None = None,
        blocks: Whole | None = None,
        univariate: Univariate | None = None,
        network: Network | None = None,
        mask: Literal["checkerboard+channel", "checkerboard", "channel"] = "checkerboard+channel",
        checkerboard: Literal["compact", "masked"] = "compact",
        bits: Bits = 8,
        dequantizer: VariationalDequantize | None = None,
        base: Base | None = None,
        context: ContextSpec | Width | None = None,
    ) -> None:
        chosen = univariate or self.defaults["univariate"]
        spec = ContextSpec.of(context)
        channels, height, width = image_shape
        usual = usual_settings(height, width)
        scales = usual[0] if scales is None else scales
        hidden_channels = usual[1] if hidden_channels is None else hidden_channels
        blocks = usual[2] if blocks is None else blocks
        make_network = network or partial(ResNet, blocks=blocks)
        check_size(height, width, scales, "scale")
        latent_shapes: list[tuple[int, ...]] = []

        def step(split: Split, c: int, each: int, hidden: int) -> list[Bijection]:
            """A coupling whose two parts have so many channels each, and its normalization."""
            masked = isinstance(split, MaskedCheckerboard)
            outputs = chosen.parameters_each * each
            net = make_network(each + masked, outputs, hidden, spec.width)
            net = MaskedNetwork(split, net) if isinstance(split, MaskedCheckerboard) else net
            return [Coupling(split, copy.deepcopy(chosen), net), BatchNorm(c)]

        def checkerboards(c: int, hidden: int, count: int) -> list[Bijection]:
            links: list[Bijection] = []
            for i in range(count if mask != "channel" else 0):
                keep: Diagonal = "main" if i % 2 == 0 else "anti"
                if checkerboard == "compact":
                    links += step(CompactCheckerboard(keep), c, 2 * c, hidden)
                else:
                    links += step(MaskedCheckerboard(keep), c, c, hidden)
            return links

        def halves(c: int, hidden: int, count: int) -> list[Bijection]:
            links: list[Bijection] = []
            for i in range(count if mask != "checkerboard" else 0):
                split = FeatureSplit(c, keep="second" if i % 2 == 0 else "first")
                links += step(split, c, c // 2, hidden)
            return links

        def scale(number: int, shape: tuple[int, int, int]) -> Bijection:
            c, h, w = shape
            hidden = hidden_channels * 2 ** (number - 1)
            if number == scales:
                latent_shapes.append(shape)
                return Chain(*checkerboards(c, hidden, 4), Flatten(c, h, w))
            stays = (2 * c, h // 2, w // 2)
            latent_shapes.append(stays)
            return Chain(
                *checkerboards(c, hidden, 3),
                Squeeze(),
                *halves(4 * c, 2 * hidden, 3),
                Inverse(Squeeze()),
                Squeeze(ordered=True),
                FactorOut((4 * c, h // 2, w // 2), scale(number + 1, stays)),
            )

        super().__init__(
            Chain(Logit(2.0**bits), scale(1, (channels, height, width))),
            (channels, height, width),
            base=base,
            context=spec,
            context_encoder=ActNorm(spec.width) if spec else None,
            dequantizer=pixel_dequantizer(bits, dequantizer),
            latent_shapes=latent_shapes,
        )
        self._record(
            scales=scales, hidden_channels=hidden_channels, blocks=blocks, univariate=chosen
        )


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

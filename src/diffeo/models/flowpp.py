"""Flow++."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar, Literal

from diffeo.bases import Base
from diffeo.bijections.base import Bijection
from diffeo.bijections.chain import Chain
from diffeo.bijections.convolution import InvertibleConv1x1, NormalizedConv1x1
from diffeo.bijections.coupling import Coupling, Network
from diffeo.bijections.elementwise import Center, Logit, Margin
from diffeo.bijections.mixture_affine import MixtureAffine
from diffeo.bijections.normalization import ActNorm
from diffeo.bijections.reshape import Flatten, Squeeze
from diffeo.bijections.splits import CompactCheckerboard, Diagonal, FeatureSplit, Split
from diffeo.bijections.univariate import Univariate
from diffeo.bijections.variational import VariationalDequantize, pixel_dequantizer
from diffeo.context import ContextSpec, Width
from diffeo.flow import Flow
from diffeo.models.sizes import ImageShape, check_size, usual_margin
from diffeo.networks.gated import GatedResNet
from diffeo.utils.ranges import Bits, Count, Whole

# What passes unchanged, in turns.
DIAGONALS: tuple[Diagonal, Diagonal] = ("main", "anti")
HALVES: tuple[Literal["first"], Literal["second"]] = ("first", "second")


class FlowPlusPlus(Flow):
    """Flow++, for 8-bit images.

        dequantize -> center or logit -> N_1 checkerboard couplings
                   -> squeeze -> N_2 channel couplings -> N_3 checkerboard couplings -> base
        coupling:  actnorm -> 1x1 convolution -> y_2 = exp(s) logit(F(x_2)) + t

    where F is the distribution function of a mixture of logistics, whose parameters, and s and t, a
    network of gated convolutions and attention computes from x_1. Both halves take turns.

    Args:
        image_shape: (C, H, W) of the images; H and W are even, and multiples of 4 if N_3 is not 0.
        couplings: N_1, N_2 and N_3; by default those of `usual_settings`, as are the next three.
        hidden_channels: width of the networks.
        blocks: of each network.
        heads: of the attention of each block; 0 for none.
        univariate: the elementwise map of each coupling; by default `MixtureAffine(8)`.
        network: the network of each coupling (see `diffeo.bijections.coupling.Network`); by default
            a `GatedResNet` with so many blocks and heads.
        bits: how many bits of each pixel are modelled, 1 to 8.
        margin: 0 to center pixels, or that of a `Logit` instead (see `Glow`); the paper has 0.05.
            By default 1e-5 for images of one channel, and 0 for others.
        dequantizer: what learns the noise that spreads pixels over their cells: a
            `VariationalDequantize()`. By default the noise is uniform.
        base: by default `Normal()`.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are. An
            actnorm of its own normalizes it; it is added to the inputs of the networks as further
            channels.

    Raises:
        ValueError: if the size cannot be halved so often, with those that can.

    (Ho et al. 2019)
    """

    defaults: ClassVar[dict[str, Any]] = {"univariate": MixtureAffine(8)}
    usual_lr: ClassVar[float | None] = 4e-3

    def __init__(
        self,
        image_shape: ImageShape,
        couplings: tuple[Whole, Whole, Whole] | None = None,
        hidden_channels: Count | None = None,
        blocks: Count | None = None,
        heads: Whole | None = None,
        univariate: Univariate | None = None,
        network: Network | None = None,
        bits: Bits = 8,
        margin: Margin | None = None,
        dequantizer: VariationalDequantize | None = None,
        base: Base | None = None,
        context: ContextSpec | Width | None = None,
    ) -> None:
        spec = ContextSpec.of(context)
        chosen = univariate or self.defaults["univariate"]
        channels, height, width = image_shape
        usual = usual_settings(height, width)
        couplings = usual[0] if couplings is None else couplings
        hidden_channels = usual[1] if hidden_channels is None else hidden_channels
        blocks = usual[2] if blocks is None else blocks
        heads = usual[3] if heads is None else heads
        margin = usual_margin(channels) if margin is None else margin
        first, middle, last = couplings
        check_size(height, width, 2 if last else 1, "squeeze")
        make_network = network or partial(GatedResNet, blocks=blocks, heads=heads)

        def steps(c: int, each: int, splits: Iterable[Split]) -> list[Bijection]:
            """Couplings of c channels, whose two parts have so many channels each."""
            links: list[Bijection] = []
            for split in splits:
                norm = ActNorm(c)
                links.append(NormalizedConv1x1(norm, InvertibleConv1x1(c)) if c > 1 else norm)
                outputs = chosen.parameters_each * each
                net = make_network(each, outputs, hidden_channels, spec.width)
                links.append(Coupling(split, copy.deepcopy(chosen), net))
            return links

        def checkerboards(c: int, count: int) -> list[Bijection]:
            return steps(c, 2 * c, (CompactCheckerboard(DIAGONALS[i % 2]) for i in range(count)))

        def halves(c: int, count: int) -> list[Bijection]:
            return steps(c, c // 2, (FeatureSplit(c, HALVES[i % 2]) for i in range(count)))

        squeezed = 4 * channels, height // 2, width // 2
        super().__init__(
            Chain(
                Logit(2.0**bits, margin) if margin else Center(2.0**bits),
                *checkerboards(channels, first),
                Squeeze(),
                *halves(squeezed[0], middle),
                *checkerboards(squeezed[0], last),
                Flatten(*squeezed),
            ),
            (channels, height, width),
            base=base,
            context=spec,
            context_encoder=ActNorm(spec.width) if spec else None,
            dequantizer=pixel_dequantizer(bits, dequantizer),
            latent_shapes=[squeezed],
        )
        self._record(
            couplings=couplings,
            hidden_channels=hidden_channels,
            blocks=blocks,
            heads=heads,
            univariate=chosen,
            margin=margin,
        )


def usual_settings(height: int, width: int) -> tuple[tuple[int, int, int], int, int, int]:
    """Couplings, hidden channels, blocks and heads by the size of the images, in pixels.

    For two cores; those of the paper are a preset of `diffeo train`. The last checkerboards are
    left out where the size cannot be halved twice.
    """
    last = 0 if height % 4 or width % 4 else 3
    return (4, 2, last), 32, 1, 0

"""Jet."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Self, TypeAlias

from torch import Tensor, nn

from diffeo.bijections.coupling import Coupling
from diffeo.bijections.elementwise import Margin
from diffeo.bijections.normalization import ActNorm
from diffeo.bijections.patches import Patches, Pattern, ShuffledSplit, TokenSplit
from diffeo.bijections.reshape import Permutation
from diffeo.bijections.splits import FeatureSplit, Split
from diffeo.bijections.univariate import SigmoidAffine, Univariate
from diffeo.bijections.variational import VariationalDequantize, pixel_dequantizer
from diffeo.context import ContextSpec, Width
from diffeo.flow import Flow
from diffeo.models.patched import patched
from diffeo.models.sizes import ImageShape, largest_patch, usual_margin
from diffeo.networks.transformer import VisionTransformer
from diffeo.utils.ranges import Bits, Count

Kind = Literal["channels", "spatial"]
PAPER: tuple[Kind, ...] = ("channels", "channels", "channels", "channels", "spatial")
PATTERNS: tuple[Pattern, ...] = ("checkerboard", "columns", "rows")

# A class such as `VisionTransformer`, or `functools.partial` of one, called with the number of
# inputs, of outputs, of tokens, of hidden channels, and the width of the context.
PatchNetwork: TypeAlias = Callable[[int, int, int, int, int], nn.Module]


class Jet(Flow):
    """Couplings of patches with vision transformers, for 8-bit images.

        dequantize -> center or logit -> patches -> K couplings -> pixels -> base
        coupling:  y_2 = (x_2 + b) 2 sigmoid(a),   (a, b) = transformer(x_1)

    In a coupling of channels, x_1 is half of the numbers of each patch, after a random permutation.
    In a spatial one it is half of the patches: by turns a checkerboard, columns and rows, and each
    of them followed by its complement.

    Args:
        image_shape: (C, H, W) of the images; H and W are even multiples of the patch, but for
            couplings of channels alone.
        patch: height and width of a patch; by default that of `usual_settings`, as are the next
            three.
        couplings: K, their number.
        layers: of each transformer.
        hidden_channels: of each transformer, in heads of 64, and in four where that would be fewer.
        cycle: the kinds of couplings, which repeat; the paper has four of channels and one spatial.
        univariate: the elementwise map of each coupling; by default `SigmoidAffine()`.
        network: the network of each coupling; by default a `VisionTransformer` with so many layers.
        bits: how many bits of each pixel are modelled, 1 to 8.
        margin: 0 to center pixels, as the paper does; or that of a `Logit` instead (see `Glow`).
            By default 1e-5 for images of one channel, and 0 for others.
        dequantizer: what learns the noise that spreads pixels over their cells: a
            `VariationalDequantize()`. By default the noise is uniform.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are. It is
            embedded into the tokens; numbers are normalized by an actnorm before.

    Raises:
        ValueError: if the patch does not divide height and width so.

    (Kolesnikov et al. 2024; the embedding of a context is ours)
    """

    defaults: ClassVar[dict[str, Any]] = {"univariate": SigmoidAffine()}
    usual_lr: ClassVar[float | None] = 1e-3

    def __init__(
        self,
        image_shape: ImageShape,
        patch: Count | None = None,
        couplings: Count | None = None,
        layers: Count | None = None,
        hidden_channels: Count | None = None,
        cycle: Sequence[Kind] = PAPER,
        univariate: Univariate | None = None,
        network: PatchNetwork | None = None,
        bits: Bits = 8,
        margin: Margin | None = None,
        dequantizer: VariationalDequantize | None = None,
        context: ContextSpec | Width | None = None,
    ) -> None:
        spec = ContextSpec.of(context)
        chosen = univariate or self.defaults["univariate"]
        channels, height, width = image_shape
        usual = usual_settings(height, width)
        patch = usual[0] if patch is None else patch
        couplings = usual[1] if couplings is None else couplings
        layers = usual[2] if layers is None else layers
        hidden_channels = usual[3] if hidden_channels is None else hidden_channels
        margin = usual_margin(channels) if margin is None else margin
        patches = Patches(height, width, patch, pixels_first=True)
        token, tokens = channels * patch**2, patches.rows * patches.columns
        if token % 2:
            raise ValueError(
                f"a patch of {patch} has {token} numbers, which cannot be halved: choose an even "
                "patch."
            )
        if not cycle:
            raise ValueError("the cycle is empty: choose one or more of channels and spatial.")
        heads = max(4, hidden_channels // 64)
        make = network or partial(VisionTransformer, layers=layers, heads=heads)
        seeds = itertools.count()
        spatial = itertools.cycle(itertools.product(PATTERNS, ("first", "second")))

        def split(kind: Kind) -> Split:
            if kind == "channels":
                return ShuffledSplit(Permutation.shuffle(token, next(seeds)), FeatureSplit(token))
            pattern, keep = next(spatial)
            return TokenSplit(patches.rows, patches.columns, pattern, keep)  # type: ignore[arg-type]

        def coupling(kind: Kind) -> Coupling:
            outputs = chosen.parameters_each * token // 2
            net = make(token // 2, outputs, tokens, hidden_channels, spec.width)
            return Coupling(split(kind), copy.deepcopy(chosen), net)

        kinds = itertools.islice(itertools.cycle(cycle), couplings)
        super().__init__(
            patched(image_shape, patches, map(coupling, kinds), 2.0**bits, margin),
            (channels, height, width),
            context=spec,
            context_encoder=ActNorm(spec.width) if spec and spec.category is None else None,
            dequantizer=pixel_dequantizer(bits, dequantizer),
            latent_shapes=[(channels, height, width)],
        )
        self._record(
            patch=patch,
            couplings=couplings,
            layers=layers,
            hidden_channels=hidden_channels,
            univariate=chosen,
            margin=margin,
        )

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Self:
        """See `Flow.initialize`; only what encodes a context starts from data."""
        context = self._check(x, context)
        for encoder in (self.embedding, self.context_encoder):
            if encoder is not None and context is not None:
                context = encoder.initialize(context)
        return self


def usual_settings(height: int, width: int) -> tuple[int, int, int, int]:
    """Patch, couplings, layers and hidden channels by the size of the images, in pixels.

    For two cores; those of the paper are presets of `diffeo train`.
    """
    patch = largest_patch(height, width, 4 if min(height, width) >= 16 else 2, fold=2)
    return patch, 10, 1, 64

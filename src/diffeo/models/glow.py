"""Glow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from diffeo.bases import Base
from diffeo.bijections.base import Bijection
from diffeo.bijections.chain import Chain, FactorOut
from diffeo.bijections.convolution import InvertibleConv1x1, NormalizedConv1x1
from diffeo.bijections.coupling import Coupling
from diffeo.bijections.dequantization import PixelDequantize
from diffeo.bijections.elementwise import Center, LearnedPrior, Logit
from diffeo.bijections.normalization import ActNorm
from diffeo.bijections.permutation import Permutation
from diffeo.bijections.reshape import Flatten, Squeeze
from diffeo.bijections.splits import FeatureSplit
from diffeo.bijections.univariate import Affine, Univariate
from diffeo.context import ContextSpec
from diffeo.flow import Flow
from diffeo.models.common import Network, check_size, coupling, most_halvings
from diffeo.networks.glow import GlowNet, ZeroConv

Mixing = Literal["invertible_conv", "shuffle", "reverse"]


class Glow(Flow):
    """Generative flow with invertible 1x1 convolutions, for 8-bit images.

        dequantize -> center or logit -> level 1 -> ... -> level L -> base
        level:  squeeze -> K steps -> split
        step:   actnorm -> 1x1 convolution -> coupling

    At a split half of the channels leave, standardized by a prior learned from the half that stays;
    what the last level leaves is standardized by a learned prior of its own. So all latents are
    standard noise.

    Args:
        image_shape: (C, H, W) of the images; H and W are multiples of 2^levels.
        levels: L; by default that of `usual_settings`, as are the next two.
        steps: K, the number of steps of each level.
        hidden_channels: width of the coupling networks.
        univariate: the elementwise map of each coupling; by default `Affine(bound=2.0)`. In
            samples `Additive()` shows fewer artefacts.
        network: the network of each coupling (see `diffeo.models.common.Network`).
        permutation: how channels are mixed between couplings: "invertible_conv", or one of the
            paper's two baselines, "shuffle" (a fixed random order) and "reverse".
        lu: whether 1x1 convolutions learn the parts of an LU decomposition, or the matrix itself.
        bits: how many bits of each pixel are modelled, 1 to 8; the paper shows samples of 5.
        margin: 0 to center pixels, as the paper does; or that of a `Logit` instead. One like 1e-5
            stretches the cells of black and of white, so that images with much of either, such
            as MNIST, are learned in a fraction of the steps (Papamakarios et al. 2017); of
            photographs centered pixels are learned faster. By default 1e-5 for images of one
            channel, and 0 for others.
        learned_top_prior: whether the last level's prior is learned; with a context it always is.
        actnorm_scale: standard deviation of what each actnorm of a step makes of its first batch.
        base: by default `Normal()`.
        context: of a conditional density: a `ContextSpec` (`ContextSpec.classes(10)` for ten
            classes), or how many numbers there are. An actnorm of its own normalizes it. The priors
            depend on it, and it is added to the inputs of the networks as further channels.

    Raises:
        ValueError: if the size cannot be halved so often, with those that can.

    (Kingma & Dhariwal 2018)
    """

    defaults: ClassVar[dict[str, Any]] = {"univariate": Affine(2.0)}

    def __init__(
        self,
        image_shape: Sequence[int],
        levels: int | None = None,
        steps: int | None = None,
        hidden_channels: int | None = None,
        univariate: Univariate | None = None,
        network: Network = GlowNet,
        permutation: Mixing = "invertible_conv",
        lu: bool = True,
        bits: int = 8,
        margin: float | None = None,
        learned_top_prior: bool = True,
        actnorm_scale: float = 1.0,
        base: Base | None = None,
        context: ContextSpec | int | None = None,
    ) -> None:
        context = ContextSpec.of(context)
        univariate = univariate or self.defaults["univariate"]
        channels, height, width = image_shape
        usual = usual_settings(height, width)
        levels = usual[0] if levels is None else levels
        steps = usual[1] if steps is None else steps
        hidden_channels = usual[2] if hidden_channels is None else hidden_channels
        check_size(height, width, levels, "level")
        builder = _Levels(
            steps,
            hidden_channels,
            univariate,
            network,
            permutation,
            lu,
            learned_top_prior,
            actnorm_scale,
            context.width,
        )
        if margin is None:
            margin = 1e-5 if channels == 1 else 0.0
        entry = Logit(2.0**bits, margin) if margin else Center(2.0**bits)
        super().__init__(
            Chain(entry, builder.build((channels, height, width), levels)),
            (channels, height, width),
            base=base,
            context=context,
            context_encoder=ActNorm(context.width) if context else None,
            dequantizer=PixelDequantize(bits),
            latent_shapes=builder.latent_shapes,
        )
        self._record(
            levels=levels,
            steps=steps,
            hidden_channels=hidden_channels,
            univariate=univariate,
            margin=margin,
        )


@dataclass
class _Levels:
    """Builds the levels from the first to the last, and notes the shapes of their latents."""

    steps: int
    hidden_channels: int
    univariate: Univariate
    network: Network
    permutation: str
    lu: bool
    learned_top_prior: bool
    actnorm_scale: float
    context_features: int
    latent_shapes: list[tuple[int, ...]] = field(default_factory=list)

    def build(self, shape: tuple[int, int, int], levels: int, level: int = 1) -> Bijection:
        """The levels from number `level` on, for an input of this shape."""
        c, h, w = 4 * shape[0], shape[1] // 2, shape[2] // 2
        steps = [link for step in range(self.steps) for link in self._step(c, step)]
        if level == levels:
            self.latent_shapes.append((c, h, w))
            prior = LearnedPrior(c, h, w, context_features=self.context_features)
            top = [prior] if self.learned_top_prior or self.context_features else []
            return Chain(Squeeze(), *steps, *top, Flatten(c, h, w))
        stays = (c // 2, h, w)
        self.latent_shapes.append(stays)
        return Chain(
            Squeeze(),
            *steps,
            self._split_prior(c),
            FactorOut((c, h, w), self.build(stays, levels, level + 1)),
        )

    def _step(self, channels: int, step: int) -> list[Bijection]:
        norm = ActNorm(channels, self.actnorm_scale)
        mixed: list[Bijection]
        if self.permutation == "invertible_conv":
            mixed = [NormalizedConv1x1(norm, InvertibleConv1x1(channels, self.lu))]
        elif self.permutation == "shuffle":
            mixed = [norm, Permutation.shuffle(channels, seed=step)]
        else:
            mixed = [norm, Permutation.reverse(channels)]
        split, width = FeatureSplit(channels), self.hidden_channels
        return [
            *mixed,
            coupling(split, self.univariate, self.network, width, self.context_features),
        ]

    def _split_prior(self, channels: int) -> Coupling:
        """Standardizes the half that leaves, given the half that stays."""
        split, univariate = FeatureSplit(channels), Affine()
        outputs = univariate.parameters_each * split.transformed
        return Coupling(split, univariate, ZeroConv(split.identity, outputs, self.context_features))


def usual_settings(height: int, width: int) -> tuple[int, int, int]:
    """Levels, steps and hidden channels by the size of the images, in pixels.

    From 64 on those of the paper for 64 x 64, from 28 on those for CIFAR-10, and less below;
    fewer levels where the size cannot be halved so often.
    """
    smaller = min(height, width)
    levels, steps, hidden_channels = (
        (4, 48, 512) if smaller >= 64 else (3, 32, 512) if smaller >= 28 else (3, 8, 64)
    )
    return most_halvings(height, width, levels), steps, hidden_channels

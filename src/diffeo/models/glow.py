"""Glow."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from diffeo.bases import Base
from diffeo.bijections.base import Bijection
from diffeo.bijections.chain import Chain, FactorOut
from diffeo.bijections.convolution import InvertibleConv1x1, NormalizedConv1x1
from diffeo.bijections.coupling import Coupling, Network, coupling
from diffeo.bijections.elementwise import Center, LearnedPrior, Logit, Margin
from diffeo.bijections.normalization import ActNorm
from diffeo.bijections.reshape import Flatten, Permutation, Squeeze
from diffeo.bijections.splits import FeatureSplit
from diffeo.bijections.univariate import Affine, Univariate
from diffeo.bijections.variational import VariationalDequantize, pixel_dequantizer
from diffeo.context import ContextSpec, Width
from diffeo.flow import Flow
from diffeo.models.sizes import ImageShape, check_size, most_halvings, usual_margin
from diffeo.networks.glow import GlowNet, ZeroConv
from diffeo.utils.ranges import Bits, Count, Positive

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
        network: the network of each coupling (see `diffeo.bijections.coupling.Network`).
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
        dequantizer: what learns the noise that spreads pixels over their cells: a
            `VariationalDequantize()`. By default the noise is uniform.
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
        image_shape: ImageShape,
        levels: Count | None = None,
        steps: Count | None = None,
        hidden_channels: Count | None = None,
        univariate: Univariate | None = None,
        network: Network = GlowNet,
        permutation: Mixing = "invertible_conv",
        lu: bool = True,
        bits: Bits = 8,
        margin: Margin | None = None,
        learned_top_prior: bool = True,
        actnorm_scale: Positive = 1.0,
        dequantizer: VariationalDequantize | None = None,
        base: Base | None = None,
        context: ContextSpec | Width | None = None,
    ) -> None:
        spec = ContextSpec.of(context)
        univariate = univariate or self.defaults["univariate"]
        channels, height, width = image_shape
        usual = usual_settings(height, width)
        levels = usual[0] if levels is None else levels
        steps = usual[1] if steps is None else steps
        hidden_channels = usual[2] if hidden_channels is None else hidden_channels
        margin = usual_margin(channels) if margin is None else margin
        check_size(height, width, levels, "level")
        latent_shapes: list[tuple[int, ...]] = []

        def step(c: int, number: int) -> list[Bijection]:
            links: list[Bijection] = [ActNorm(c, actnorm_scale)]
            if permutation == "invertible_conv":
                links = [NormalizedConv1x1(ActNorm(c, actnorm_scale), InvertibleConv1x1(c, lu))]
            elif permutation == "shuffle":
                links.append(Permutation.shuffle(c, seed=number))
            else:
                links.append(Permutation.reverse(c))
            split = FeatureSplit(c)
            return [*links, coupling(split, univariate, network, hidden_channels, spec.width)]

        def level(number: int, shape: tuple[int, int, int]) -> Bijection:
            c, h, w = 4 * shape[0], shape[1] // 2, shape[2] // 2
            links = [Squeeze(), *(link for k in range(steps) for link in step(c, k))]
            if number == levels:
                latent_shapes.append((c, h, w))
                if learned_top_prior or spec:
                    links.append(LearnedPrior(c, h, w, context_features=spec.width))
                return Chain(*links, Flatten(c, h, w))
            stays = (c // 2, h, w)
            latent_shapes.append(stays)
            # Standardizes the half that leaves, given the half that stays.
            prior = ZeroConv(c // 2, Affine.parameters_each * c // 2, spec.width)
            links.append(Coupling(FeatureSplit(c), Affine(), prior))
            return Chain(*links, FactorOut((c, h, w), level(number + 1, stays)))

        entry = Logit(2.0**bits, margin) if margin else Center(2.0**bits)
        super().__init__(
            Chain(entry, level(1, (channels, height, width))),
            (channels, height, width),
            base=base,
            context=spec,
            context_encoder=ActNorm(spec.width) if spec else None,
            dequantizer=pixel_dequantizer(bits, dequantizer),
            latent_shapes=latent_shapes,
        )
        self._record(
            levels=levels,
            steps=steps,
            hidden_channels=hidden_channels,
            univariate=univariate,
            margin=margin,
        )


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

"""TarFlow."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Self, TypeAlias

import torch
from torch import Generator, Tensor

from diffeo.bijections.dequantization import Dequantizer, GaussianPixels
from diffeo.bijections.elementwise import Margin
from diffeo.bijections.normalization import ActNorm
from diffeo.bijections.patches import Patches
from diffeo.bijections.tokens import TokenAutoregressive
from diffeo.bijections.univariate import LocationScale, Univariate
from diffeo.bijections.variational import VariationalDequantize, pixel_dequantizer
from diffeo.context import ContextSpec, Width, repeat_context
from diffeo.models.guided import GuidedFlow
from diffeo.models.patched import patched
from diffeo.models.sizes import ImageShape, largest_patch, usual_margin
from diffeo.networks.transformer import CausalTransformer
from diffeo.utils.ranges import Bits, Count, NonNegative, Share, Whole, checked

# `CausalTransformer`, or `functools.partial` of it, called with the number of inputs, of outputs,
# of tokens, of hidden channels, and the width of the context.
TokenNetwork: TypeAlias = Callable[[int, int, int, int, int], CausalTransformer]


class TarFlow(GuidedFlow):
    """Transformer autoregressive flow, for 8-bit images.

        noise -> center or logit -> patches -> block 1 -> ... -> block K -> pixels -> base
        block:  y_t = (x_t - b_t) exp(-a_t),   (a_t, b_t) = transformer(x_1, ..., x_(t-1))

    The tokens of a block are the patches of the image, row by row, and in every second block
    backwards. The first token of a block passes as parameters of zero map it: unchanged, by the
    default univariate map.

    Args:
        image_shape: (C, H, W) of the images; H and W are multiples of the patch.
        patch: height and width of a patch; by default that of `usual_settings`, as are the next
            three.
        blocks: K, the number of blocks; one alone learns little.
        layers: of the transformer of each block; the paper has about as many as blocks.
        hidden_channels: of the transformers, in heads of 64.
        univariate: the elementwise map of each block; by default `LocationScale()`. With
            `MixtureCDF()` each element has a mixture of its own.
        network: the network of each block, by default a `CausalTransformer` with so many layers.
        noise_std: 0 for uniform noise in the cell of each pixel, for densities of images; or the
            standard deviation of Gaussian noise, where pixels range over [-1, 1], for samples to
            look at: 0.05 to 0.15 in the paper. Bits/dim are then those of noisy images.
        class_dropout: share of the training images whose class the model does not see, so that
            samples can be guided; the paper has 0.1.
        bits: how many bits of each pixel are modelled, 1 to 8; with Gaussian noise 8.
        margin: 0 to center pixels, as the paper does; or that of a `Logit` instead (see `Glow`).
            By default 1e-5 for images of one channel and uniform noise, and 0 for others.
        dequantizer: what learns the noise that spreads pixels over their cells: a
            `VariationalDequantize()`. By default the noise is uniform.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are. It is
            embedded into the tokens; numbers are normalized by an actnorm before.

    Raises:
        ValueError: if the patch does not divide height and width, or there is only one; if Gaussian
            noise has a margin, fewer bits than 8, or a dequantizer; or if there are no classes to
            drop.

    (Zhai et al. 2024)
    """

    defaults: ClassVar[dict[str, Any]] = {"univariate": LocationScale()}
    usual_lr: ClassVar[float | None] = 1e-3

    def __init__(
        self,
        image_shape: ImageShape,
        patch: Count | None = None,
        blocks: Count | None = None,
        layers: Count | None = None,
        hidden_channels: Count | None = None,
        univariate: Univariate | None = None,
        network: TokenNetwork | None = None,
        noise_std: NonNegative = 0.0,
        class_dropout: Share = 0.0,
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
        blocks = usual[1] if blocks is None else blocks
        layers = usual[2] if layers is None else layers
        hidden_channels = usual[3] if hidden_channels is None else hidden_channels
        if margin is None:
            margin = 0.0 if noise_std else usual_margin(channels)
        if noise_std and (margin or bits < 8):
            raise ValueError("Gaussian noise leaves the range of pixels: take margin 0 and 8 bits.")
        if noise_std and dequantizer is not None:
            raise ValueError(
                "the noise is Gaussian or learned: leave noise_std or dequantizer out."
            )
        patches = Patches(height, width, patch)
        token, tokens = channels * patch**2, patches.rows * patches.columns
        if tokens == 1:
            raise ValueError(f"one patch of {patch} fills the image: choose a smaller patch.")
        make = network or partial(CausalTransformer, layers=layers)

        def block(number: int) -> TokenAutoregressive:
            outputs = chosen.parameters_each * token
            net = make(token, outputs, tokens, hidden_channels, spec.width)
            return TokenAutoregressive(copy.deepcopy(chosen), net, flip=number % 2 == 1)

        noise: Dequantizer = pixel_dequantizer(bits, dequantizer)
        if noise_std:
            noise = GaussianPixels(noise_std)
        super().__init__(
            patched(image_shape, patches, map(block, range(blocks)), 2.0**bits, margin),
            image_shape,
            class_dropout,
            spec,
            context_encoder=ActNorm(spec.width) if spec and spec.category is None else None,
            dequantizer=noise,
            latent_shapes=[(channels, height, width)],
        )
        self._record(
            patch=patch,
            blocks=blocks,
            layers=layers,
            hidden_channels=hidden_channels,
            univariate=chosen,
            margin=margin,
        )

    @checked
    def sample(
        self,
        n: Whole,
        context: Tensor | int | None = None,
        *,
        temperature: NonNegative = 1.0,
        generator: Generator | None = None,
        guidance: NonNegative = 0.0,
        denoise: bool = True,
    ) -> Tensor:
        """Draw n images `(n, C, H, W)`; see `GuidedFlow.sample`.

        Args:
            n: how many.
            context: of all, or of each.
            temperature: of the noise.
            generator: source of the noise.
            guidance: w of parameters a_c + w (a_c - a), where a_c has seen the class, and a has
                not.
            denoise: whether images with Gaussian noise are denoised (see the method); it makes no
                difference to uniform noise.

        Raises:
            ValueError: as `GuidedFlow.sample`.

        (Zhai et al. 2024, sections 2.5 and 2.6)
        """
        rows = repeat_context(context, n, self.device)
        z = self.base.scaled(self.noise(n, generator), temperature)
        x = self.guided(z, rows, guidance)
        assert self.dequantizer is not None
        if denoise and isinstance(self.dequantizer, GaussianPixels):
            x = self.denoise(x, rows)
        return self.dequantizer.inverse(x).contiguous()

    def denoise(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The mean of the clean image, given one with Gaussian noise (Tweedie's formula).

            x + std^2 grad log p(x)

        Args:
            x: `(batch, C, H, W)`, grey levels with noise, before they are rounded.
            context: of each.

        Raises:
            ValueError: if the model has no Gaussian noise.
        """
        if not isinstance(self.dequantizer, GaussianPixels):
            raise ValueError("there is no Gaussian noise to remove: make the flow with noise_std.")
        context = self._encode_context(self._check_context(len(x), context))
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            z, log_det = self.bijection(x, context)
            (score,) = torch.autograd.grad((self.base.log_prob(z) + log_det).sum(), x)
        return x.detach() + self.dequantizer.std**2 * score

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Self:
        """See `Flow.initialize`; only what encodes a context starts from data."""
        context = self._check(x, context)
        for encoder in (self.embedding, self.context_encoder):
            if encoder is not None and context is not None:
                context = encoder.initialize(context)
        return self

    @checked
    def set_sampling(self, group: Count = 1, tolerance: NonNegative = 0.0) -> Self:
        """Choose how many tokens samples compute at once (see `TokenAutoregressive`).

        1 is exact, and has least to compute. More tokens at once need fewer evaluations of the
        networks, one after another, which pays on GPUs. Returns the flow itself.

        Args:
            group: how many tokens.
            tolerance: the largest change of a number at which a group is done; 0 for the rounding
                of floats.
        """
        for module in self.modules():
            if isinstance(module, TokenAutoregressive):
                module.group, module.tolerance = group, tolerance
        return self


def usual_settings(height: int, width: int) -> tuple[int, int, int, int]:
    """Patch, blocks, layers and hidden channels by the size of the images, in pixels.

    For two cores; those of the paper are presets of `diffeo train`.
    """
    patch = largest_patch(height, width, 4 if min(height, width) >= 16 else 2)
    return patch, 4, 2, 128

"""What flows of image patches share: from pixels to patches, and back at the end."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from diffeo.bijections.base import Bijection
from diffeo.bijections.chain import Chain, Inverse
from diffeo.bijections.elementwise import Center, Logit
from diffeo.bijections.patches import Patches
from diffeo.bijections.reshape import Flatten
from diffeo.models.sizes import ImageShape


def patched(
    image_shape: ImageShape,
    patches: Patches,
    links: Iterable[Bijection],
    levels: float,
    margin: float,
) -> Chain:
    """Links of patches as a bijection of dequantized pixels.

        center or logit -> patches -> links -> pixels -> flat

    Latents lie where their pixels do.

    Args:
        image_shape: (C, H, W) of the images.
        patches: the map to tokens `(batch, channels, tokens)`.
        links: bijections of these.
        levels: the upper end of the pixels, 2^bits.
        margin: 0 to center pixels into [-1, 1], or that of a `Logit`.
    """
    return Chain(
        Logit(levels, margin) if margin else Center(levels, 2.0),
        patches,
        *links,
        Inverse(copy.deepcopy(patches)),
        Flatten(*image_shape),
    )

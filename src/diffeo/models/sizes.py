"""Sizes of images: how often they can be halved."""

from __future__ import annotations

from typing import TypeAlias

from diffeo.utils.ranges import Count

ImageShape: TypeAlias = tuple[Count, Count, Count]


def check_size(height: int, width: int, halvings: int, unit: str) -> None:
    """Refuse an image size that cannot be halved so often, and name one that can.

    Args:
        height: of the images, in pixels.
        width: likewise.
        halvings: how often both are halved.
        unit: what is counted by that, "scale" or "level".

    Raises:
        ValueError: then.
    """
    if halvings > max(height, width).bit_length():  # 2^halvings may be too long to print
        raise ValueError(f"{height}x{width} cannot be halved {halvings} times: take fewer {unit}s.")
    step = 2**halvings
    if height % step or width % step:
        up = f"{-(-height // step) * step}x{-(-width // step) * step}"
        count = f"{halvings} {unit}s need" if halvings > 1 else f"1 {unit} needs"
        fewer = f", or take fewer {unit}s" if halvings > 1 else ""
        raise ValueError(
            f"{count} height and width that are multiples of {step}, not {height}x{width}: "
            f"resize to {up}{fewer}."
        )


def most_halvings(height: int, width: int, most: int) -> int:
    """How often, up to `most` times and at least once, both can be halved."""
    count = most
    while count > 1 and (height % 2**count or width % 2**count):
        count -= 1
    return count


def largest_patch(height: int, width: int, most: int, fold: int = 1) -> int:
    """The largest patch, up to `most` and at least 1, that divides both a multiple of `fold` times.

    Where there is none, 1.
    """
    fits = (p for p in range(most, 1, -1) if not height % (fold * p) and not width % (fold * p))
    return next(fits, 1)


def usual_margin(channels: int) -> float:
    """That of a `Logit` for grey images, which have much black and white; 0 for no logit."""
    return 1e-5 if channels == 1 else 0.0

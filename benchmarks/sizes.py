"""The sizes that every benchmark of Glow shares, and how few `--small` takes."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import Settings


def glow_sizes(settings: Settings) -> dict[str, Any]:
    """3 x 32 x 32, 3 levels of 8 steps, batches of 32."""
    sizes: dict[str, Any] = {"device": settings.device}
    if settings.small:
        sizes |= {"shape": (3, 8, 8), "levels": 2, "steps": 1, "batch": 2}
    return sizes


def glow_batch(settings: Settings) -> int:
    """Images of a batch."""
    return 2 if settings.small else 32


def glow_widths(settings: Settings) -> dict[int, int]:
    """Channels of the coupling networks that stand for the widths 128 and 512."""
    return {128: 8, 512: 16} if settings.small else {128: 128, 512: 512}

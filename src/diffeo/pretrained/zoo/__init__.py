"""Models that ship with diffeo: a folder each, named as `diffeo.load` and the commands take it."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """All of them, in alphabetical order."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))

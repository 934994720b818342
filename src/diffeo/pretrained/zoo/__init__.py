"""Models that ship with diffeo: a folder each, named as `diffeo.load` and the commands take it."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """All of them."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def find(name: str) -> Path:
    """The folder of one.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in names():
        raise ValueError(f"there is no model {name!r}: choose one of {', '.join(names())}.")
    return FOLDER / name

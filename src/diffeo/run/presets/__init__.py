"""Settings that were tried: `NAME.yaml` here is a `--config` of `diffeo train`."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """All presets."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a preset.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in names():
        raise ValueError(f"there is no preset {name!r}: choose one of {', '.join(names())}.")
    return FOLDER / f"{name}.yaml"

"""The output folder: whose parts it holds, and how one is put into it."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from diffeo.bijections.coupling import Coupling
from diffeo.pretrained.storage import CONFIG, WEIGHTS, find_model
from diffeo.run import Run
from diffeo.utils.files import atomic_write
from diffeo.utils.version import __version__

MANIFEST, PARTIAL = "parts.json", ".partial"
MOST_DEATHS = 4


# Of each input by its part: its size in bytes and its time of change.
Inputs = dict[str, list[int]]


def claim(folder: Path, settings: Mapping[str, Any], data: Inputs | None = None) -> None:
    """Make the folder the one of these settings, or make sure that it is; drop what is half done.

    Where some of the inputs have changed since, their parts are dropped too.

    Raises:
        ValueError: if it holds parts of other settings or inputs, or other things.
    """
    manifest = {"diffeo": __version__, "torch": torch.__version__, **settings, "data": data or {}}
    known = read(folder)
    if known is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} is there and is no folder of parts: give --out a new or an empty one."
        )
    if known is not None:
        for name in _changed(folder, known, manifest):
            (folder / name).unlink(missing_ok=True)
    if known != manifest:
        with atomic_write(folder / MANIFEST) as partial:
            partial.write_text(json.dumps(manifest) + "\n", encoding="utf-8")
    # A process that still writes there, of a command that was killed, fails to rename and ends.
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)


def _changed(folder: Path, known: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    """The parts whose inputs are others than they were."""
    others = [key for key in {**manifest, **known} if known.get(key) != manifest.get(key)]
    before, now = known.get("data", {}), manifest["data"]
    changed = [name for name in now if now[name] != before.get(name)]
    if others == ["data"] and before.keys() == now.keys() and len(changed) < len(now):
        return changed
    if others:
        raise ValueError(
            f"{folder} holds parts of another {', another '.join(others)}: give --out another "
            "folder, or what was given before."
        )
    return []


def read(folder: Path) -> dict[str, Any] | None:
    """What `claim` wrote, None where there is nothing.

    Raises:
        ValueError: if it is damaged.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        known = None
    if not isinstance(known, dict):
        raise ValueError(f"{file} is damaged: give --out another folder.")
    return known


@contextmanager
def place(folder: Path, name: str) -> Iterator[Path]:
    """A path of nobody else's to write to, which becomes the part `name` when the block ends well.

    Two processes may be at work on one part: one that is taken for dead, and the one in its place.

    Raises:
        ValueError: if processes at work on this part were killed `MOST_DEATHS` times.
    """
    (folder / PARTIAL).mkdir(parents=True, exist_ok=True)
    known = hashlib.sha256(name.encode()).hexdigest()[:16]
    # Whoever is killed leaves its folder; Ray would begin again for ever.
    deaths = sum(found.name.startswith(known) for found in (folder / PARTIAL).iterdir())
    if deaths >= MOST_DEATHS:
        raise ValueError(
            f"{name}: {deaths} processes were killed at it, as for lack of memory: make the part "
            "smaller, or give each process more."
        )
    with tempfile.TemporaryDirectory(prefix=f"{known}-", dir=folder / PARTIAL) as own:
        file = Path(own) / Path(name).name
        yield file
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        file.replace(folder / name)


def tidy(folder: Path) -> int:
    """Remove what is half done, when nothing else is; returns how many processes were killed."""
    deaths = sum(1 for _ in (folder / PARTIAL).glob("*"))
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    return deaths


def digest(value: Any) -> str:
    """The SHA-256 of plain values, as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def model_settings(run: Run) -> dict[str, str]:
    """What tells a model from others: the SHA-256 of its files; in what its networks compute."""
    model, both = find_model(run.folder), hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        with (model / name).open("rb") as file:
            both.update(hashlib.file_digest(file, "sha256").digest())
    networks = {
        str(m.precision or "its own") for m in run.flow.modules() if isinstance(m, Coupling)
    }
    return {"model": both.hexdigest(), "precision": ", ".join(sorted(networks))}

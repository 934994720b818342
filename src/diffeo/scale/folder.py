"""The output folder: its settings, and how a part is written into it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from diffeo.bijections.coupling import Coupling
from diffeo.data.tables.writing import is_folder
from diffeo.pretrained.storage import CONFIG, WEIGHTS, find_model
from diffeo.run import Run
from diffeo.utils.files import atomic_write
from diffeo.utils.version import __version__

MANIFEST, PARTIAL = "parts.json", ".partial"
MOST_DEATHS = 4


def output_folder(name: str | os.PathLike[str]) -> Path:
    """The folder of an output in parts; ValueError for the name of a file."""
    if not is_folder(os.fspath(name)):
        raise ValueError(f"{name} is a file, and parts need a folder: name one with --out.")
    return Path(name).expanduser().resolve()


def claim(folder: Path, run: Run, settings: dict[str, Any], data: dict[str, list[int]]) -> None:
    """Create the folder for these settings, or check that it has them; remove unfinished parts.

    `data` is the size in bytes and the modification time of the input of each part. Parts whose
    input has changed since are removed too.

    Raises:
        ValueError: if it holds parts of other settings or inputs, or other files.
    """
    versions = {"diffeo": __version__, "torch": torch.__version__}
    manifest = {**versions, **_model_settings(run), **settings, "data": data}
    known = read(folder)
    if known is None and folder.exists() and any(folder.iterdir()):
        raise ValueError(
            f"{folder} exists and is no folder of parts: give --out a new or an empty one."
        )
    known = manifest if known is None else known
    others = [key for key in {**manifest, **known} if known.get(key) != manifest.get(key)]
    before = known.get("data", {})
    changed = [name for name in data if data[name] != before.get(name)]
    if others == ["data"] and before.keys() == data.keys() and len(changed) < len(data):
        for name in changed:
            (folder / name).unlink(missing_ok=True)
    elif others:
        raise ValueError(
            f"{folder} holds parts of another {', another '.join(others)}: give --out another "
            "folder, or what was given before."
        )
    with atomic_write(folder / MANIFEST) as partial:
        partial.write_text(json.dumps(manifest) + "\n", encoding="utf-8")
    # A process of a killed command that still writes there fails to rename its file, and ends.
    tidy(folder)


def read(folder: Path) -> dict[str, Any] | None:
    """What `claim` wrote; None if it wrote nothing, a ValueError if it is damaged."""
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
    """A private path to write to, which becomes the part `name` when the block succeeds.

    Two processes may work on one part: one that Ray takes for dead, and its replacement.

    Raises:
        ValueError: if processes that worked on this part were killed `MOST_DEATHS` times.
    """
    (folder / PARTIAL).mkdir(parents=True, exist_ok=True)
    known = hashlib.sha256(name.encode()).hexdigest()[:16]
    # A process that is killed leaves its folder behind; Ray would repeat the part for ever.
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
    """Remove what is left of unfinished parts; returns how many processes were killed at them."""
    deaths = sum(1 for _ in (folder / PARTIAL).glob("*"))
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    return deaths


def digest(value: Any) -> str:
    """The SHA-256 of plain values, as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _model_settings(run: Run) -> dict[str, str]:
    """The identity of a model: the SHA-256 of its files, and what decides the last digits.

    That is the precision of its networks, and the device, if it is not the CPU.
    """
    both = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        with (find_model(run.folder) / name).open("rb") as file:
            both.update(hashlib.file_digest(file, "sha256").digest())
    networks = {
        str(m.precision or "its own") for m in run.flow.modules() if isinstance(m, Coupling)
    }
    device = run.flow.device.type
    elsewhere = {} if device == "cpu" else {"device": device}
    return {"model": both.hexdigest(), "precision": ", ".join(sorted(networks)), **elsewhere}

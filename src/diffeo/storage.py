"""A model on disk: a folder with `config.json` and `model.safetensors`, and no pickle in it."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffeo.beside import beside

T = TypeVar("T")

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def write_model(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write both files, each beside its place and then renamed over it.

    Raises:
        ValueError: if a value of `config` has no form in JSON.
        OSError: if the folder cannot be written.
    """
    try:
        text = json.dumps(config, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the model's arguments cannot be written to {CONFIG} ({error}): "
            "use numbers, strings and lists of them."
        ) from error
    # Contiguous copies: safetensors refuses views and tensors that share memory.
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    # Both are whole before either takes its place.
    with beside(folder / CONFIG) as partial_config, beside(folder / WEIGHTS) as partial_weights:
        save_file(tensors, partial_weights)
        partial_config.write_text(text + "\n", encoding="utf-8")


def read_model(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read `(config, state)`.

    Raises:
        ValueError: if a file is missing, damaged or not of this kind.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no model: {name} is missing.")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        well_formed = isinstance(config["class"], str) and isinstance(config["arguments"], dict)
    except (ValueError, KeyError, TypeError):
        well_formed = False
    if not well_formed:
        raise ValueError(f"{folder / CONFIG} is damaged: copy the model again.")
    try:
        state = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(
            f"{folder / WEIGHTS} is damaged or cut short ({error}): copy the model again."
        ) from error
    return config, state


def find_model(name: str | os.PathLike[str]) -> Path:
    """The folder of a model: a path on disk, or a name on the Hugging Face hub (`owner/name`).

    Raises:
        ValueError: if there is neither.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    parts = str(name).split("/")
    if len(parts) != 2 or not all(parts) or parts[0] in {".", ".."}:
        raise ValueError(f"{name} is neither a folder nor a hub name like owner/name.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), allow_patterns=[CONFIG, WEIGHTS]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{name} is no folder here and could not be fetched from the hub ({reason})."
        ) from error


def public_name(model: type) -> str:
    """`diffeo.RealNVP` for ours, wherever the class lives inside; the full path for others."""
    if model.__module__.startswith("diffeo."):
        return f"diffeo.{model.__qualname__}"
    return f"{model.__module__}.{model.__qualname__}"


def find_class(base: type[T], name: str, trust: bool, where: Path) -> type[T]:
    """The subclass of that name among those imported; it is imported first if `trust`.

    Raises:
        ValueError: if there is none, or it cannot be imported.
    """
    known = {public_name(model): model for model in _subclasses(base)}
    if name not in known and trust:
        try:
            importlib.import_module(name.rpartition(".")[0])
        except (ImportError, ValueError) as error:
            raise ValueError(f"{where} names {name}, which cannot be imported: {error}") from error
        known = {public_name(model): model for model in _subclasses(base)}
    if name not in known:
        raise ValueError(
            f"{where} names the class {name}, which is none of diffeo's: import it first, or, if "
            "you trust where the model comes from, load it with trust=True (--trust)."
        )
    return known[name]


def _subclasses(cls: type[T]) -> Iterator[type[T]]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)

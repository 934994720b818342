"""A model on disk: a folder with `config.json` and `model.safetensors`, and no pickle in it.

Both are written whole or not at all. Where some weights are kept in fewer bits, `config.json` says
so: `stored_as` is their type in the file, and `dtype` the one in which the model computes.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffeo.pretrained import zoo
from diffeo.utils.files import atomic_write
from diffeo.utils.parsing import JSON_BYTES, parse_json, read_text

T = TypeVar("T")

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# What weights may be kept as, and what a model may compute in, by their names in config.json.
STORED = {"bfloat16": torch.bfloat16}
COMPUTED = {"float32": torch.float32, "float64": torch.float64}


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
    whole = torch.contiguous_format
    tensors = {name: t.detach().cpu().clone(memory_format=whole) for name, t in state.items()}
    # Both are whole before either takes its place.
    with (
        atomic_write(folder / CONFIG) as partial_config,
        atomic_write(folder / WEIGHTS) as partial_weights,
    ):
        _save(tensors, partial_weights)
        partial_config.write_text(text + "\n", encoding="utf-8")
        # safetensors lets nobody else read its file, which is no way to share one.
        partial_weights.chmod(partial_config.stat().st_mode)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        # What the system said is in words alone: "... (os error 28)".
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def read_model(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read `(config, state)`, weights that were kept in fewer bits being of the model's type again.

    Nothing in either file is code, and nothing in them is unpickled.

    Raises:
        ValueError: if a file is missing, damaged or not of this kind.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no model: {name} is missing.")
    try:
        config = parse_json(read_text(folder / CONFIG, JSON_BYTES))
        well_formed = isinstance(config["class"], str) and isinstance(config["arguments"], dict)
        well_formed = well_formed and isinstance(config.get("metadata", {}), dict)
        stored = STORED[config["stored_as"]] if "stored_as" in config else None
        computed = COMPUTED[config["dtype"]] if stored is not None else None
    except (ValueError, KeyError, TypeError, AttributeError):
        well_formed = False
    if not well_formed:
        raise ValueError(f"{folder / CONFIG} is damaged: copy the model again.")
    try:
        state = load_file(folder / WEIGHTS)
    except OSError:
        raise
    except Exception as error:  # types of numbers that torch lacks raise other than its own
        raise ValueError(
            f"{folder / WEIGHTS} is damaged or cut short ({error}): copy the model again."
        ) from error
    if stored is not None:
        state = {
            name: tensor.to(computed) if tensor.dtype == stored else tensor
            for name, tensor in state.items()
        }
    return config, state


def find_model(name: str | os.PathLike[str], **download: Any) -> Path:
    """The folder of a model.

    Args:
        name: a folder with a model, or of a run; or a model that ships with diffeo; or one on the
            Hugging Face hub (`owner/name`): in this order.
        download: what `huggingface_hub.snapshot_download` is told, such as the revision.

    Raises:
        ValueError: if there is none of these.
    """
    folder = Path(name)
    shipped = str(name) in zoo.names()
    inner = folder / "model"  # of a run
    if inner.is_dir() and not (folder / CONFIG).is_file():
        return inner
    # A folder without a model, such as one of data, hides none that ships.
    if folder.is_dir() and (not shipped or (folder / CONFIG).is_file()):
        return folder
    if shipped:
        return zoo.find(str(name))
    parts = str(name).split("/")
    if len(parts) != 2 or not all(parts) or parts[0] in {".", ".."}:
        raise ValueError(
            f"{name} is neither a folder nor a hub name like owner/name, nor a model that ships "
            f"with diffeo: {', '.join(zoo.names())}."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), allow_patterns=[CONFIG, WEIGHTS], **download))
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
    importlib.import_module("diffeo.models")  # ours, which are above this room
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

"""A model on disk: a folder with `config.json` and `model.safetensors`, and no pickle in it.

Both files are written completely or not at all. Where some weights are stored in fewer bits,
`config.json` says so: `stored_as` is their dtype in the file, and `dtype` that of the model.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.overrides import TorchFunctionMode

from diffeo.pretrained import zoo
from diffeo.pretrained.migration import migrate
from diffeo.utils.files import JSON_BYTES, atomic_write, parse_json, read_text

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# The dtypes in which weights may be stored, and a model may compute, by name in config.json.
STORED = {"bfloat16": torch.bfloat16}
COMPUTED = {"float32": torch.float32, "float64": torch.float64}
# What a model may hold beyond its weights: what is not saved with it, what starting it takes.
TIMES, NUMBERS, TENSORS = 4, 2**24, 1_000


def write_model(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write both files, each under a temporary name and then renamed.

    Raises:
        ValueError: if a value of `config` has no form in JSON.
        OSError: if the folder cannot be written.
    """
    try:
        text = json.dumps(config, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the model's arguments or metadata cannot be written to {CONFIG} ({error}): "
            "use numbers, strings and lists of them."
        ) from error
    if len(text) >= JSON_BYTES:
        raise ValueError(
            f"the model's arguments and metadata are longer than {JSON_BYTES >> 20} MiB in "
            f"{CONFIG}: store less in metadata."
        )
    # Contiguous copies: safetensors refuses views and tensors that share memory.
    layout = torch.contiguous_format
    tensors = {name: t.detach().cpu().clone(memory_format=layout) for name, t in state.items()}
    # Both are complete before either is renamed.
    with (
        atomic_write(folder / CONFIG) as partial_config,
        atomic_write(folder / WEIGHTS) as partial_weights,
    ):
        _save(tensors, partial_weights)
        partial_config.write_text(text + "\n", encoding="utf-8")
        # safetensors makes a file that nobody else may read.
        partial_weights.chmod(partial_config.stat().st_mode)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        # The number of the system's error is in its text alone: "... (os error 28)".
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def read_model(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read `(config, state)`; weights stored in fewer bits get the model's dtype again.

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
        if well_formed and config.get("format", 1) == 1:
            config = migrate(config)
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
            f"{folder / WEIGHTS} is damaged or incomplete ({error}): copy the model again."
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
        download: arguments of `huggingface_hub.snapshot_download`, such as the revision.

    Raises:
        ValueError: if there is none of these.
        TypeError: if `snapshot_download` has no such argument.
    """
    folder, name = Path(name), str(name)
    if download:  # a misspelt argument is refused where nothing is downloaded, too
        import huggingface_hub

        inspect.signature(huggingface_hub.snapshot_download).bind(name, **download)
    if is_shipped(name):
        return zoo.FOLDER / name
    if (folder / CONFIG).is_file():
        return folder
    if (folder / "model").is_dir():  # of a run folder
        return folder / "model"
    if folder.is_dir():
        return folder
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or parts[0] in {".", ".."}:
        raise ValueError(
            f"{name} is neither a folder nor a hub name like owner/name, nor a model that ships "
            f"with diffeo: {', '.join(zoo.names())}."
        )
    return _fetched(name, **download)


def _fetched(name: str, **download: Any) -> Path:
    """The folder of a model of the hub, fetched from there unless it was before."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            huggingface_hub.snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS], **download)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{name} is no folder here and could not be fetched from the hub ({reason})."
        ) from error


def is_shipped(name: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a model that ships with diffeo, and no folder has such a model.

    A folder without a model, such as one of data, hides none that ships.
    """
    here = (Path(name) / CONFIG).is_file() or (Path(name) / "model").is_dir()
    return str(name) in zoo.names() and not here


@contextmanager
def limit_allocation(state: Mapping[str, Tensor]) -> Iterator[None]:
    """Let what is built in the block have a few times the weights of `state`, and no more.

    A few bytes of a stranger's config.json may ask for 10^9 layers, or for layers 10^9 wide. What
    goes far beyond the weights that come with it is refused as it begins.

    Raises:
        ValueError: as soon as the block goes beyond.
    """
    numbers = sum(tensor.numel() for tensor in state.values())
    budget = _Budget(TIMES * numbers + NUMBERS, TIMES * len(state) + TENSORS)
    hooks = [
        modules.register_module_parameter_registration_hook(budget.count),
        modules.register_module_buffer_registration_hook(budget.count),
        modules.register_module_module_registration_hook(budget.count),
    ]
    try:
        with budget:
            yield
    finally:
        for hook in hooks:
            hook.remove()


_FACTORIES = {torch.arange, torch.empty, torch.eye, torch.full, torch.ones, torch.rand}
_FACTORIES |= {torch.randn, torch.randperm, torch.zeros}


class _Budget(TorchFunctionMode):
    """What is left: numbers, and tensors and modules."""

    def __init__(self, numbers: int, things: int) -> None:
        super().__init__()
        self.numbers, self.things = numbers, things

    def count(self, owner: nn.Module, name: str, value: Any) -> None:
        """Take off what a module has been given."""
        size = value.numel() if isinstance(value, Tensor) else 0
        self.things -= 1
        self.check(size)
        self.numbers -= size

    def check(self, numbers: int) -> None:
        """Refuse so many at once."""
        if numbers > self.numbers or self.things < 0:
            raise ValueError("it asks for many more weights than there are in the file")

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at the size that torch is asked for, before it takes the memory."""
        if func in _FACTORIES and args:
            size = list(args[0]) if isinstance(args[0], (list, tuple)) else [*args]
            if func is torch.eye:
                size = [*size, size[0]][:2]
            self.check(math.prod(n for n in size if isinstance(n, int)))
        return func(*args, **kwargs or {})

"""The command that repeats a run, as its settings say."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from diffeo.data import DataOptions
from diffeo.data.images.dataset import IMAGE_SETS
from diffeo.data.tables.opening import BUNDLED
from diffeo.data.tables.synthetic import GENERATORS
from diffeo.flow import Flow
from diffeo.run import presets
from diffeo.training.options import OptimizerOptions, TrainerOptions
from diffeo.utils.config import find_class, public_name, to_config

Settings = Mapping[str, Any]


def command_of(settings: Settings, model: type[Flow]) -> str:
    """`diffeo train` with the fewest words that repeat these settings, a preset if that is less.

    Nothing in it tells where files are: of a path only the last part is left.

    Args:
        settings: those of a run's `config.yaml`.
        model: the class that it names.
    """
    commands = [_words(settings, model, {}, [])]
    for name in presets.names():
        preset = yaml.safe_load(presets.find(name).read_text(encoding="utf-8"))
        if preset.get("model", {}).get("class_path") == settings["model"]["class_path"]:
            commands.append(_words(settings, model, preset, ["--preset", name]))
    return shlex.join(["diffeo", "train", *min(commands, key=len)])


def public_source(source: str) -> str:
    """The name of a source of data, without the folder that it is in."""
    if source in (*GENERATORS, *BUNDLED, *IMAGE_SETS) or source.startswith("hf://"):
        return source
    return re.split(r"[\\/]", source.rstrip("\\/"))[-1] or "DATA"


def _words(
    settings: Settings, model: type[Flow], preset: dict[str, Any], start: list[str]
) -> list[str]:
    """What the settings say that neither the preset nor the defaults do."""
    words = list(start)
    chosen = settings["model"]
    if not preset:
        words += ["--model", public_name(model).removeprefix("diffeo.")]
    parameters = inspect.signature(model).parameters.values()
    usual = {p.name: p.default for p in parameters if p.default is not p.empty}
    usual = {name: as_setting(value) for name, value in (usual | model.defaults).items()}
    usual |= preset.get("model", {}).get("init_args", {})
    words += _differing("model", chosen.get("init_args", {}), usual)
    data = dict(settings["data"])
    # The cache is a matter of the machine.
    data.pop("cache", None)
    words += ["--data", public_source(data.pop("source"))]
    words += _differing("data", data, _usual(DataOptions) | preset.get("data", {}))
    others = {name: settings[name] for name in ("seed", "precision")}
    words += _differing("", others, {"seed": 0, "precision": "auto"} | preset)
    for section, kind in (("optimizer", OptimizerOptions), ("trainer", TrainerOptions)):
        words += _differing(section, settings[section], _usual(kind) | preset.get(section, {}))
    return words


def as_setting(value: Any) -> Any:
    """An argument of a model as settings have it: a class by its full name, with its arguments."""
    return _tree(to_config(value))


def _tree(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_tree(part) for part in tree]
    if not isinstance(tree, dict):
        return tree
    cls = find_class(tree.get("class") or tree["partial"])
    arguments = {key: _tree(value) for key, value in tree["arguments"].items()}
    # In full, since other packages that are imported may have a class of that name.
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}


def _usual(options: Any) -> dict[str, Any]:
    """The defaults of a dataclass of options."""
    return {option.name: option.default for option in dataclasses.fields(options)}


def _differing(section: str, chosen: Settings, usual: Settings) -> list[str]:
    words = []
    for name, value in chosen.items():
        if name not in usual or _plain(usual[name]) != _plain(value):
            option = f"--{section}.{name}" if section else f"--{name}"
            if isinstance(value, dict):  # a class and its arguments
                path = value["class_path"]
                words += [option, path.rpartition(".")[2] if path.startswith("diffeo.") else path]
                words += _differing(option.removeprefix("--"), value.get("init_args", {}), {})
            else:
                words += [option, _spelled(value)]
    return words


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _spelled(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, str):
        return public_source(value) if re.match(r"[~\\/]|[A-Za-z]:[\\/]", value) else value
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        joined = ",".join(value)
        if joined.count(",") == len(value) - 1 and not joined.startswith("["):
            return joined
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))

"""Which classes a file of settings may name: to import a class runs the code of its module.

jsonargparse imports whatever stands where it expects a class, before it knows whether that is one.
So a file is read here first, and refused before anything is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

from diffeo import bases, bijections, models, networks  # noqa: F401, so that their classes are known
from diffeo.data import DataOptions
from diffeo.training.options import OptimizerOptions, TrainerOptions
from diffeo.utils.config import known_classes, public_name
from diffeo.utils.files import SETTINGS_BYTES, read_text
from diffeo.utils.yaml import parse_yaml

# Of options. Where one is a single word, that is a file or a class.
SECTIONS: dict[str, type] = {
    "data": DataOptions,
    "optimizer": OptimizerOptions,
    "trainer": TrainerOptions,
}
OPTIONAL = ("out", "resume", "preset", "config")  # options that may be null


def check_settings(name: str, trusted: set[str] | None) -> None:
    """Raise ValueError for a file that lacks a value, or names other files or foreign classes.

    `trusted` are more classes, which the user named; None if the file is trusted.
    """
    path = Path(name)
    if not path.exists():
        raise ValueError(f"there is no file {name}: name one of settings.")
    text = read_text(path, SETTINGS_BYTES)
    try:
        settings = parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read: {error}.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{name} holds no settings: write lines such as `seed: 1`.")
    for place, value in _flat(settings, ()):
        keys = ".".join(map(str, place)).split(".")
        if value is None and _needs_value(keys):
            key = ".".join(keys)
            raise ValueError(f"{name} gives no value for '{key}': give one, or leave the line out.")
        if keys[0] in ("config", "preset", "resume"):
            raise ValueError(f"{name} names other settings by '{keys[0]}': name them as an option.")
        names_class = keys[-1] == "class_path" or keys == ["model"]
        if names_class or (len(keys) == 1 and keys[0] in SECTIONS):
            unknown = value is not None
        else:  # a part of a model may be one word, and text without a dot is no import path
            unknown = keys[0] == "model" and isinstance(value, str) and _may_be_read(value)
        if unknown and trusted is not None and value not in _known_classes() | trusted:
            raise ValueError(
                f"{name} names the class {value}, which is not one of diffeo's: if you trust where "
                "the file comes from, pass --trust, which imports it and so runs its code."
            )


def _known_classes() -> set[str]:
    """What the models of diffeo, and the parts that they are made of, may be called."""
    names = set()
    for cls in known_classes():
        if cls.__module__.startswith("diffeo."):
            names |= {cls.__name__, public_name(cls), f"{cls.__module__}.{cls.__qualname__}"}
            package = ".".join(cls.__module__.split(".")[:2])  # from where users import it
            names.add(f"{package}.{cls.__qualname__}")
    return names


def _needs_value(keys: list[str]) -> bool:
    """Whether an option of all settings, or of a section, may not be null."""
    if len(keys) == 1:
        return keys[0] not in OPTIONAL
    kind = get_type_hints(SECTIONS[keys[0]]).get(keys[1]) if keys[0] in SECTIONS else None
    return len(keys) == 2 and kind is not None and type(None) not in get_args(kind)


def _may_be_read(text: str) -> bool:
    """Whether jsonargparse may take a text for the path of a class or of a file."""
    return "." in text or Path(text).exists()


def _flat(value: Any, place: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Each plain value with the keys that lead to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, (*place, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(inner, place)
    else:
        yield place, value

"""Which classes a file of settings may name: importing one runs its code, whoever wrote it.

jsonargparse imports whatever a `class_path` names, at any place, before it looks whether that is a
model. So a file is read here first, and refused before anything is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import isclass
from pathlib import Path
from typing import Any

from diffeo import models
from diffeo.flow import Flow
from diffeo.utils.config import public_name
from diffeo.utils.parsing import SETTINGS_BYTES, parse_yaml, read_text

# Of options; where one is a single word, that is a file or a class.
SECTIONS = ("data", "optimizer", "trainer")


def check_settings(name: str, section: str | None, trusted: set[str] | None) -> None:
    """Refuse a file of settings that names a class of somebody else's, or other files.

    Args:
        name: the file.
        section: of which its contents are, such as "model"; None for those of all.
        trusted: classes that the user named as well; None where the file is trusted.

    Raises:
        ValueError: then, or if it is no such file.
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
    settings = settings if section is None else {section: settings}
    for place, value in _flat(settings, ()):
        keys = ".".join(map(str, place)).split(".")
        if keys[0] in ("config", "preset", "resume"):
            raise ValueError(f"{name} names other settings by '{keys[0]}': name them as an option.")
        names_class = keys[-1] == "class_path" or keys == ["model"]
        if names_class or (len(keys) == 1 and keys[0] in SECTIONS):
            _check_class(name, value, trusted)


def _check_class(name: str, value: Any, trusted: set[str] | None) -> None:
    if value is None or trusted is None or value in known_models() or value in trusted:
        return
    raise ValueError(
        f"{name} names the class {value}, which is none of diffeo's: if you trust where the file "
        "comes from, pass --trust, which imports it and so runs its code."
    )


def known_models() -> set[str]:
    """What the models of diffeo may be called."""
    classes = [c for c in vars(models).values() if isclass(c) and issubclass(c, Flow)]
    full = {f"{model.__module__}.{model.__qualname__}" for model in classes}
    return full | {public_name(model) for model in classes} | {model.__name__ for model in classes}


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

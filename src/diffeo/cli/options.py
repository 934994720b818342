"""What the options of a command may be, and the sentence about the first one that is wrong.

jsonargparse reads options by the types of parameters; its errors list all types that were tried.
Here the same types say in plain words which option is meant, and what it takes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from torch import nn

from diffeo.context import ContextSpec
from diffeo.utils.config import Configurable, known_classes, public_name
from diffeo.utils.files import SETTINGS_BYTES, read_text
from diffeo.utils.ranges import (
    alternatives,
    closest,
    describe,
    fits,
    limits_numbers,
    near,
    suggestion,
)
from diffeo.utils.yaml import parse_yaml

Given = list[
    tuple[str, Any]
]  # names and values in order; a word that belongs to no option has no name


class Options:
    """The options of a command.

    Args:
        command: its name.
        functions: whose parameters are options.
        actions: the parser's.
    """

    def __init__(
        self, command: str, functions: Sequence[Callable[..., Any]], actions: Sequence[Any]
    ) -> None:
        self.help: str = f"`diffeo {command} --help`"
        self.actions: dict[Any, Any] = {
            name: action for action in actions for name in action.option_strings
        }
        self.places: int = sum(not action.option_strings for action in actions)
        self.hints: dict[str, Any] = {}
        for function in functions:
            self.hints |= get_type_hints(function, include_extras=True)

    def given(self, words: Sequence[str]) -> Given:
        """The options in the words of a user, and in the files that they name by `--config`."""
        found: Given = []
        rest = list(words)
        while rest:
            name, equals, value = rest.pop(0).partition("=")
            if not _is_name(name):
                found.append(("", name + equals + value))
            elif name == "--config" and equals and Path(value).is_file():
                found += _flat("--", parse_yaml(read_text(Path(value), SETTINGS_BYTES)) or {})
            elif equals:
                found.append((name, value))
            elif getattr(self.actions.get(name), "nargs", None) == 0:  # a flag
                found.append((name, True))
            else:
                found.append((name, rest.pop(0) if rest and not _is_name(rest[0]) else None))
        return found

    def out_of_range(self, given: Given) -> str | None:
        """A sentence about the first number that is not in its range, if there is one."""
        for name, value in given:
            hint = self.hint(name, dict(given))
            numbers = limits_numbers(hint) and _are_numbers(self._value(name, value))
            if numbers and (sentence := self._refusal(name, value, hint)):
                return sentence
        return None

    def wrong(self, given: Given) -> str | None:
        """A sentence about the first option that is wrong, if one is found."""
        named = dict(given)
        extra = [value for name, value in given if not name][self.places :]
        if extra:
            return f"{extra[0]} is not an option: the names of options begin with --."
        for name, value in given:
            hint = self.hint(name, named)
            if hint is not None:
                sentence = self._refusal(name, value, hint)
            elif name and name not in self.actions:
                close = _closest(name, self.names(named))
                guess = "" if close is None else f" (did you mean {close}?)"
                sentence = f"{name} is not an option{guess}: {self.help} lists them."
            else:
                sentence = None
            if sentence:
                return sentence
        for action in self.actions.values():
            if action.required and named.keys().isdisjoint(action.option_strings):
                return f"{action.option_strings[0]} is missing: {self.help} describes it."
        if self.places and "" not in named:
            return f"RUN is missing: {self.help} describes it."
        return None

    def _value(self, name: str, value: Any) -> Any:
        """The value of an option, of which lists of commands are written with commas."""
        listed = f"{name}+" in self.actions and isinstance(value, str)
        return [*map(_read, value.split(","))] if listed else _read(value)

    def _refusal(self, name: str, value: Any, hint: Any) -> str | None:
        """A sentence about a value that is none of a type, if it is so."""
        if section := next(filter(_is_group, alternatives(hint)), None):
            inner = next(iter(get_type_hints(section)))
            return f"{name} is a group of options: write one of them, such as {name}.{inner}."
        if value is None:
            return None if fits(None, hint) else f"{name} has no value: choose {describe(hint)}."
        if classes := classes_of(hint):
            if not isinstance(value, str) or value in classes:
                return None
            if "." in value:
                return f"{name} is {value}: there is no class of that name."
            ours = {cls for cls in classes.values() if cls.__module__.startswith("diffeo.")}
            names = sorted(cls.__name__ for cls in ours)
            return (
                f"{name} is {value}{suggestion(value, names)}: choose one of {', '.join(names)}, "
                "or a class of your own, mypackage.MyClass."
            )
        if fits(value, hint) or fits(self._value(name, value), hint):
            return None
        brackets = "a list" in describe(hint) and f"{name}+" not in self.actions
        example = " in brackets, such as [1, 2]" if brackets else ""
        return f"{name} is {value}{near(value, hint)}: choose {describe(hint)}{example}."

    def hint(self, name: str, given: Mapping[str, Any]) -> Any:
        """The type of an option, or None if it is none, or one without a type."""
        action = self.actions.get(name)
        if action is None and "." not in name:
            return None
        first, *keys = (name.lstrip("-") if action is None else action.dest).split(".")
        hint, path = self.hints.get(first), f"--{first}"
        for key in keys:
            hint = members(hint, given.get(path)).get(key)
            path += f".{key}"
        return hint

    def names(self, given: Mapping[str, Any]) -> list[str]:
        """The names of all options, those of the classes that are given too."""
        found = [name for name in self.actions if not name.endswith("+")]
        for name, value in given.items():
            hint = self.hint(name, given)
            if classes_of(hint):
                found += [f"{name}.{key}" for key in members(hint, value)]
        return found


def members(hint: Any, named: Any) -> dict[str, Any]:
    """The types of the options inside of an option: a section, or a class that is named."""
    for part in alternatives(hint):
        if _is_group(part):
            return get_type_hints(part, include_extras=True)
        cls = classes_of(part).get(named) if isinstance(named, str) else None
        if cls is not None:
            skipped = len(get_args(part)[0]) if get_origin(part) is not None else 0
            return dict([*_parameters(cls).items()][skipped:])
    return {}


def classes_of(hint: Any) -> dict[str, type]:
    """The classes that may stand for a type, by each of their names."""
    found: dict[str, type] = {}
    for part in alternatives(hint):
        made = get_args(part)[-1] if inspect.isclass(get_origin(part)) and get_args(part) else part
        networks = made is nn.Module  # of which only those of one package can be an option
        if not inspect.isclass(made) or not (networks or issubclass(made, Configurable)):
            continue
        if made is ContextSpec:  # which comes from the data
            continue
        for cls in known_classes():
            fits_in = cls.__module__.startswith("diffeo.networks.") if networks else True
            if (
                issubclass(cls, made)
                and fits_in
                and not inspect.isabstract(cls)
                and cls is not made
            ):
                full = f"{cls.__module__}.{cls.__qualname__}"
                found |= dict.fromkeys((cls.__name__, public_name(cls), full), cls)
    return found


def _parameters(cls: type) -> dict[str, Any]:
    """The types of what a constructor takes, in its order."""
    found: dict[str, Any] = {}
    for parent in cls.__mro__:
        if "__init__" in vars(parent) and issubclass(parent, Configurable):
            hints = get_type_hints(parent.__init__, include_extras=True)  # type: ignore[misc]
            parameters = [*inspect.signature(parent.__init__).parameters.values()][1:]  # type: ignore[misc]
            found |= {p.name: hints.get(p.name, Any) for p in parameters if p.name not in found}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return found


def _is_group(hint: Any) -> bool:
    """Whether a type is options of its own, as that of `--trainer`."""
    return is_dataclass(hint) and not issubclass(hint, Configurable)  # type: ignore[arg-type]


def _closest(name: str, known: Sequence[str]) -> str | None:
    """The option that a wrong name may mean: of another group, or misspelt in its own."""
    group, _, last = name.rpartition(".")
    near_by = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == group}
    elsewhere = [key for key in known if key.rpartition(".")[2] == last.lstrip("-")]
    if elsewhere:
        return elsewhere[0]
    longer = [key for key in near_by if key.startswith(last)]
    found = longer[0] if longer else closest(last, near_by, cutoff=0.7)
    return closest(name, known, cutoff=0.8) if found is None else near_by[found]


def _read(value: Any) -> Any:
    """The value that a text stands for."""
    if isinstance(value, list):
        return [_read(part) for part in value]
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    try:
        read = parse_yaml(value)
    except ValueError:
        return value
    return value if isinstance(read, str) else _read(read)


def _are_numbers(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_are_numbers, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_name(word: str) -> bool:
    """Whether a word is the name of an option, and no negative number."""
    return word.startswith("-") and not _are_numbers(_read(word)) and len(word) > 1


def _flat(prefix: str, tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The options of settings: a class by its name, and then its arguments."""
    for key, value in tree.items():
        if not isinstance(value, dict):
            yield f"{prefix}{key}", value
        elif "class_path" in value:
            yield f"{prefix}{key}", value["class_path"]
            yield from _flat(f"{prefix}{key}.", value.get("init_args") or {})
        else:
            yield from _flat(f"{prefix}{key}.", value)

"""From the short forms that people type to the long ones that the parser knows."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

from diffeo.cli.trust import SECTIONS, check_settings, known_models
from diffeo.data import DataOptions, holds_images
from diffeo.run import presets

# Options that take a list.
NAMES = {"--data.columns", "--data.context", "--attribute"}
NUMBERS = {"--strengths", "--temperatures"}


def spell_out(arguments: list[str]) -> list[str]:
    """The same command in the parser's words.

    `--data X` is `--data.source X`; lists of columns are written with commas; `--preset NAME` is a
    `--config` that lies in the package; `--detect_anomaly` is `--trainer.detect_anomaly true`; and
    `--resume FOLDER` takes all other settings from there.

    Raises:
        ValueError: if a preset or a run is not there, or a file names a class that is not trusted.
    """
    if not arguments or arguments[0].startswith("-"):
        return arguments
    command, *rest = arguments
    result: list[str] = []
    words = iter(rest)
    for word in words:
        name, equals, value = word.partition("=")
        if command == "train" and name == "--data":
            name = "--data.source"
        if command != "train" and name == "--data.delimiter":
            name = "--delimiter"
        if name in NAMES | NUMBERS:
            # As one word, since a list may begin with a minus sign.
            value = value if equals else next(words, "")
            if not value.startswith("["):
                value = json.dumps(value.split(",")) if name in NAMES else f"[{value}]"
            result.append(f"{name}={value}")
        elif command == "train" and name == "--preset":
            # Where it stands, so that what is said after it counts.
            result.append(f"--config={presets.find(value if equals else next(words, ''))}")
        elif command == "train" and name == "--detect_anomaly":
            result.append(f"--trainer.detect_anomaly={value if equals else 'true'}")
        else:
            result.append(name + equals + value)
    if command == "train":
        result = _with_settings(result)
        _check_classes(result)
    return [command, *result]


def _with_settings(arguments: list[str]) -> list[str]:
    folder = _value_of("--resume", arguments)
    if folder is not None:
        config = Path(folder) / "config.yaml"
        if not config.is_file():
            raise ValueError(
                f"{folder} holds no run to resume, {config} is missing: start one by "
                f"--out {folder}."
            )
        return ["--config", str(config), *arguments]
    names = {word.split("=")[0] for word in arguments}
    if names & {"--model", "--config"} or not any(n.startswith("--model.") for n in names):
        return arguments
    # The parser must know the class of whose arguments the user speaks. It is named here, not as
    # a default, since its own defaults would be handed on to another class.
    source = _value_of("--data.source", arguments) or ""
    pictures = holds_images(DataOptions(source)) if source else False
    return ["--model", "diffeo.ImageRealNVP" if pictures else "diffeo.RealNVP", *arguments]


def _check_classes(arguments: list[str]) -> None:
    """Refuse settings from files that name a class of which the user said nothing."""
    typed = {*_values_of("--model", arguments), *_values_of("--model.class_path", arguments)}
    trusted = None if "--trust" in arguments else typed
    for file in _values_of("--config", arguments):
        if not _is_inline(file):
            check_settings(file, None, trusted)
    for section in ("model", *SECTIONS):
        for file in _values_of(f"--{section}", arguments):
            if Path(file).exists():  # jsonargparse reads it
                check_settings(file, section, trusted)
    if trusted is None or any("." in name and name not in known_models() for name in typed):
        # A class of the user's own lies where the user is; for less, nothing here is imported.
        sys.path.append(str(Path.cwd()))


def _is_inline(config: str) -> bool:
    """Whether settings were typed in place of a file's name."""
    return not Path(config).exists() and ":" in config


def _value_of(option: str, arguments: list[str]) -> str | None:
    return next(iter(_values_of(option, arguments)), None)


def _values_of(option: str, arguments: list[str]) -> list[str]:
    """All that the user gave to an option."""
    found = []
    for word, after in itertools.zip_longest(arguments, arguments[1:]):
        if word == option and after is not None:
            found.append(after)
        elif word.startswith(option + "="):
            found.append(word.partition("=")[2])
    return found

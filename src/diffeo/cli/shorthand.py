"""From the short forms that people type to the long ones that the parser knows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from diffeo import presets
from diffeo.data import DataOptions, holds_pictures

# Options that take a list.
NAMES = {"--data.columns", "--data.context", "--attribute"}
NUMBERS = {"--strengths", "--temperatures"}


def spell_out(arguments: list[str]) -> list[str]:
    """The same command in the parser's words.

    `--data X` is `--data.source X`; lists of columns are written with commas; `--preset NAME` is a
    `--config` that lies in the package; `--detect_anomaly` is `--trainer.detect_anomaly true`; and
    `--resume FOLDER` takes all other settings from there.
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
        # A model class of the user's own lies where the user is.
        sys.path.append(str(Path.cwd()))
        result = _with_settings(result)
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
    pictures = holds_pictures(DataOptions(source)) if source else False
    return ["--model", "diffeo.ImageRealNVP" if pictures else "diffeo.RealNVP", *arguments]


def _value_of(option: str, arguments: list[str]) -> str | None:
    for i, word in enumerate(arguments):
        if word == option and i + 1 < len(arguments):
            return arguments[i + 1]
        if word.startswith(option + "="):
            return word.partition("=")[2]
    return None

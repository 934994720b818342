"""`diffeo train`."""

import functools
import itertools
import sys
from argparse import SUPPRESS
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from diffeo import bases, bijections, models, networks  # noqa: F401, so that names are found
from diffeo.cli.parser import Parser
from diffeo.cli.settings import check_settings, known_classes
from diffeo.data import DataOptions, holds_images
from diffeo.flow import Flow
from diffeo.run import presets, train
from diffeo.training.options import OptimizerOptions, TrainerOptions
from diffeo.utils.console import PlainConsole
from diffeo.utils.machine import Precision

ALIASES = {
    "--device": "--trainer.device",
    "--compile": "--trainer.compile",
    "--detect_anomaly": "--trainer.detect_anomaly",
}
# Of version 0.1.0.
GONE = {
    "--model.coupling": "write --model.univariate Additive, or Affine",
    "--model.bound": "write --model.univariate Affine --model.univariate.bound NUMBER",
    "--model.base": "write --model.base Normal, or Logistic",
    "--model.num_classes": "write --data.context label",
    "--model.context_features": "name the columns by --data.context",
    "--trainer.accelerator": "write --device cpu, cuda or mps",
    "--trainer.num_nodes": "start the processes with torchrun",
    "--trainer.strategy": "start the processes with torchrun",
}


def main(
    *,
    model: Callable[[int | tuple[int, ...]], Flow] | None = None,
    data: DataOptions,
    out: str | None = None,
    resume: str | None = None,
    seed: int = 0,
    precision: Precision = "auto",
    optimizer: OptimizerOptions,
    trainer: TrainerOptions,
) -> None:
    """Train a flow and fill a run folder.

    Examples: `diffeo train`, `diffeo train --data my.csv --data.columns height,weight`,
    `diffeo train --model NICE --model.layers 6`, `diffeo train --data images/ --data.size 32`,
    `diffeo train --preset mnist-cpu --data mnist/`, `diffeo train --resume runs/moons`.

    Args:
        model: A model of diffeo's, or a class of your own, mypackage.MyFlow; by default RealNVP,
            and ImageRealNVP for images. Its arguments are options, such as --model.layers 6 or
            --model.univariate NAME; `diffeo train --model.help NAME` lists them.
        out: The run folder; by default runs/NAME of the data.
        resume: A run folder to continue.
        seed: The seed of the first weights and of the batches.
        precision: The precision of the networks in training, float32 or bf16 (bfloat16); auto is
            bf16 for images if the processor has it, and otherwise float32. Validation and the
            saved model are float32.
    """
    train(
        unwrapped(model),
        data,
        resume or out,
        seed=seed,
        precision=precision,
        optimizer=optimizer,
        trainer=trainer,
        resume=resume is not None,
        console=PlainConsole(),
    )


def unwrapped(made: Any) -> Any:
    """`partial(RealNVP, layers=2)` for what jsonargparse makes of a class with some arguments."""
    if not isinstance(made, functools.partial) or not made.args:
        return made
    arguments = {name: unwrapped(value) for name, value in made.keywords.items()}
    return functools.partial(made.args[-1], **arguments)


def add_options(parser: Parser) -> None:
    """The options that choose other settings, and the short names."""
    preset = "Tested settings, one of {presets}; options after it override them."
    config = "A YAML file of these options; if it names classes of others, --trust must be given."
    trust = "Import the classes that --config or the run of --resume names: this runs their code."
    parser.add_argument("--preset", help=preset)
    parser.add_argument("--config", action="config", help=config)
    parser.add_argument("--trust", action="store_true", help=trust)
    parser.explain("--data", "The same as --data.source.", "SOURCE")
    for section in ("optimizer", "trainer"):
        parser.explain(f"--{section}", SUPPRESS)
    for alias, option in ALIASES.items():
        if option in parser._option_string_actions:
            parser.add_alias(alias, option)


def expand(words: list[str]) -> list[str]:
    """Replace `--preset NAME` by its file, and `--resume FOLDER` by the settings of that run.

    Raises:
        ValueError: if there is no such preset or run, or a file names a class that is not trusted.
    """
    result, rest = [], iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name == "--preset":
            # In the same place, since options that follow override it.
            word = f"--config={presets.find(value if equals else next(rest, ''))}"
        elif name == "--data":
            word = f"--data.source{equals}{value}"
        elif word == "--detect_anomaly":
            word += "=true"
        result.append(word)
    for folder in _values("--resume", words)[-1:]:
        config = f"{folder}/config.yaml"
        if not Path(config).is_file():
            raise ValueError(
                f"{folder} holds no run to resume, {config} is missing: start one by --out "
                f"{folder}."
            )
        result = [f"--config={config}", *result]
    if not _values("--model", result) and not _values("--config", result):
        result = [*_default_model(result), *result]
    _check_classes(result)
    return result


def _default_model(words: list[str]) -> list[str]:
    """The model's class, if there are arguments of it: the parser must know whose they are."""
    if not any(word.startswith("--model.") for word in words):
        return []
    sources = _values("--data.source", words)
    images = bool(sources) and holds_images(DataOptions(sources[-1]))
    return [f"--model=diffeo.{'ImageRealNVP' if images else 'RealNVP'}"]


def _check_classes(words: list[str]) -> None:
    """Refuse files of settings that name a class which the user neither typed nor trusts."""
    typed = {value for option, value in _pairs(words) if option.startswith("--model")}
    trusted = None if "--trust" in words else typed
    for option, value in _pairs(words):
        section = option.removeprefix("--").partition(".")[0]
        if option == "--config" and (Path(value).exists() or ":" not in value):
            check_settings(value, None, trusted)  # else settings, typed in place of a file
        elif section in ("model", "optimizer", "trainer") and Path(value).is_file():
            check_settings(value, section, trusted)  # jsonargparse may read it
    own = [name for name in typed - known_classes() if name.replace(".", "_").isidentifier()]
    if trusted is None or any("." in name for name in own):
        # The user's own class lies where the user is; otherwise nothing is imported from there.
        sys.path.append(str(Path.cwd()))


def _values(option: str, words: list[str]) -> list[str]:
    """All values that the user gave to an option."""
    return [value for name, value in _pairs(words) if name == option]


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    """Each option with its value, or with the word that follows."""
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            yield name, value if equals else following

"""`diffeo train`."""

import functools
import itertools
import os
import sys
from argparse import SUPPRESS
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from diffeo import bases, bijections, models, networks  # noqa: F401, so that names are found
from diffeo.cli.parser import Parser, add_short
from diffeo.cli.settings import check_settings
from diffeo.data import DataOptions, holds_images
from diffeo.flow import Flow
from diffeo.run import presets, train
from diffeo.training.options import OptimizerOptions, TrainerOptions
from diffeo.utils.console import PlainConsole
from diffeo.utils.machine import Precision
from diffeo.utils.ranges import Seed

FILES = ("--model", "--optimizer", "--trainer")  # jsonargparse would read files that they name
SHORT = ("device", "compile", "detect_anomaly")  # options of the trainer
# Of version 0.1.0.
GONE = {
    "--model.coupling": "write --model.univariate Additive, or Affine",
    "--model.bound": "write --model.univariate Affine --model.univariate.bound NUMBER",
    "--model.num_classes": "write --data.context label",
    "--model.context_features": "name the columns by --data.context",
    "--data.delimiter": "it is found in the first lines of a file",
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
    seed: Seed = 0,
    precision: Precision = "auto",
    optimizer: OptimizerOptions,
    trainer: TrainerOptions,
) -> None:
    """Train a flow and fill a run folder.

    Examples: `diffeo train`, `diffeo train --data my.csv --data.columns height,weight`,
    `diffeo train --model NICE --model.layers 6`, `diffeo train --data images/ --data.size 32`,
    `diffeo train --preset mnist-cpu --data mnist/`, `diffeo train --resume runs/moons`.

    Args:
        model: A model of diffeo's, or a class of your own, mypackage.MyFlow; by default MixedFlow
            for tables, ImageRealNVP for images, and RealNVP for points that are drawn here. Its
            arguments are options, such as --model.layers 6 or --model.univariate NAME; `diffeo
            train --model.help NAME` lists them.
        out: The run folder; by default runs/NAME of the data.
        resume: A run folder to continue.
        seed: The seed of the first weights and of the batches.
        precision: The precision of the networks in training, float32 or bf16 (bfloat16); auto is
            bf16 for images if the processor has it, and otherwise float32. Validation and the
            saved model are float32.
    """
    if resume is not None and out is not None:
        raise ValueError(f"--resume goes on in {resume}: leave --out {out} out.")
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
    preset = (
        f"Tested settings, one of {', '.join(presets.names())}; options after it override them."
    )
    config = "A YAML file of these options; if it names classes of others, --trust must be given."
    trust = "Import the classes that --config or the run of --resume names: this runs their code."
    parser.add_argument("--preset", help=preset)
    parser.add_argument("--config", action="config", help=config)
    parser.add_argument("--trust", action="store_true", help=trust)
    actions = parser._option_string_actions
    actions["--data"].help, actions["--data"].metavar = "The same as --data.source.", "SOURCE"
    actions["--optimizer"].help = actions["--trainer"].help = SUPPRESS
    add_short(parser, "trainer", *SHORT)
    add_short(parser, "data", "kinds")


def expand(words: list[str]) -> list[str]:
    """Replace `--preset NAME` by its file, and `--resume FOLDER` by the settings of that run.

    Raises:
        ValueError: if there is no such preset or run, or a file names a class that is not trusted.
    """
    options = []
    for name, value in _options(words):
        if name == "--preset":  # in the same place, since options that follow override it
            name, value = "--config", str(presets.find(value or ""))
        elif name == "--data":
            name = "--data.source"
        elif name == "--detect_anomaly" and value is None:
            value = "true"
        options.append((name, value))
    given = dict(options)
    if folder := given.get("--resume"):
        config = f"{folder}/config.yaml"
        if not Path(config).is_file():
            raise ValueError(
                f"{folder} holds no run to resume, {config} is missing: start one by --out "
                f"{folder}."
            )
        options.insert(0, ("--config", config))
    elif given.keys().isdisjoint({"--model", "--config"}):
        options[:0] = _default_model(given)
    _check_classes(options, trusted="--trust" in given)
    return [name if value is None else f"{name}={value}" for name, value in options]


def _options(words: list[str]) -> Iterator[tuple[str, str | None]]:
    """Each option with its value; None where it has none, and for a word that is no option."""
    rest = iter(itertools.zip_longest(words, words[1:], fillvalue="--"))
    for word, following in rest:
        name, equals, value = word.partition("=")
        if equals:
            yield name, value
        elif (
            word.startswith("--")
            and word not in ("--trust", "--help")
            and not following.startswith("--")
        ):
            next(rest)
            yield word, following
        else:
            yield word, None


def _default_model(given: dict[str, str | None]) -> list[tuple[str, str | None]]:
    """The model's class, if there are arguments of it: the parser must know whose they are."""
    if not any(name.startswith("--model.") for name in given):
        return []
    source = given.get("--data.source")
    images = source is not None and holds_images(DataOptions(source))
    return [("--model", f"diffeo.{'ImageRealNVP' if images else 'RealNVP'}")]


def _check_classes(options: list[tuple[str, str | None]], trusted: bool) -> None:
    """Refuse files of settings that name a class which the user neither typed nor trusts."""
    typed = {value for name, value in options if name.startswith("--model") and value}
    for name, value in options:
        if name == "--config":
            check_settings(value or "", None if trusted else typed)
        elif name.startswith(FILES) and os.path.isfile(value or ""):  # noqa: PTH113, of any text
            raise ValueError(f"{name} is the file {value}: name files of settings by --config.")
    own = [name for name in typed if "." in name and name.replace(".", "_").isidentifier()]
    if trusted or any(not name.startswith("diffeo.") for name in own):
        # The user's own class lies where the user is; otherwise nothing is imported from there.
        sys.path.append(str(Path.cwd()))

"""The command line: `diffeo train | eval | sample | score | plot`."""

from __future__ import annotations

import json
import sys
from argparse import SUPPRESS, ArgumentError
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table as RichTable
from torch import Tensor

from diffeo import figures
from diffeo.data import TableOptions, check_writable, stream, write_table
from diffeo.evaluation import SPLITS, Score, evaluate, evaluate_rows, log_probs
from diffeo.flow import Flow
from diffeo.run import FigureKind, Run, draw, train
from diffeo.training.fit import TrainerOptions, limit_threads
from diffeo.training.module import OptimizerOptions
from diffeo.version import __version__

DESCRIPTION = """Normalizing flows: learn a density from a table, then score, sample and draw it.

Begin with `diffeo train`, which learns two moons, or with `diffeo train --data my.csv`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if all went well, 2 after an error that the user can mend."""
    console = Console()
    try:
        parser = _parser()
        config = parser.parse_args(_prepare(list(sys.argv[1:] if arguments is None else arguments)))
        limit_threads()
        command = config.command
        COMMANDS[command](parser.instantiate(config)[command], console)
    except (ArgumentError, ValueError, OSError, FloatingPointError) as error:
        print(f"diffeo: {_sentence(error)}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("diffeo: stopped; --resume goes on from the last checkpoint.", file=sys.stderr)  # noqa: T201
        return 130
    return 0


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}."
    return " ".join(str(error).split())


# Options ----------------------------------------------------------------------------------------


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="diffeo", description=DESCRIPTION, version=__version__, exit_on_error=False
    )
    commands = parser.add_subcommands(dest="command", required=True)
    for name, add in PARSERS.items():
        sub = ArgumentParser(
            description=add.__doc__, usage=f"diffeo {name} [options]", exit_on_error=False
        )
        add(sub)
        for action in sub._actions:
            # Long options of a group are what people type; its file is for --config.
            if action.option_strings in (["--optimizer"], ["--trainer"]):
                action.help = SUPPRESS
            if action.option_strings == ["--data"] and name == "train":
                action.metavar, action.help = "SOURCE", "The same as --data.source."
        commands.add_subcommand(name, sub, help=(add.__doc__ or "").splitlines()[0])
    return parser


def _prepare(arguments: list[str]) -> list[str]:
    """Bring the short forms that people type to the long ones that the parser knows.

    `--data X` is `--data.source X`; lists of columns are written with commas; `--resume FOLDER`
    takes all other settings from there; and the default model is named, so that its own defaults
    are no one else's.
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
        if name in {"--data.columns", "--data.context"}:
            value = value if equals else next(words, "")
            columns = value if value.startswith("[") else json.dumps(value.split(","))
            result.append(f"{name}={columns}")
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
            raise ValueError(f"{folder} holds no run to resume: {config} is missing.")
        return ["--config", str(config), *arguments]
    given = any(a.split("=")[0] in {"--model", "--config", "--help", "-h"} for a in arguments)
    return arguments if given else ["--model", "diffeo.RealNVP", *arguments]


def _value_of(option: str, arguments: list[str]) -> str | None:
    for i, word in enumerate(arguments):
        if word == option and i + 1 < len(arguments):
            return arguments[i + 1]
        if word.startswith(option + "="):
            return word.partition("=")[2]
    return None


def _train_options(parser: ArgumentParser) -> None:
    """Train a flow and fill a run folder.

    Examples: `diffeo train`, `diffeo train --data my.csv --data.columns height,weight`,
    `diffeo train --model NICE --model.layers 6`, `diffeo train --resume runs/moons`.
    """
    parser.add_argument("--config", action="config", help="A YAML file of these options.")
    parser.add_argument(
        "--model",
        type=Callable[[int], Flow],
        default={"class_path": "diffeo.RealNVP"},
        help="NICE, RealNVP, or a class of your own: mypackage.MyFlow.",
    )
    parser.add_class_arguments(TableOptions, "data")
    parser.add_argument(
        "--out", type=str | None, help="The run folder; by default runs/NAME of the data."
    )
    parser.add_argument("--resume", type=str | None, help="A run folder to go on with.")
    parser.add_argument("--seed", type=int, default=0, help="Of first weights and batches.")
    parser.add_class_arguments(OptimizerOptions, "optimizer")
    parser.add_class_arguments(TrainerOptions, "trainer")


def _run_options(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=str, help="A run folder, a model folder, or owner/name.")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="Import the model's class even if it is none of diffeo's: it runs its code.",
    )


def _delimiter_option(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--delimiter",
        type=str | None,
        help="The character between the values of a CSV file; a comma by default.",
    )


def _eval_options(parser: ArgumentParser) -> None:
    """Print the mean negative log-likelihood of each split, or of other rows, in nats."""
    _run_options(parser)
    parser.add_argument("--data", type=str | None, help="Other rows with the same columns.")
    _delimiter_option(parser)


def _sample_options(parser: ArgumentParser) -> None:
    """Draw rows from the model into a table, or a picture of them."""
    _run_options(parser)
    parser.add_argument("-n", "--num", type=int, default=1000, help="How many rows.")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="Below 1 for more typical rows."
    )
    parser.add_argument("--seed", type=int | None, help="The same seed draws the same rows.")
    parser.add_argument(
        "--context", type=str | None, help="Context of all rows, name=value,name=value."
    )
    parser.add_argument(
        "--out", type=str, default="samples.csv", help=".csv .parquet .npy .npz .png"
    )


def _score_options(parser: ArgumentParser) -> None:
    """Write the log-likelihood of each row of a table, in nats."""
    _run_options(parser)
    parser.add_argument("--data", type=str, required=True, help="The rows to score.")
    _delimiter_option(parser)
    parser.add_argument("--out", type=str, default="scores.csv", help=".csv .parquet .npy .npz")


def _plot_options(parser: ArgumentParser) -> None:
    """Draw a model and its data."""
    _run_options(parser)
    parser.add_argument(
        "--kind", type=FigureKind | None, help="By default panels for 2 columns, else corner."
    )
    parser.add_argument("--out", type=str, default="plot.png", help="A .png, .pdf or .svg file.")


PARSERS: dict[str, Callable[[ArgumentParser], None]] = {
    "train": _train_options,
    "eval": _eval_options,
    "sample": _sample_options,
    "score": _score_options,
    "plot": _plot_options,
}

# Commands ---------------------------------------------------------------------------------------


def _train(options: Namespace, console: Console) -> None:
    train(
        options.model,
        options.data,
        options.resume or options.out,
        seed=options.seed,
        optimizer=options.optimizer,
        trainer=options.trainer,
        resume=options.resume is not None,
        console=console,
    )


def _eval(options: Namespace, console: Console) -> None:
    run = Run(options.run, trust=options.trust)
    if options.data is None:
        table = run.table()
        scores = {name: evaluate(run.flow, table, name) for name in SPLITS}
    else:
        rows = stream(options.data, run.columns, run.context_columns, delimiter=options.delimiter)
        scores = {options.data: evaluate_rows(run.flow, rows)}
    console.print(_score_table(scores))


def _score_table(scores: dict[str, Score]) -> RichTable:
    table = RichTable("split", "rows", "NLL, nats", "± s.e.", "standardized", "floor", "gap")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, score in scores.items():
        numbers = (score.nll, score.stderr, score.standardized, score.floor, score.gap)
        cells = ["" if number is None else f"{number:.4f}" for number in numbers]
        table.add_row(name, f"{score.rows:,}", *cells)
    return table


def _sample(options: Namespace, console: Console) -> None:
    if options.num < 1:
        raise ValueError(f"-n is {options.num}: ask for at least one row.")
    out = Path(options.out)
    run = Run(options.run, trust=options.trust)
    context = _context(options, run)
    if out.suffix == ".png":
        rows = run.table().train.x
        samples = run.sample(
            options.num, context=context, temperature=options.temperature, seed=options.seed
        )
        figures.save(figures.corner(rows, samples, run.columns), out)
    else:
        check_writable(out)
        parts = run.stream_samples(options.num, context, options.temperature, options.seed)
        write_table(out, run.columns + run.context_columns, _with_context(parts, context))
    console.print(f"{options.num:,} rows written to {out}.", highlight=False, soft_wrap=True)


def _with_context(parts: Iterator[Tensor], context: Tensor | None) -> Iterator[Any]:
    start = 0
    for part in parts:
        if context is None:
            yield part.numpy()
        else:
            rows = context[start : start + len(part)] if len(context) > 1 else context
            yield torch.cat((part, rows.expand(len(part), -1)), dim=1).numpy()
        start += len(part)


def _context(options: Namespace, run: Run) -> Tensor | None:
    """What the user gave, or else rows drawn from the training split."""
    names = run.context_columns
    if not names:
        if options.context:
            raise ValueError(f"{options.run} takes no context: leave --context out.")
        return None
    if options.context is None:
        rows = run.table().train.context
        assert rows is not None
        generator = torch.Generator()
        generator.seed() if options.seed is None else generator.manual_seed(options.seed + 1)
        return rows[torch.randint(len(rows), (options.num,), generator=generator)]
    try:
        pairs = dict(pair.split("=") for pair in options.context.split(","))
        values = {name.strip(): float(value) for name, value in pairs.items()}
    except ValueError:
        values = {}
    if set(values) != set(names):
        wanted = ",".join(f"{name}=VALUE" for name in names)
        raise ValueError(f"--context is {options.context!r}: give {wanted}.")
    return torch.tensor([[values[name] for name in names]])


def _score(options: Namespace, console: Console) -> None:
    out = check_writable(options.out)
    run = Run(options.run, trust=options.trust)
    rows = stream(options.data, run.columns, run.context_columns, delimiter=options.delimiter)
    count = 0

    def scores() -> Iterator[Any]:
        nonlocal count
        for part in log_probs(run.flow, rows):
            count += len(part)
            yield part[:, None].numpy()

    write_table(out, ["log_prob"], scores())
    console.print(f"{count:,} scores written to {out}.", highlight=False, soft_wrap=True)


def _plot(options: Namespace, console: Console) -> None:
    out = Path(options.out)
    if out.suffix not in {".png", ".pdf", ".svg"}:
        raise ValueError(f"{out} is no picture: its name has to end in .png, .pdf or .svg.")
    run = Run(options.run, trust=options.trust)
    kind: FigureKind = options.kind or ("panels" if run.flow.shape == (2,) else "corner")
    figures.save(draw(run, run.table(), kind), out)
    console.print(f"Drawn into {out}.", highlight=False, soft_wrap=True)


COMMANDS: dict[str, Callable[[Namespace, Console], None]] = {
    "train": _train,
    "eval": _eval,
    "sample": _sample,
    "score": _score,
    "plot": _plot,
}

if __name__ == "__main__":
    sys.exit(main())

"""What each command does."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from jsonargparse import Namespace
from rich.console import Console
from rich.table import Table as RichTable

from diffeo.cli import parts, pictures, shares, tables
from diffeo.cli.common import (
    chosen_images,
    figure_file,
    first_images,
    open_images,
    open_run,
)
from diffeo.cli.options import make_parser
from diffeo.cli.shorthand import spell_out
from diffeo.data import SPLITS
from diffeo.evaluation.likelihood import Score, evaluate
from diffeo.run import Run
from diffeo.training.options import limit_threads
from diffeo.utils.console import PlainConsole

Command = Callable[[Namespace, Console], None]


def _train(options: Namespace, console: Console) -> None:
    from diffeo.run import train  # by Lightning, which others do not need

    train(
        options.model,
        options.data,
        options.resume or options.out,
        seed=options.seed,
        precision=options.precision,
        optimizer=options.optimizer,
        trainer=options.trainer,
        resume=options.resume is not None,
        console=console,
    )


def _eval(options: Namespace, console: Console) -> None:
    run = open_run(options)
    if options.data is None:
        data = run.data()
        scores = {name: evaluate(run.flow, data, name, options.samples) for name in SPLITS}
    else:
        scores = {options.data: _kind(run).evaluate(options, run)}
    console.print(_score_table(scores))


def _score_table(scores: dict[str, Score]) -> RichTable:
    first, *_ = scores.values()
    names = ["NLL, nats", "± s.e.", "standardized", "floor", "gap"]
    if first.bits_per_dim is not None:
        names = ["bits/dim", "± s.e.", "NLL, nats", "± s.e."]
    title = None
    if first.samples > 1:
        title = f"importance-weighted bound, {first.samples} samples"
    table = RichTable("split", "pictures" if first.bits_per_dim else "rows", *names, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, score in scores.items():
        numbers: tuple[float | None, ...] = (score.nll, score.stderr)
        if score.bits_per_dim is None:
            numbers += (score.standardized, score.floor, score.gap)
        else:
            numbers = (score.bits_per_dim, score.bits_stderr, *numbers)
        cells = ["" if number is None else f"{number:.4f}" for number in numbers]
        table.add_row(name, f"{score.rows:,}", *cells)
    return table


def _sample(options: Namespace, console: Console) -> None:
    if options.num is not None and options.num < 1:
        raise ValueError(f"-n is {options.num}: ask for at least one.")
    run = open_run(options)
    (parts if parts.samples_wanted(options, run) else _kind(run)).sample(options, run, console)


def _score(options: Namespace, console: Console) -> None:
    run = open_run(options)
    (parts if parts.scores_wanted(options) else _kind(run)).score(options, run, console)


def _plot(options: Namespace, console: Console) -> None:
    from diffeo.run.drawing import draw, kinds_for

    out = figure_file(options.out)
    run = open_run(options)
    data = run.data()
    draw(run, data, options.kind or kinds_for(data)[0], out)
    console.print(f"Drawn into {out}.", highlight=False, soft_wrap=True)


def _reconstruct(options: Namespace, console: Console) -> None:
    from diffeo import figures

    out = figure_file(options.out)
    run = open_images(options)
    x, context = first_images(chosen_images(options, run), options.num)
    figures.save(figures.reconstructions(run.flow, x, context), out)
    console.print(f"Drawn into {out}.", highlight=False, soft_wrap=True)


def _export(options: Namespace, console: Console) -> None:
    from diffeo.cli.export import export  # by torch.export, which takes seconds to import

    export(options, console)


def _explore(options: Namespace, console: Console) -> None:
    from diffeo.cli.explore import explore

    explore(options, console)


def _moving(name: str) -> Command:
    """A command of `latents`, which draws with matplotlib: imported when it is called."""

    def command(options: Namespace, console: Console) -> None:
        from diffeo.cli import latents

        getattr(latents, name)(options, console)

    return command


def _kind(run: Run) -> ModuleType:
    """Where the commands are that differ between tables and pictures."""
    return pictures if run.flow.takes_pixels else tables


COMMANDS: dict[str, Command] = {
    "train": _train,
    "eval": _eval,
    "sample": _sample,
    "score": _score,
    "plot": _plot,
    "reconstruct": _reconstruct,
    "export": _export,
    "interpolate": _moving("interpolate"),
    "edit": _moving("edit"),
    "directions": _moving("directions"),
    "levels": _moving("levels"),
    "share": shares.share,
    "explore": _explore,
}


def run_command(given: list[str]) -> None:
    """Carry out one command line: the name of a command, and what it takes."""
    name, *_ = given
    parser = make_parser(name)
    options = parser.parse_args(spell_out(given))
    limit_threads()
    COMMANDS[name](parser.instantiate(options)[name], PlainConsole())

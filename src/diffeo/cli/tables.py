"""Scoring and sampling rows of tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from rich.console import Console

from diffeo.cli.common import reference, say_unlabelled
from diffeo.cli.contexts import sample_context
from diffeo.data import Table, check_writable, stream, write_table
from diffeo.evaluation.likelihood import Batch, Score, evaluate_batches
from diffeo.evaluation.scores import column_names, row_scores
from diffeo.run import Run
from diffeo.scale.sampling import with_context

ROWS = 1_000


def evaluate(options: Namespace, run: Run) -> Score:
    """The score of the rows of `--data`."""
    rows = stream(options.data, run.columns, run.context_columns, delimiter=options.delimiter)
    return evaluate_batches(run.flow, rows, options.samples)


def score(options: Namespace, run: Run, console: Console) -> None:
    """Write the log-likelihood of each row of `--data`, and the score of `--kind`."""
    if Path(options.data).is_dir():
        raise ValueError(f"{options.data} is a folder: name one for its scores by --out.")
    out = check_writable(options.out)
    usual = reference(options, run, lambda source: _stream(options, run, source))
    rows = _stream(options, run, options.data, console)
    count = 0

    def counted() -> Iterator[Any]:
        nonlocal count
        for batch in row_scores(run.flow, rows, options.kind, usual):
            count += len(batch)
            yield batch

    write_table(out, column_names(options.kind), counted())
    console.print(f"{count:,} scores written to {out}.", highlight=False, soft_wrap=True)


def sample(options: Namespace, run: Run, console: Console) -> None:
    """Write rows, or draw them beside the training rows."""
    count = options.num or ROWS
    out = Path(options.out or "samples.csv")
    if options.temperatures is not None:
        raise ValueError("--temperatures draws pictures: give a table one --temperature.")
    context = sample_context(options, run, count)
    if out.suffix == ".png":
        from diffeo import figures

        rows = _table(run).train.x
        samples = run.sample(
            count, context=context, temperature=options.temperature, seed=options.seed
        )
        figures.save(figures.corner(rows, samples, run.columns), out)
    else:
        check_writable(out)
        parts = run.stream_samples(count, context, options.temperature, options.seed)
        write_table(out, run.columns + run.context_columns, with_context(parts, context))
    console.print(f"{count:,} rows written to {out}.", highlight=False, soft_wrap=True)


def _stream(
    options: Namespace, run: Run, source: str, console: Console | None = None
) -> Iterator[Batch]:
    """The rows of a source; without context, and the console says so, where no class is told."""
    if run.lacks_class(source, options.delimiter):
        say_unlabelled(source, run, console)
    return run.rows(source, unlabelled=True, delimiter=options.delimiter)


def _table(run: Run) -> Table:
    table = run.data()
    assert isinstance(table, Table)
    return table

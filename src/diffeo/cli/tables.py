"""Scoring and sampling rows of tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from rich.console import Console
from torch import Tensor

from diffeo import figures
from diffeo.cli.common import reference, say_unlabelled
from diffeo.cli.contexts import sample_context
from diffeo.data import Table, TableOptions, check_writable, stream, write_table
from diffeo.data.options import open_options
from diffeo.evaluation import Batch, Score, class_count, evaluate_batches
from diffeo.run import Run
from diffeo.scores import scores

ROWS = 1_000


def evaluate(options: Namespace, run: Run) -> Score:
    """The score of the rows of `--data`."""
    rows = stream(options.data, run.columns, run.context_columns, delimiter=options.delimiter)
    return evaluate_batches(run.flow, rows, options.samples)


def score(options: Namespace, run: Run, console: Console) -> None:
    """Write the log-likelihood of each row of `--data`, and the score of `--kind`."""
    out = check_writable(options.out)
    usual = reference(options, run, lambda source: _stream(options, run, source))
    rows = _stream(options, run, options.data, console)
    names = list(dict.fromkeys(("log_prob", options.kind)))
    count = 0

    def columns() -> Iterator[Any]:
        nonlocal count
        for log_prob, score in scores(run.flow, rows, options.kind, usual):
            count += len(score)
            yield torch.stack((log_prob, score)[: len(names)], dim=1).numpy()

    write_table(out, names, columns())
    console.print(f"{count:,} scores written to {out}.", highlight=False, soft_wrap=True)


def sample(options: Namespace, run: Run, console: Console) -> None:
    """Write rows, or draw them beside the training rows."""
    count = options.num or ROWS
    out = Path(options.out or "samples.csv")
    if options.temperatures is not None:
        raise ValueError("--temperatures draws pictures: give a table one --temperature.")
    context = sample_context(options, run, count)
    if out.suffix == ".png":
        rows = _table(run).train.x
        samples = run.sample(
            count, context=context, temperature=options.temperature, seed=options.seed
        )
        figures.save(figures.corner(rows, samples, run.columns), out)
    else:
        check_writable(out)
        parts = run.stream_samples(count, context, options.temperature, options.seed)
        write_table(out, run.columns + run.context_columns, _with_context(parts, context))
    console.print(f"{count:,} rows written to {out}.", highlight=False, soft_wrap=True)


def _stream(
    options: Namespace, run: Run, source: str, console: Console | None = None
) -> Iterator[Batch]:
    """The rows of a source; without context, and the console says so, where no class is told."""
    context = run.context_columns
    if class_count(run.flow):
        found = open_options(TableOptions(source), options.delimiter)
        # Columns without names are known by how many they are.
        if found.named:
            told = not {*context}.isdisjoint(found.columns)
        else:
            told = len(found.columns) != len(run.columns)
        if not told:
            context = []
            say_unlabelled(source, run, console)
    return stream(source, run.columns, context, delimiter=options.delimiter)


def _table(run: Run) -> Table:
    table = run.data()
    assert isinstance(table, Table)
    return table


def _with_context(parts: Iterator[Tensor], context: Tensor | None) -> Iterator[Any]:
    start = 0
    for part in parts:
        if context is None:
            yield part.numpy()
        else:
            rows = context[start : start + len(part)] if len(context) > 1 else context
            yield torch.cat((part, rows.expand(len(part), -1)), dim=1).numpy()
        start += len(part)

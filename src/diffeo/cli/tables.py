"""Scoring and sampling rows of tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from rich.console import Console
from torch import Tensor

from diffeo.cli.contexts import sample_context
from diffeo.data import Table, check_writable, stream, write_table
from diffeo.evaluation import Batch, Score, evaluate_batches, log_probs
from diffeo.run import Run

ROWS = 1_000


def evaluate(options: Namespace, run: Run) -> Score:
    """The score of the rows of `--data`."""
    return evaluate_batches(run.flow, _stream(options, run), options.samples)


def score(options: Namespace, run: Run, console: Console) -> None:
    """Write the log-likelihood of each row of `--data`."""
    out = check_writable(options.out)
    rows = _stream(options, run)
    count = 0

    def scores() -> Iterator[Any]:
        nonlocal count
        for part in log_probs(run.flow, rows):
            count += len(part)
            yield part[:, None].numpy()

    write_table(out, ["log_prob"], scores())
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
        write_table(out, run.columns + run.context_columns, _with_context(parts, context))
    console.print(f"{count:,} rows written to {out}.", highlight=False, soft_wrap=True)


def _stream(options: Namespace, run: Run) -> Iterator[Batch]:
    return stream(options.data, run.columns, run.context_columns, delimiter=options.delimiter)


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

"""Learn a table of mixed columns, and fill a run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from diffeo.data import DataOptions, Table, holds_images, load_data, load_mixed, read_frame
from diffeo.data.files import listing
from diffeo.data.tables.describing import schema_table
from diffeo.data.tables.mixed import as_conditions
from diffeo.data.tables.synthetic import GENERATORS
from diffeo.models.mixed import MixedFlow
from diffeo.run import claim
from diffeo.schema import Schema
from diffeo.training.mixed import Settings, fit_mixed, threads_for
from diffeo.training.observers import MetricsFile
from diffeo.training.options import OptimizerOptions, TrainerOptions

FEW_ROWS = 50  # below which not even mixtures learn much
USED = {"device", "temperature"}  # options of the trainer that this model has too


def learns_mixed(model: Any, options: DataOptions) -> bool:
    """Whether a MixedFlow learns these data: where it is asked for, and by default all tables.

    Those that are drawn here have two columns of plain numbers, which the default flow learns.
    """
    if model is None:
        return options.source not in GENERATORS and not holds_images(options)
    return getattr(model, "func", model) is MixedFlow


def train_mixed(
    model: Any,
    options: DataOptions,
    out: str | os.PathLike[str] | None,
    settings: dict[str, Any],
    *,
    resume: bool,
    console: Console,
) -> tuple[Path, Table, float]:
    """Learn the table, and write the settings and the model into the run folder.

    Args:
        settings: of the run, but for the model.

    Returns:
        The folder, the table, and the seconds that learning took.

    Raises:
        ValueError: if something cannot be used; nothing is written then.
    """
    _check(model, options, settings)
    table = load_data(options, console, load_mixed)
    if not isinstance(table, Table) or table.schema is None:
        raise ValueError(
            f"{options.source} holds images, which MixedFlow does not model: choose another model "
            "by --model."
        )
    folder = Path(out) if out is not None else claim.free_folder(table.name)
    with contextlib.ExitStack() as held:
        held.enter_context(claim.one_sentence(folder))
        if resume:
            claim.check_resumed(folder, options, settings["model"])
            if (folder / "model").is_dir():
                raise ValueError(
                    f"{folder} is trained, and a MixedFlow learns no further: start a new run by "
                    "--out."
                )
        else:
            claim.check_free(folder)
        held.enter_context(claim.locked(folder))
        claim.write_settings(folder, settings)
        _introduce(table, console)
        start = time.perf_counter()
        context = table.train.context
        if context is not None and table.conditions is not None:
            context = as_conditions(table.conditions, context)
        with console.status(f"learning {table.name}"), threads_for(len(table.train.x)):
            flow = fit_mixed(
                table.schema,
                table.train.x,
                conditions=table.conditions,
                context=context,
                weights=table.train.weights,
                seed=settings["seed"],
                settings=Settings(
                    device=settings["trainer"]["device"],
                    observers=[MetricsFile(folder / "metrics.csv")],
                ),
            ).flow
        seconds = time.perf_counter() - start
        for name, others in flow.rules.items():
            line = f"{name} nearly follows from {listing(others)}, and is learned so."
            console.print(line, highlight=False, soft_wrap=True)
        flow.metadata = {"data": table.name, "columns": table.columns}
        if options.weights is not None:
            flow.metadata["weights"] = options.weights
        if form := options.form():
            flow.metadata["form"] = form
        flow.save_pretrained(folder / "model")
    return folder, table, seconds


def _check(model: Any, options: DataOptions, settings: dict[str, Any]) -> None:
    """Refuse options that a MixedFlow does not have."""
    keywords = getattr(model, "keywords", {}).items()
    given = [f"--model.{name}" for name, value in keywords if value is not None]
    usual = {
        "optimizer": dataclasses.asdict(OptimizerOptions()),
        "trainer": dataclasses.asdict(TrainerOptions()),
    }
    for section, defaults in usual.items():
        for name, value in defaults.items():
            if settings[section][name] != value and name not in USED:
                given.append(f"--{section}.{name}")
    if settings["precision"] != "auto":
        given.append("--precision")
    what = "MixedFlow, the default model of a table," if model is None else "MixedFlow"
    if given:
        raise ValueError(
            f"{what} has no {given[0]}: leave it out, or choose another model, such as --model "
            "RealNVP."
        )
    if options.dequantize:
        raise ValueError(
            f"{what} has probabilities of values that repeat: leave --data.dequantize out, or "
            "choose another model, such as --model RealNVP."
        )


def _introduce(table: Table, console: Console) -> None:
    """Print what the columns are, and what is learned from how many rows."""
    assert table.schema is not None
    given = () if table.conditions is None else table.conditions.columns
    everything = Schema((*given, *table.schema.columns))
    console.print(schema_table(everything, read_frame(table.options), f"columns of {table.name}"))
    lines = [*table.notes, *_lines(table)]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _lines(table: Table) -> Iterator[str]:
    rows = len(table.train)
    if rows < FEW_ROWS:
        yield (
            f"{table.name} has only {rows} rows to learn from: mind the standard error of what is "
            "found."
        )
    what = f"{table.features} column{'s' * (table.features > 1)} of {table.name}"
    if table.conditions is not None:
        what += f" given {listing(column.name for column in table.conditions.modelled)}"
    yield (
        f"MixedFlow learns {what} from {rows:,} rows ({len(table.val):,} to validate, "
        f"{len(table.test):,} to test)."
    )

"""What commands about mixed tables share: their model, their rows, and names with values."""

from __future__ import annotations

import csv
from typing import Any

from diffeo.data.tables.opening import TableOptions
from diffeo.data.tables.reading import read_frame
from diffeo.models.mixed import MixedFlow
from diffeo.run import Run


def table_model(run: Run) -> MixedFlow:
    """The model of a run, which has to be one of a mixed table.

    Raises:
        ValueError: if it is another one.
    """
    if not isinstance(run.flow, MixedFlow):
        raise ValueError(
            f"{run.folder} is a {type(run.flow).__name__}, which answers no questions about "
            "columns: train a MixedFlow."
        )
    return run.flow.double()


def table_frame(run: Run, source: str) -> Any:
    """All rows of another table, with their cells as they stand in it."""
    return read_frame(TableOptions(source, **run.form))


def split_pairs(text: str | None) -> dict[str, str | None]:
    """Names and values of COLUMN=VALUE,COLUMN=VALUE; quotes protect commas, "" is an empty cell.

    Raises:
        ValueError: where there is no =, or a name twice.
    """
    found: dict[str, str | None] = {}
    for pair in next(csv.reader([text or ""], skipinitialspace=True), []):
        name, equals, value = pair.partition("=")
        name = name.strip()
        if not equals:
            raise ValueError(f"--given has '{pair}': write COLUMN=VALUE, with commas between them.")
        if name in found:
            raise ValueError(f"--given names the column '{name}' twice: leave one out.")
        found[name] = value.strip() or None
    return found

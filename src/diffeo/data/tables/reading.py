"""A whole table as a DataFrame, each column with its type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diffeo.data.tables.opening import TableOptions, open_table
from diffeo.data.tables.source import Source

FRAME_ROWS = 2**23  # at once; the limit on values of a chunk makes them fewer


def read_frame(options: TableOptions) -> Any:
    """The columns of a source as a pandas DataFrame: numbers, text, dates and gaps as they are.

    Labels of generators and bundled tables are left out unless they are chosen as a column or as
    context.

    Args:
        options: the source, how many rows of it, and how its text is written.

    Raises:
        ValueError: as `open_table`, and a table without rows.
    """
    import pandas

    source = open_table(options)
    chosen = {*(options.columns or []), *(options.context or []), options.weights}
    names = [name for name in source.columns if name not in source.labels or name in chosen]
    parts = [*frames(source, names, options.rows)]
    if not parts:
        raise ValueError(f"{source.name} has no rows: there is nothing to learn from")
    columns = {name: _join([part.pop(name) for part in parts]) for name in names}
    return pandas.DataFrame(columns)


def frames(
    source: Source, names: list[str], rows: int | None = None, most: int = FRAME_ROWS
) -> Iterator[Any]:
    """DataFrames of some columns of the first rows, one after another, of at most so many rows."""
    import pandas

    if source.frames is None:
        for _, chunk in source.chunks(names, rows, most):
            yield pandas.DataFrame(chunk)
        return
    done = 0
    for frame in source.frames(most if rows is None else min(rows, most)):
        frame = frame if rows is None else frame.head(rows - done)
        done += len(frame)
        if len(frame):
            yield frame[names]
        if done == rows:
            return


def _join(parts: list[Any]) -> Any:
    """The parts of a column as one, of the plainest type; of numbers and text both, as text."""
    import pandas

    kinds = {part.dtype.kind in "OUT" or str(part.dtype).startswith("str") for part in parts}
    if len(kinds) > 1:
        parts = [part if part.dtype.kind == "O" else part.astype("string") for part in parts]
    column = parts[0] if len(parts) == 1 else pandas.concat(parts, ignore_index=True)
    dtype = str(column.dtype)
    if dtype in ("Float64", "Float32"):
        return column.astype(dtype.lower())
    if dtype in ("Int64", "boolean") and not column.isna().any():
        return column.astype("int64" if dtype == "Int64" else "bool")
    if dtype.startswith("string"):
        return column.astype(pandas.Series(["a"]).dtype)
    return column

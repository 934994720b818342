"""`diffeo explain`."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from diffeo.cli.tables import table_frame, table_model
from diffeo.data import check_writable, write_columns
from diffeo.run import Run
from diffeo.utils.ranges import Proportion, Whole


def main(
    run: Run, *, data: str, out: str | None = None, top: Whole = 10, level: Proportion = 0.9
) -> Iterator[Any]:
    """Show which cells of a table are odd given the others of their rows.

    Args:
        data: The rows to explain.
        out: A .csv or .parquet file with all cells; by default none is written.
        top: How many of the oddest cells are shown.
        level: The probability of the interval of what was expected.
    """
    from diffeo.answers import explain
    from diffeo.answers.explaining import texts

    flow = table_model(run)
    file = None if out is None else check_writable(out)
    found = explain(flow, table_frame(run, data), level=level)
    found["row"] += 1
    oddest = found.sort_values("surprise", ascending=False, kind="stable").head(top)
    table = Table(title=f"The oddest cells of {data}", title_justify="left", box=None)
    for name in ("row", "column", "value", "surprise", "expected", f"{level:.0%} interval"):
        table.add_column(name, justify="right" if name in ("row", "surprise") else "left")
    for line in oddest.itertuples():
        table.add_row(*texts(flow.schema, line))
    if top:
        yield table
    if file is not None:
        columns = {}
        for name in found.columns:
            text = found[name].dtype == object
            columns[name] = found[name].map(_written) if text else found[name]
        write_columns(file, columns)
        yield f"{len(found):,} cells written to {file}."


def _written(value: Any) -> str:
    import pandas

    return "" if value is None or pandas.isna(value) else str(value)

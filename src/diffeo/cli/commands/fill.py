"""`diffeo fill`."""

from collections.abc import Iterator

from diffeo.answers.filling import How
from diffeo.cli.tables import table_frame, table_model
from diffeo.data import check_writable, write_columns
from diffeo.run import Run
from diffeo.utils.ranges import Count, Seed


def main(
    run: Run,
    *,
    data: str,
    out: str = "filled.csv",
    how: How = "mean",
    draws: Count = 1,
    seed: Seed = 0,
) -> Iterator[str]:
    """Fill the empty cells of a table by what the other cells of their rows say.

    Args:
        data: The table with gaps.
        out: A .csv or .parquet file. Of several draws, the column `draw` says which one a row is
            of.
        how: mean, of numbers, with the likeliest category; mode, the likeliest values; or draw, at
            random.
        draws: How many tables are drawn, for multiple imputation.
        seed: The same seed draws the same values.
    """
    import pandas

    from diffeo.answers import fill

    flow, file, frame = table_model(run), check_writable(out), table_frame(run, data)
    names = [column.name for column in flow.schema.modelled if column.name in frame]
    gaps = frame[names].isna()
    found = fill(flow, frame, how, draws=draws, seed=seed)
    tables = found if draws > 1 else [found]
    if draws > 1:
        for number, table in enumerate(tables, start=1):
            table.insert(0, "draw", number)
    whole = pandas.concat(tables, ignore_index=True)
    write_columns(file, {str(name): whole[name] for name in whole.columns})
    cells, rows = int(gaps.to_numpy().sum()), int(gaps.any(axis=1).sum())
    yield f"{cells:,} empty cells in {rows:,} rows filled by the {how}, written to {file}."

"""What a user may say about a table, and what it means for the source."""

from __future__ import annotations

from dataclasses import dataclass

from diffeo.data.files import Source, listing, suggestion
from diffeo.data.tables.sources import open_source


@dataclass
class TableOptions:
    """Which table to learn from, and how.

    Args:
        source: A generator (moons, circles, swiss_roll, gaussians), a bundled table (iris, wine,
            breast_cancer, diabetes), a .csv, .parquet, .npy or .npz file, or hf://owner/name.
        columns: The columns to model; by default all that are not context.
        context: The columns that the density is conditional on.
        rows: How many rows a generator draws, or how many of a file's first rows are used.
        noise: The standard deviation of a generator's noise.
        splits: The shares of the rows for training, validation and testing.
        seed: The seed of the generator and of the split.
        dequantize: Whether each value of a column of repeated values is spread over its step.
        delimiter: The character between the values of a CSV file; a comma by default.
    """

    source: str = "moons"
    columns: list[str] | None = None
    context: list[str] | None = None
    rows: int | None = None
    noise: float | None = None
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    dequantize: bool = False
    delimiter: str | None = None


def check_options(options: TableOptions) -> None:
    """Refuses options that are wrong whatever the source holds."""
    splits = options.splits
    if len(splits) != 3 or not all(share > 0 for share in splits) or abs(sum(splits) - 1) > 1e-6:
        raise ValueError(
            f"{options.source}: --data.splits are {list(splits)}: "
            "pass three positive shares that sum to 1, such as [0.8, 0.1, 0.1]"
        )
    if options.columns is not None and not options.columns:
        raise ValueError(f"{options.source}: --data.columns is empty: name at least one column")
    chosen = [*(options.columns or []), *(options.context or [])]
    twice = [name for i, name in enumerate(chosen) if name in chosen[:i]]
    if twice:
        raise ValueError(
            f"{options.source}: column '{twice[0]}' is chosen twice: "
            "name it once, in --data.columns or in --data.context"
        )


def open_options(options: TableOptions, delimiter: str | None = None) -> Source:
    """Opens the source that options name, with the generator's settings or the file's."""
    if options.rows is not None and options.rows < 1:
        raise ValueError(
            f"{options.source}: {options.rows} rows are none: pass a positive --data.rows"
        )
    return open_source(
        options.source,
        rows=options.rows,
        noise=options.noise,
        seed=options.seed,
        delimiter=options.delimiter if delimiter is None else delimiter,
    )


def choose_columns(source: Source, options: TableOptions) -> tuple[list[str], list[str]]:
    """The names of the columns to model and of those that are context."""
    context = list(options.context or [])
    for name in [*(options.columns or []), *context]:
        if name not in source.columns:
            raise ValueError(
                f"{source.name} has no column '{name}'{suggestion(name, source.columns)}: "
                f"it has {listing(source.columns)}"
            )
    if options.columns is not None:
        return list(options.columns), context
    columns = [name for name in source.columns if name not in {*context, *source.labels}]
    if not columns:
        raise ValueError(
            f"{source.name}: all columns are context and none is left to model: "
            "name fewer in --data.context"
        )
    if "" in columns:
        raise ValueError(
            f"{source.name}: column {source.columns.index('') + 1} has no name, as row numbers "
            "written along have none: name it, or choose the others with --data.columns"
        )
    return columns, context

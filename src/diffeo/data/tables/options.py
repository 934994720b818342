"""Options of a table."""

from __future__ import annotations

from dataclasses import dataclass

from diffeo.data.datasets import SourceOptions, check_options


@dataclass
class TableOptions(SourceOptions):
    """Which table to learn from, and how.

    Args:
        source: A generator (moons, circles, swiss_roll, gaussians), a bundled table (iris, wine,
            breast_cancer, diabetes), a .csv, .parquet, .npy or .npz file, or hf://owner/name.
        columns: The columns to model; by default all that are not context.
        noise: The standard deviation of a generator's noise.
        dequantize: Whether each value of a column of repeated values is spread over its step.
        delimiter: The character between the values of a CSV file; a comma by default.
    """

    source: str = "moons"
    columns: list[str] | None = None
    noise: float | None = None
    dequantize: bool = False
    delimiter: str | None = None


def check_table_options(options: TableOptions) -> None:
    """Refuses options that are wrong whatever the source holds."""
    check_options(options)
    if options.columns is not None and not options.columns:
        raise ValueError(f"{options.source}: --data.columns is empty: name at least one column")
    chosen = [*(options.columns or []), *(options.context or [])]
    if twice := [name for i, name in enumerate(chosen) if name in chosen[:i]]:
        raise ValueError(
            f"{options.source}: column '{twice[0]}' is chosen twice: "
            "name it once, in --data.columns or in --data.context"
        )

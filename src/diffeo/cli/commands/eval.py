"""`diffeo eval`."""

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from diffeo.cli.common import open_run, report
from diffeo.data import SPLITS, Batches
from diffeo.evaluation.likelihood import Batch, Score, evaluate, evaluate_batches


def main(
    *,
    data: str | None = None,
    samples: int = 1,
    delimiter: str | None = None,
    **run: Any,
) -> None:
    """Print the mean negative log-likelihood of each split, or of other data.

    The unit is nats for tables, and bits/dim for images.

    Args:
        data: Other rows with the same columns, or other images.
        delimiter: The character between the values of a CSV file; a comma by default.
        samples: How many noisy copies of each image are averaged. More than 1 give the
            importance-weighted bound, which is lower than that of one copy.
    """
    opened = open_run(**run)
    if data is None:
        known = opened.data()
        scores = {split: evaluate(opened.flow, known, split, samples) for split in SPLITS}
    else:
        batches: Iterable[Batch]
        if opened.flow.takes_pixels:
            batches = Batches(opened.gallery(data).images, opened.flow.chunk)
        else:
            batches = opened.rows(data, delimiter=delimiter)
        scores = {data: evaluate_batches(opened.flow, batches, samples)}
    report(_table(scores))


def _table(scores: dict[str, Score]) -> Table:
    first, *_ = scores.values()
    images = first.bits_per_dim is not None
    names = ["NLL, nats", "± s.e.", "standardized", "floor", "gap"]
    if images:
        names = ["bits/dim", "± s.e.", "NLL, nats", "± s.e."]
    title = None
    if first.samples > 1:
        title = f"importance-weighted bound, {first.samples} samples"
    table = Table("split", "images" if images else "rows", *names, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, score in scores.items():
        numbers: tuple[float | None, ...] = (score.nll, score.stderr)
        if images:
            numbers = (score.bits_per_dim, score.bits_stderr, *numbers)
        else:
            numbers += (score.standardized, score.floor, score.gap)
        cells = ["" if number is None else f"{number:.4f}" for number in numbers]
        table.add_row(name, f"{score.rows:,}", *cells)
    return table

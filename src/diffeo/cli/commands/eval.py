"""`diffeo eval`."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.table import Table

from diffeo.cli.quality import check_quality, measure_samples
from diffeo.data import SPLITS, Batches
from diffeo.evaluation.likelihood import Batch, Weighted, evaluate, evaluate_batches, is_exact
from diffeo.run import Run
from diffeo.utils.ranges import Count, NonNegative


def main(
    run: Run,
    *,
    data: str | None = None,
    samples: Count = 1,
    quality: Count | None = None,
    temperature: NonNegative = 1.0,
    guidance: NonNegative = 0.0,
    out: str = "quality.json",
) -> Iterator[Table | str]:
    """Print the mean negative log-likelihood of each split, or of other data.

    The unit is nats for tables, and bits/dim for images.

    With --quality, samples are drawn and compared with training images, as held-out images are: by
    a Fréchet distance, precision and recall, and the nearest training image of each.

    Args:
        data: Other rows with the same columns, or other images.
        samples: How many noisy copies of each image are averaged. More than 1 give the
            importance-weighted bound, which is lower than that of one copy. A model whose
            bits/dim are exact, such as PixelFlow, has none to average.
        quality: How many samples are drawn, such as 1000, to judge how they look; of images.
        temperature: Of these samples.
        guidance: Of these samples (see `diffeo sample`).
        out: A .json file for how they look; a .png of the same name shows the samples that are
            nearest to training images, and these.
    """
    flow, images = run.flow, run.flow.takes_pixels
    if quality is not None:
        check_quality(run, guidance, out)
    if data is None:
        known = run.data()
        scores = {split: evaluate(flow, known, split, samples) for split in SPLITS}
    else:
        if images:
            found = run.gallery(data, unlabelled=True).images
            batches: Iterable[Batch | Weighted] = Batches(found, flow.chunk)
            unlabelled = flow.context.category and found.context is None
        else:
            batches, unlabelled = run.weighted_rows(data), run.lacks_class(data)
            if run.weights is not None and not run.has_weights(data):
                yield f"{data} has no column '{run.weights}': all rows count alike."
        scores = {data: evaluate_batches(flow, batches, samples)}
        if unlabelled:
            yield run.unlabelled(data)
    if images:
        columns = {"bits/dim": "bits_per_dim", "± s.e.": "bits_stderr"}
        columns |= {"NLL, nats": "nll", "± s.e. ": "stderr"}
    else:
        columns = {"NLL, nats": "nll", "± s.e.": "stderr"}
        columns |= {name: name for name in ("standardized", "floor", "gap")}
    title = f"importance-weighted bound, {samples} samples" if samples > 1 else None
    title = "exact, no bound" if is_exact(flow) else title
    numbers = {
        name: [getattr(score, value) for score in scores.values()]
        for name, value in columns.items()
    }
    numbers = {name: column for name, column in numbers.items() if {*column} != {None}}
    table = Table("split", "images" if images else "rows", *numbers, title=title)
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for (name, score), *row in zip(scores.items(), *numbers.values(), strict=True):
        cells = ["" if number is None else f"{number:.4f}" for number in row]
        table.add_row(name, f"{score.rows:,}", *cells)
    yield table
    if quality is not None:
        yield from measure_samples(run, data, quality, temperature, guidance, Path(out))

"""`diffeo score`."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from diffeo.cli.common import check_folder, choose_reference, is_folder, open_run, report
from diffeo.data import Batches, check_writable, write_columns, write_table
from diffeo.evaluation.likelihood import Batch
from diffeo.evaluation.scores import Kind, column_names, image_columns, row_scores
from diffeo.utils.console import PlainConsole


def main(
    *,
    data: str,
    kind: Kind = "log_prob",
    reference: str | None = None,
    out: str = "scores.csv",
    delimiter: str | None = None,
    ray: bool = False,
    ray_address: str | None = None,
    **run: Any,
) -> None:
    """Write the log-likelihood, in nats, of each row of a table or each image.

    With --kind there is a second score. The lowest scores are the outliers.

    Args:
        data: The rows or images to score; a folder of .parquet files needs a folder as --out.
        kind: typicality is minus the distance of the log-likelihood from the mean over held-out
            data. complexity adds the length of a plain code to the log-likelihood (of the image as
            a lossless file, or of independent columns), so that simple events gain nothing.
        reference: Data like the training data, for a model that does not know how these score.
        out: A .csv, .parquet, .npy or .npz file; or a folder, which gets a file of scores for each
            .parquet file of --data.
        delimiter: The character between the values of a CSV file; a comma by default.
        ray: Process the files of a folder in parallel with Ray (pip install "diffeo[ray]"), on the
            cores of this machine.
        ray_address: HOST:PORT of a Ray cluster to use instead, whose machines see the same folders.
    """
    opened = open_run(**run)
    flow = opened.flow

    def batches(source: str) -> Iterable[Batch]:
        if flow.takes_pixels:
            return Batches(opened.gallery(source, unlabelled=True).images, flow.chunk)
        return opened.rows(source, unlabelled=True, delimiter=delimiter)

    if ray or ray_address is not None or is_folder(out):
        from diffeo.scale import Cluster, score_parts

        folder = check_folder(out)
        outcome = score_parts(
            opened,
            data,
            folder,
            kind=kind,
            reference=choose_reference(opened, kind, reference, batches),
            delimiter=delimiter,
            cluster=Cluster(ray_address) if ray or ray_address is not None else None,
            console=PlainConsole(),
        )
        report(outcome.describe(folder))
        return
    file = check_writable(out)
    if flow.takes_pixels:
        gallery = opened.gallery(data, unlabelled=True)
        if flow.context.category and gallery.images.context is None:
            report(opened.unlabelled(data))
        compared = choose_reference(opened, kind, reference, batches)
        write_columns(file, image_columns(flow, gallery, kind, compared))
        for note in gallery.notes:
            report(note)
        report(f"{len(gallery.names):,} scores written to {file}.")
        return
    if Path(data).is_dir():
        raise ValueError(f"{data} is a folder: name a folder for its scores with --out.")
    compared = choose_reference(opened, kind, reference, batches)
    if opened.lacks_class(data, delimiter):
        report(opened.unlabelled(data))
    count = 0

    def counted() -> Iterator[Any]:
        nonlocal count
        for rows in row_scores(flow, batches(data), kind, compared):
            count += len(rows)
            yield rows

    write_table(file, column_names(flow, kind), counted())
    report(f"{count:,} scores written to {file}.")

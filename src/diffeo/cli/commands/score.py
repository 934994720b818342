"""`diffeo score`."""

from collections.abc import Iterator
from pathlib import Path

from diffeo.data import Batches, check_writable
from diffeo.data.tables.writing import is_folder
from diffeo.evaluation.scores import Kind, Reference, needs_reference
from diffeo.run import Run
from diffeo.scale import Cluster, score_parts
from diffeo.scale.scoring import write_scores
from diffeo.utils.console import PlainConsole


def main(
    run: Run,
    *,
    data: str,
    kind: Kind = "log_prob",
    reference: str | None = None,
    out: str = "scores.csv",
    ray: bool = False,
    ray_address: str | None = None,
) -> Iterator[str]:
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
        ray: Process the files of a folder in parallel with Ray (pip install "diffeo[ray]"), on the
            cores of this machine.
        ray_address: HOST:PORT of a Ray cluster to use instead, whose machines see the same folders.
    """
    if ray or ray_address is not None or is_folder(out):
        cluster = Cluster(ray_address) if ray or ray_address is not None else None
        compared = _reference(run, kind, reference)
        outcome = score_parts(
            run, data, out, kind=kind, reference=compared, cluster=cluster, console=PlainConsole()
        )
        yield outcome.describe(out)
        return
    file = check_writable(out)
    if Path(data).is_dir() and not run.flow.takes_pixels:
        raise ValueError(f"{data} is a folder: name a folder for its scores with --out.")
    done = write_scores(run, data, file, kind, _reference(run, kind, reference))
    yield from done.notes
    yield f"{done.rows:,} scores written to {file}."


def _reference(run: Run, kind: Kind, source: str | None) -> Reference | None:
    """What scores of a kind are compared with, if anything: `--reference`, or the model's own."""
    needed = needs_reference(run.flow, kind)
    if source is None:
        return Reference.of(run.flow) if needed else None
    if not needed:
        raise ValueError(f"{kind} is not compared with other data: leave --reference out.")
    if run.flow.takes_pixels:
        images = run.gallery(source, unlabelled=True).images
        return Reference.measure(run.flow, Batches(images, run.flow.chunk))
    return Reference.measure(run.flow, run.rows(source, unlabelled=True))

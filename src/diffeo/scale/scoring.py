"""Scores of one source in a file, or of each file of a folder in a file of the same name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from diffeo.data import write_columns, write_table
from diffeo.data.files import Array
from diffeo.data.images.folders import list_files
from diffeo.evaluation.scores import (
    Kind,
    Reference,
    column_names,
    image_columns,
    needs_reference,
    row_scores,
)
from diffeo.run import Run
from diffeo.scale.folder import claim, digest, output_folder, place
from diffeo.scale.job import Done, Outcome, Part, finish
from diffeo.scale.ray import Cluster

ENDINGS = (".parquet", ".csv")


def write_scores(
    run: Run,
    source: str,
    file: Path,
    kind: Kind = "log_prob",
    reference: Reference | None = None,
    *,
    name: str | None = None,
    seed: int = 0,
    cache: str | None = None,
) -> Done:
    """Write the scores of the rows or images of a source, in their order, into one file.

    Notes call the source by `name`. The seed is of the noise of dequantization, and `cache` the
    folder for decoded images.
    """
    rows, notes = 0, list[str]()
    if run.flow.takes_pixels:
        gallery = run.gallery(source, unlabelled=True, cache=cache)
        write_columns(file, image_columns(run.flow, gallery, kind, reference, seed=seed))
        rows, notes = len(gallery.names), [*gallery.notes]
        unlabelled = run.flow.context.category and gallery.images.context is None
    else:
        unlabelled = run.lacks_class(source)
        batches = run.rows(source, unlabelled=True)

        def counted() -> Iterator[Array]:
            nonlocal rows
            for scores in row_scores(run.flow, batches, kind, reference, seed=seed):
                rows += len(scores)
                yield scores

        write_table(file, column_names(run.flow, kind), counted())
    return Done(rows, (*notes, *([run.unlabelled(name or source)] if unlabelled else [])))


def _score_part(
    run: Run, source: str, out: Path, kind: Kind, reference: Reference | None, part: Part
) -> Done:
    # Decoded images are on the disk only while they are scored.
    with place(out, part.name) as file, tempfile.TemporaryDirectory() as cache:
        options: dict[str, Any] = {"name": source, "seed": part.number, "cache": cache}
        return write_scores(run, part.source, file, kind, reference, **options)


def score_parts(
    run: Run,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    kind: Kind = "log_prob",
    reference: Reference | None = None,
    cluster: Cluster | None = None,
    console: Console | None = None,
) -> Outcome:
    """Score each file of a folder into a .parquet file of the same name, rows in the same order.

    Finished parts are not computed again: the same call continues after one that was killed.

    Args:
        run: the model.
        source: a folder of .parquet files, of rows or of images, or of .csv files; or one file.
        out: the folder of scores.
        kind: see `diffeo.evaluation.scores.score`.
        reference: scores of held-out data; by default those stored with the model.
        cluster: Ray; None to work in this process.
        console: for progress and notes.

    Raises:
        ValueError: if the source holds nothing to score, the folder holds something else, or a part
            fails; the others are computed all the same.
    """
    needs_reference(run.flow, kind)  # or refuse the kind
    out, source = output_folder(out), os.fspath(source)
    parts = find_parts(source)
    compared = None if reference is None else digest(reference.to_json())
    status = {part.name: Path(part.source).stat() for part in parts}
    inputs = {name: [found.st_size, found.st_mtime_ns] for name, found in status.items()}
    claim(out, run, {"what": "scores", "kind": kind, "reference": compared}, inputs)
    work = partial(_score_part, run, source, out, kind, reference)
    return finish(work, parts, out, cluster and cluster.on(run.flow.device), console)


def find_parts(source: str) -> list[Part]:
    """One part for a file, or for each .parquet file below a folder, or else for each .csv.

    Hidden files, and those whose name begins with `_`, are left out.

    Raises:
        ValueError: if there is no such file.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix.lower() not in ENDINGS:
            raise ValueError(f"{source} is not scored by parts: give .parquet or .csv files.")
        return [Part(0, path.with_suffix(".parquet").name, str(path.resolve()))]
    if not path.is_dir():
        raise ValueError(f"there is no file or folder {source}: check --data.")
    found = [(Path(name), path / name) for name in list_files(source, path)]
    found = [(name, file) for name, file in found if not any(p[0] == "_" for p in name.parts)]
    for ending in ENDINGS:
        chosen = [(name, file) for name, file in found if name.suffix.lower() == ending]
        if chosen:
            return [
                Part(i, name.with_suffix(".parquet").as_posix(), str(file.resolve()))
                for i, (name, file) in enumerate(chosen)
            ]
    raise ValueError(f"{source} holds no {' or '.join(ENDINGS)} file: name a folder that does.")

"""Scores of all files of a folder, each in a file of the same name."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from diffeo.data import write_columns, write_table
from diffeo.evaluation.scores import (
    Kind,
    Reference,
    check_kind,
    column_names,
    image_scores,
    row_scores,
)
from diffeo.run import Run
from diffeo.scale.folder import claim, digest, model_settings, place
from diffeo.scale.parts import Part, count_rows, files, inputs
from diffeo.scale.ray import Cluster
from diffeo.scale.running import Outcome, finish
from diffeo.scale.work import Done


@dataclass(frozen=True)
class Scoring:
    """The work of a part: the scores of one file, in the order of its rows."""

    run: Run
    source: str
    out: Path
    kind: Kind
    reference: Reference | None
    delimiter: str | None

    def __call__(self, part: Part) -> Done:
        """Write them."""
        write = self._images if self.run.flow.takes_pixels else self._rows
        with place(self.out, part.name) as file:
            notes = write(part, file)
            rows = count_rows(file)
        return Done(rows, tuple(notes))

    def _rows(self, part: Part, file: Path) -> list[str]:
        lacking = self.run.lacks_class(part.source, self.delimiter)
        rows = self.run.rows(part.source, unlabelled=True, delimiter=self.delimiter)
        batches = row_scores(self.run.flow, rows, self.kind, self.reference, seed=part.number)
        write_table(file, column_names(self.kind), batches)
        return [self.run.unlabelled(self.source)] if lacking else []

    def _images(self, part: Part, file: Path) -> list[str]:
        # Decoded pictures are on the disk only while they are scored.
        with tempfile.TemporaryDirectory(prefix="diffeo-") as cache:
            gallery = self.run.gallery(part.source, unlabelled=True, cache=cache)
            columns = image_scores(
                self.run.flow, gallery, self.kind, self.reference, seed=part.number
            )
        write_columns(file, columns)
        lacking = self.run.flow.context.category and gallery.images.context is None
        return [*gallery.notes, *([self.run.unlabelled(self.source)] if lacking else [])]


def score_parts(
    run: Run,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    kind: Kind = "log_prob",
    reference: Reference | None = None,
    delimiter: str | None = None,
    cluster: Cluster | None = None,
    console: Console | None = None,
) -> Outcome:
    """Score each file of a folder into a .parquet file of the same name, rows in the same order.

    What is finished is not done again: the same call goes on where one was killed.

    Args:
        run: whose model.
        source: a folder of .parquet files, of rows or of pictures, or of .csv files; or one file.
        out: the folder of scores; made if need be.
        kind: see `diffeo.evaluation.scores.score`.
        reference: what is usual; by default the one that the model keeps.
        delimiter: the character between the values of CSV files; a comma by default.
        cluster: where Ray is; None to work in this process.
        console: where progress and notes go.

    Raises:
        ValueError: if the source holds nothing to score, the folder holds something else, or a part
            cannot be done: the others are done all the same.
    """
    check_kind(kind)
    out = Path(out).expanduser().resolve()
    source = os.fspath(source)
    parts = files(source)
    settings = {
        "what": "scores",
        **model_settings(run),
        "kind": kind,
        "reference": None if reference is None else digest(reference.to_json()),
        "delimiter": delimiter,
    }
    claim(out, settings, inputs(parts))
    work = Scoring(run, source, out, kind, reference, delimiter)
    return finish(work, parts, out, cluster, console)

"""Scores of each file of a folder, in a file of the same name."""

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
    column_names,
    image_columns,
    needs_reference,
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
        write_table(file, column_names(self.run.flow, self.kind), batches)
        return [self.run.unlabelled(self.source)] if lacking else []

    def _images(self, part: Part, file: Path) -> list[str]:
        # Decoded images are on the disk only while they are scored.
        with tempfile.TemporaryDirectory(prefix="diffeo-") as cache:
            gallery = self.run.gallery(part.source, unlabelled=True, cache=cache)
            columns = image_columns(
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

    Finished parts are not computed again: the same call continues after one that was killed.

    Args:
        run: the model.
        source: a folder of .parquet files, of rows or of images, or of .csv files; or one file.
        out: the folder of scores.
        kind: see `diffeo.evaluation.scores.score`.
        reference: scores of held-out data; by default those stored with the model.
        delimiter: the character between the values of CSV files; a comma by default.
        cluster: Ray; None to work in this process.
        console: for progress and notes.

    Raises:
        ValueError: if the source holds nothing to score, the folder holds something else, or a part
            fails; the others are computed all the same.
    """
    needs_reference(run.flow, kind)  # or refuse the kind
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

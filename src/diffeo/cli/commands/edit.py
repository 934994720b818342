"""`diffeo edit`."""

from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from diffeo import latent
from diffeo.cli.images import (
    check_figure,
    choose_images,
    directions_of,
    draw_columns,
    first_images,
)
from diffeo.figures.style import tick
from diffeo.latent import DirectionKind, Directions
from diffeo.run import Run
from diffeo.utils.ranges import Count, Finite

EditKind = Literal[DirectionKind, "condition"]


def main(
    run: Run,
    *,
    data: str | None = None,
    attribute: list[str],
    strengths: list[Finite] = [-2.0, -1.0, 0.0, 1.0, 2.0],  # noqa: B006
    num: Count = 8,
    directions: str | None = None,
    kind: EditKind | None = None,
    out: str = "edits.png",
) -> Iterator[str]:
    """Draw images with more and less of an attribute.

    Args:
        data: The images; by default the test split.
        attribute: The attribute, or several, NAME,NAME, which change together.
        strengths: How much, a column each; 1 is the step from images without the attribute to
            those with it.
        num: How many images, a row each.
        directions: A file that `diffeo directions` wrote; by default the directions are found in
            --data or the training split.
        kind: As in `diffeo directions`. condition decodes the same noise under another context, and
            is the default where the model is conditional on all the attributes; otherwise mean is.
        out: A .png, .pdf or .svg file.
    """
    file = check_figure(out)
    if not strengths:
        raise ValueError("--strengths is empty: give some, such as -1,0,1.")
    x, context = first_images(run, data, num)
    if kind is None:
        conditional = {*attribute} <= {*run.context_columns} and directions is None
        kind = "condition" if conditional else "mean"
    changes = [dict.fromkeys(attribute, strength) for strength in strengths]
    if kind == "condition":
        columns = _recondition(run, data, x, context, changes)
        method = "as a condition of the model"
    else:
        if directions is None:
            found = directions_of(run, data, kind, attribute)
            yield from found.notes
        else:
            found = Directions.load(directions)
        columns = [latent.edit(run.flow, x, found, change, context) for change in changes]
        method = f"direction of kind {found.kind}"
    caption = f"strength of {', '.join(attribute)}, {method}"
    yield draw_columns(columns, [*map(tick, strengths)], caption, file)


def _recondition(
    run: Run, data: str | None, x: Tensor, context: Tensor | None, changes: list[dict[str, float]]
) -> list[Tensor]:
    """For each change the images under the context with so much more of the attributes."""
    if context is None:
        raise ValueError(f"{run.folder} takes no context: choose another --kind.")
    # The training data, where they are available, show how far a context goes.
    known = run.data().train if run.config_file.is_file() else choose_images(run, data)[0]
    assert known.context is not None
    conditions = latent.Conditions.of(run.flow.context, known.context)
    moved = [conditions.moved(context, change) for change in changes]
    return [latent.recondition(run.flow, x, context, other) for other in moved]

"""`diffeo edit`."""

from typing import Any, Literal

import torch
from torch import Tensor

from diffeo import figures, latent
from diffeo.cli.common import check_figure, report
from diffeo.cli.images import choose_images, directions_of, first_images
from diffeo.figures.style import tick
from diffeo.latent import DirectionKind, Directions
from diffeo.run import Run

EditKind = Literal[DirectionKind, "condition"]


def main(
    *,
    data: str | None = None,
    attribute: list[str],
    strengths: list[float] = [-2.0, -1.0, 0.0, 1.0, 2.0],  # noqa: B006
    num: int = 8,
    directions: str | None = None,
    kind: EditKind | None = None,
    out: str = "edits.png",
    **run: Any,
) -> None:
    """Draw images with more and less of an attribute.

    Args:
        data: The images; by default the test split.
        attribute: The attribute, or several, NAME,NAME, which change together.
        strengths: How much, a column each; 1 is the step from images without the attribute to
            those with it.
        num: How many images, a row each.
        directions: A file that `diffeo directions` wrote; by default the directions are found in
            --data or the training split.
        kind: mean is the mean of images with the attribute minus that of the others; partial fits
            all attributes at once, so that correlated ones do not change too; discriminant is
            Fisher's. condition decodes the same noise under another context, and is the default
            where the model is conditional on all the attributes; otherwise mean is.
        out: A .png, .pdf or .svg file.
    """
    file = check_figure(out)
    if not strengths:
        raise ValueError("--strengths is empty: give some, such as -1,0,1.")
    opened, x, context = first_images(num, data=data, **run)
    if kind is None:
        conditional = {*attribute} <= {*opened.context_columns} and directions is None
        kind = "condition" if conditional else "mean"
    caption = f"strength of {', '.join(attribute)}, "
    if kind == "condition":
        columns = _recondition(opened, data, x, context, attribute, strengths)
        caption += "as a condition of the model"
    else:
        found = (
            directions_of(opened, data, kind, attribute)
            if directions is None
            else Directions.load(directions)
        )
        columns = [
            latent.edit(opened.flow, x, found, dict.fromkeys(attribute, strength), context)
            for strength in strengths
        ]
        caption += f"direction of kind {found.kind}"
    labels = [tick(strength) for strength in strengths]
    figures.save(figures.image_grid(torch.stack(columns, dim=1), labels, caption), file)
    report(f"Drawn into {file}.")


def _recondition(
    run: Run,
    data: str | None,
    x: Tensor,
    context: Tensor | None,
    attribute: list[str],
    strengths: list[float],
) -> list[Tensor]:
    """For each strength the images under the context with so much more of the attributes."""
    if context is None:
        raise ValueError(f"{run.folder} takes no context: choose another --kind.")
    # The training data, where they are available, show how far a context goes.
    known = run.data().train if run.config_file.is_file() else choose_images(run, data)[0]
    assert known.context is not None
    conditions = latent.Conditions.of(run.flow.context, known.context)
    moved = [
        conditions.moved(context, dict.fromkeys(attribute, strength)) for strength in strengths
    ]
    return [latent.recondition(run.flow, x, context, other) for other in moved]

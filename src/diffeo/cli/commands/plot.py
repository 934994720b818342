"""`diffeo plot`."""

from typing import Any

from diffeo.cli.common import check_figure, open_run, report
from diffeo.run import FigureKind, draw
from diffeo.run.drawing import kinds_for


def main(
    *,
    kind: FigureKind | None = None,
    out: str = "plot.png",
    **run: Any,
) -> None:
    """Draw a model and its data.

    Args:
        kind: By default panels for 2 columns, corner for other tables, samples for images.
        out: A .png, .pdf or .svg file.
    """
    file = check_figure(out)
    opened = open_run(device="cpu", **run)
    data = opened.data()
    draw(opened, data, kind or kinds_for(data)[0], file)
    report(f"Drawn into {file}.")

"""`diffeo plot`."""

from collections.abc import Iterator

from diffeo.cli.images import check_figure
from diffeo.run import FigureKind, Run, draw
from diffeo.run.drawing import kinds_for


def main(run: Run, *, kind: FigureKind | None = None, out: str = "plot.png") -> Iterator[str]:
    """Draw a model and its data.

    Args:
        kind: By default panels for 2 columns, corner for other tables, samples for images.
        out: A .png, .pdf or .svg file.
    """
    file = check_figure(out)
    data = run.data()
    draw(run, data, kind or kinds_for(data)[0], file)
    yield f"Drawn into {file}."

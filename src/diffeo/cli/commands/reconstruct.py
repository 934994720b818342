"""`diffeo reconstruct`."""

from collections.abc import Iterator

from diffeo import figures
from diffeo.cli.images import check_figure, first_images
from diffeo.run import Run
from diffeo.utils.ranges import Count


def main(
    run: Run, *, data: str | None = None, num: Count = 64, out: str = "reconstructions.png"
) -> Iterator[str]:
    """Draw images and their reconstructions, also without the finer latents.

    Args:
        data: The images; by default the test split.
        num: How many images.
        out: A .png, .pdf or .svg file.
    """
    file = check_figure(out)
    x, context = first_images(run, data, num)
    figures.save(figures.reconstructions(run.flow, x, context), file)
    yield f"Drawn into {file}."

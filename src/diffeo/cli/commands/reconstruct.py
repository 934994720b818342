"""`diffeo reconstruct`."""

from typing import Any

from diffeo import figures
from diffeo.cli.common import check_figure, report
from diffeo.cli.images import first_images


def main(
    *,
    num: int = 64,
    out: str = "reconstructions.png",
    **images: Any,
) -> None:
    """Draw images and their reconstructions, also without the finer latents.

    Args:
        num: How many images.
        out: A .png, .pdf or .svg file.
    """
    file = check_figure(out)
    run, x, context = first_images(num, device="cpu", **images)
    figures.save(figures.reconstructions(run.flow, x, context), file)
    report(f"Drawn into {file}.")

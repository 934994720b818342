"""`diffeo levels`."""

from typing import Any

import torch
from torch import Generator

from diffeo import figures, latent
from diffeo.cli.common import check_figure, report
from diffeo.cli.images import first_images
from diffeo.figures.style import tick


def main(
    *,
    num: int = 8,
    temperature: float = 0.7,
    seed: int | None = None,
    out: str = "levels.png",
    **images: Any,
) -> None:
    """Draw images with the latents of one level drawn anew.

    Args:
        num: How many images, a row each.
        temperature: The scale of the new noise.
        seed: The same seed draws the same noise.
        out: A .png, .pdf or .svg file.
    """
    file = check_figure(out)
    run, x, context = first_images(num, **images)
    generator = Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)
    levels = range(1, len(run.flow.latent_shapes) + 1)
    columns = [x]
    for level in levels:
        redrawn = latent.resample(
            run.flow, x, [level], temperature, context=context, generator=generator
        )
        columns.append(redrawn[:, 0])
    labels = ["data", *(f"level {level}\nredrawn" for level in levels)]
    caption = f"temperature {tick(temperature)}"
    figures.save(figures.image_grid(torch.stack(columns, dim=1), labels, caption), file)
    report(f"Drawn into {file}.")

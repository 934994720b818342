"""`diffeo levels`."""

from collections.abc import Iterator

from diffeo import latent
from diffeo.cli.images import check_figure, draw_columns, first_images, seeded
from diffeo.figures.style import tick
from diffeo.run import Run
from diffeo.utils.ranges import Count, NonNegative, Seed


def main(
    run: Run,
    *,
    data: str | None = None,
    num: Count = 8,
    temperature: NonNegative = 0.7,
    seed: Seed | None = None,
    out: str = "levels.png",
) -> Iterator[str]:
    """Draw images with the latents of one level drawn anew.

    Args:
        data: The images; by default the test split.
        num: How many images, a row each.
        temperature: The scale of the new noise.
        seed: The same seed draws the same noise.
        out: A .png, .pdf or .svg file.
    """
    file = check_figure(out)
    x, context = first_images(run, data, num)
    generator = seeded(seed)
    columns, labels = [x], ["data"]
    for level in range(1, len(run.flow.latent_shapes) + 1):
        redrawn = latent.resample(
            run.flow, x, [level], temperature, context=context, generator=generator
        )
        columns.append(redrawn[:, 0])
        labels.append(f"level {level}\nredrawn")
    yield draw_columns(columns, labels, f"temperature {tick(temperature)}", file)

"""`diffeo sample`."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from diffeo.cli.contexts import Contexts, choose_contexts, read_contexts
from diffeo.data import Table
from diffeo.data.tables.writing import is_folder
from diffeo.models.guided import check_guidance
from diffeo.run import Run
from diffeo.scale import Cluster, sample_parts
from diffeo.scale.sampling import write_samples
from diffeo.utils.console import PlainConsole
from diffeo.utils.ranges import Count, NonNegative, Seed


def main(
    run: Run,
    *,
    num: Count | None = None,
    temperature: NonNegative = 1.0,
    temperatures: list[NonNegative] | None = None,
    guidance: NonNegative = 0.0,
    seed: Seed | None = None,
    context: str | None = None,
    label: str | None = None,
    contexts: str | None = None,
    out: str | None = None,
    part_rows: Count | None = None,
    ray: bool = False,
    ray_address: str | None = None,
) -> Iterator[str]:
    """Draw samples from a model: rows of a table, or images.

    Args:
        num: How many; by default 1000 rows, 64 images, or 8 rows of --temperatures.
        temperature: The scale of the noise; samples are more typical below 1.
        temperatures: Draw images at several temperatures, such as 0,0.5,0.7,1, as a figure with a
            row for each noise.
        guidance: How far images are moved towards their class, such as 1; for a PixelFlow or a
            TarFlow that was trained with class_dropout.
        seed: The same seed draws the same samples.
        context: The context of all samples, NAME=VALUE,NAME=VALUE.
        label: The class of all samples, for a model that is conditional on labels.
        contexts: A table with a context in each row, in columns by the names of its variables;
            --num is then how many samples are drawn for each row, by default 1.
        out: For rows a .csv, .parquet, .npy or .npz file, a .png to see them, or a folder of
            .parquet files; by default samples.csv. For images a .png, .jpg or .webp with all of
            them, a .npy or .npz file, or a folder; by default samples.png.
        part_rows: How many in each .parquet file of a folder; by default 1,000,000 rows or 1,000
            images. Without this and --ray, a folder of images holds PNG files.
        ray: Write the files of a folder in parallel with Ray (pip install "diffeo[ray]"), on the
            cores of this machine.
        ray_address: HOST:PORT of a Ray cluster to use instead, whose machines see the same folders.
    """
    images, on_ray = run.flow.takes_pixels, ray or ray_address is not None
    in_parts = on_ray or part_rows is not None
    if temperatures is not None and (in_parts or temperature != 1.0 or not images):
        raise ValueError(
            "--temperatures draws one figure of images: leave one out, it or --temperature, "
            "--part-rows and --ray."
        )
    check_guidance(run.flow, guidance)
    if guidance and (in_parts or temperatures is not None):
        raise ValueError(
            "--guidance draws images for one file: leave it out, or --temperatures, --part-rows "
            "and --ray."
        )
    if contexts is not None:
        if context is not None or label is not None or temperatures is not None or in_parts:
            raise ValueError(
                "--contexts gives each sample its context: leave --context, --label, "
                "--temperatures, --part-rows and --ray out."
            )
        given = read_contexts(run, contexts, num or 1)
        yield _write(run, len(given), given, temperature, guidance, seed, out)
        return
    drawn = choose_contexts(run, context, label)
    if in_parts or (not images and is_folder(out or "samples.csv")):
        if num is None:
            raise ValueError("a folder of parts has no default size: give --num.")
        folder = out or "samples"
        outcome = sample_parts(
            run,
            num,
            folder,
            contexts=drawn,
            temperature=temperature,
            seed=seed,
            rows=part_rows,
            cluster=Cluster(ray_address) if on_ray else None,
            console=PlainConsole(),
        )
        yield outcome.describe(folder)
        return
    if temperatures is not None:
        file = Path(out or "samples.png")
        yield _draw_temperatures(run, num or 8, temperatures, seed, drawn, file)
        return
    count = num or (64 if images else 1_000)
    rows = None if drawn is None else drawn(count, seed)
    yield _write(run, count, rows, temperature, guidance, seed, out)


def _write(
    run: Run,
    count: int,
    context: Tensor | None,
    temperature: float,
    guidance: float,
    seed: int | None,
    out: str | None,
) -> str:
    """Draw so many samples into a file; returns a sentence."""
    images = run.flow.takes_pixels
    file = Path(out or ("samples.png" if images else "samples.csv"))
    if images:
        from diffeo.data.images.writing import write_any_images

        drawn = run.stream_samples(count, context, temperature, seed, guidance)
        write_any_images(drawn, file)
    elif file.suffix == ".png":
        from diffeo import figures

        table = run.data()
        assert isinstance(table, Table)
        x = torch.cat(list(run.stream_samples(count, context, temperature, seed)))
        figures.save(figures.corner(table.train.x, x, run.columns), file)
    else:
        write_samples(run, count, file, context, temperature, seed)
    return f"{count:,} {'images' if images else 'rows'} written to {file}."


def _draw_temperatures(
    run: Run,
    count: int,
    temperatures: list[float],
    seed: int | None,
    contexts: Contexts | None,
    file: Path,
) -> str:
    from diffeo import latent
    from diffeo.cli.images import check_figure, draw_columns, seeded
    from diffeo.figures.style import tick

    check_figure(str(file))
    rows = None if contexts is None else contexts(count, seed)
    noise = seeded(seed)
    x = latent.at_temperatures(run.flow, count, temperatures, context=rows, generator=noise)
    return draw_columns(x.unbind(1), [*map(tick, temperatures)], "temperature", file)

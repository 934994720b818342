"""`diffeo sample`."""

from pathlib import Path
from typing import Any

import torch
from torch import Generator

from diffeo.cli.common import check_figure, check_folder, is_folder, open_run, report
from diffeo.cli.contexts import choose_contexts
from diffeo.data import Table, check_writable, write_columns, write_table
from diffeo.utils.console import PlainConsole


def main(
    *,
    num: int | None = None,
    temperature: float = 1.0,
    temperatures: list[float] | None = None,
    seed: int | None = None,
    context: str | None = None,
    label: str | None = None,
    out: str | None = None,
    part_rows: int | None = None,
    ray: bool = False,
    ray_address: str | None = None,
    **run: Any,
) -> None:
    """Draw samples from a model: rows of a table, or images.

    Args:
        num: How many; by default 1000 rows, 64 images, or 8 rows of --temperatures.
        temperature: The scale of the noise; samples are more typical below 1.
        temperatures: Draw images at several temperatures, such as 0,0.5,0.7,1, as a figure with a
            row for each noise.
        seed: The same seed draws the same samples.
        context: The context of all samples, NAME=VALUE,NAME=VALUE.
        label: The class of all samples, for a model that is conditional on labels.
        out: For rows a .csv, .parquet, .npy or .npz file, a .png to see them, or a folder of
            .parquet files; by default samples.csv. For images a .png, .jpg or .webp with all of
            them, a .npy or .npz file, or a folder; by default samples.png.
        part_rows: How many in each .parquet file of a folder; by default 1,000,000 rows or 1,000
            images. Without this and --ray, a folder of images holds PNG files.
        ray: Write the files of a folder in parallel with Ray (pip install "diffeo[ray]"), on the
            cores of this machine.
        ray_address: HOST:PORT of a Ray cluster to use instead, whose machines see the same folders.
    """
    if num is not None and num < 1:
        raise ValueError(f"-n is {num}: ask for at least one.")
    opened = open_run(**run)
    flow = opened.flow
    images, on_ray = flow.takes_pixels, ray or ray_address is not None
    if on_ray or part_rows is not None or (not images and is_folder(out or "samples.csv")):
        from diffeo.scale import Cluster, sample_parts

        if num is None:
            raise ValueError("a folder of parts has no default size: give --num.")
        if temperatures is not None:
            raise ValueError("--temperatures draws one figure: leave --ray and --part-rows out.")
        folder = check_folder(out or "samples")
        outcome = sample_parts(
            opened,
            num,
            folder,
            contexts=choose_contexts(opened, context, label),
            temperature=temperature,
            seed=seed,
            rows=part_rows,
            cluster=Cluster(ray_address) if on_ray else None,
            console=PlainConsole(),
        )
        report(outcome.describe(folder))
        return
    if temperatures is not None and not images:
        raise ValueError("--temperatures draws images: give a table one --temperature.")
    if temperatures is not None and temperature != 1.0:
        raise ValueError("--temperature and --temperatures are both given: leave one out.")
    file = Path(out or ("samples.png" if images else "samples.csv"))
    count = num or (8 if temperatures is not None else 64 if images else 1_000)
    contexts = choose_contexts(opened, context, label)
    rows = None if contexts is None else contexts(count, seed)
    if temperatures is not None:
        from diffeo import figures, latent
        from diffeo.figures.style import tick

        check_figure(str(file))
        noise = Generator()
        noise.seed() if seed is None else noise.manual_seed(seed)
        x = latent.at_temperatures(flow, count, temperatures, context=rows, generator=noise)
        figures.save(figures.image_grid(x, [*map(tick, temperatures)], "temperature"), file)
        report(f"Drawn into {file}.")
        return
    parts = opened.stream_samples(count, rows, temperature, seed)
    if images and file.suffix.lower() not in {".npy", ".npz"}:
        from diffeo.data.images.writing import save_images, write_images

        if file.suffix:
            save_images(torch.cat(list(parts)), file)
        else:
            write_images(parts, file)
    elif images:
        check_writable(file)
        write_columns(file, {"images": torch.cat(list(parts)).numpy()})
    elif file.suffix == ".png":
        from diffeo import figures

        table = opened.data()
        assert isinstance(table, Table)
        x = torch.cat(list(parts))
        figures.save(figures.corner(table.train.x, x, opened.columns), file)
    else:
        from diffeo.scale.sampling import with_context

        check_writable(file)
        write_table(file, opened.columns + opened.context_columns, with_context(parts, rows))
    report(f"{count:,} {'images' if images else 'rows'} written to {file}.")

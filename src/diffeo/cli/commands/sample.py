"""`diffeo sample`."""

from collections.abc import Iterator
from pathlib import Path

import torch

from diffeo.cli.contexts import Contexts, choose_contexts
from diffeo.data import Table, check_writable, write_columns
from diffeo.data.tables.writing import is_folder
from diffeo.run import Run
from diffeo.scale import Cluster, sample_parts
from diffeo.scale.sampling import write_samples
from diffeo.utils.console import PlainConsole


def main(
    run: Run,
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
) -> Iterator[str]:
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
    images, on_ray = run.flow.takes_pixels, ray or ray_address is not None
    in_parts = on_ray or part_rows is not None
    if num is not None and num < 1:
        raise ValueError(f"-n is {num}: ask for at least one.")
    if temperatures is not None and (in_parts or temperature != 1.0 or not images):
        raise ValueError(
            "--temperatures draws one figure of images: leave one out, it or --temperature, "
            "--part-rows and --ray."
        )
    contexts = choose_contexts(run, context, label)
    if in_parts or (not images and is_folder(out or "samples.csv")):
        if num is None:
            raise ValueError("a folder of parts has no default size: give --num.")
        folder = out or "samples"
        outcome = sample_parts(
            run,
            num,
            folder,
            contexts=contexts,
            temperature=temperature,
            seed=seed,
            rows=part_rows,
            cluster=Cluster(ray_address) if on_ray else None,
            console=PlainConsole(),
        )
        yield outcome.describe(folder)
        return
    file = Path(out or ("samples.png" if images else "samples.csv"))
    if temperatures is not None:
        yield _draw_temperatures(run, num or 8, temperatures, seed, contexts, file)
        return
    count = num or (64 if images else 1_000)
    rows = None if contexts is None else contexts(count, seed)
    if images:
        _write_images(run.stream_samples(count, rows, temperature, seed), file)
    elif file.suffix == ".png":
        from diffeo import figures

        table = run.data()
        assert isinstance(table, Table)
        x = torch.cat(list(run.stream_samples(count, rows, temperature, seed)))
        figures.save(figures.corner(table.train.x, x, run.columns), file)
    else:
        write_samples(run, count, file, rows, temperature, seed)
    yield f"{count:,} {'images' if images else 'rows'} written to {file}."


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


def _write_images(parts: Iterator[torch.Tensor], file: Path) -> None:
    if file.suffix.lower() in {".npy", ".npz"}:
        check_writable(file)
        write_columns(file, {"images": torch.cat(list(parts)).numpy()})
    elif file.suffix:
        from diffeo.data.images.writing import save_images

        save_images(torch.cat(list(parts)), file)
    else:
        from diffeo.data.images.writing import write_images

        write_images(parts, file)

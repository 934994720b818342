"""`diffeo decompress`."""

from collections.abc import Iterator
from pathlib import Path

from diffeo.cli.commands.compress import FIXED as FIXED
from diffeo.cli.commands.compress import WITHOUT as WITHOUT
from diffeo.cli.commands.compress import add_options as add_options
from diffeo.cli.commands.compress import expand as expand
from diffeo.data import check_writable, write_columns
from diffeo.run import Run

PLACES = " FILE --with RUN"


def main(run: Run, file: str, *, out: str | None = None) -> Iterator[str]:
    """Make the table or the images again that `diffeo compress` wrote.

    Example: `diffeo decompress penguins.flow --with runs/penguins --out penguins.csv`. A file of
    another model, of another precision, or that is damaged is refused. Of images, labels and names
    of files are not written.

    Args:
        file: What `diffeo compress` wrote.
        out: For a table a .csv or .parquet file, by default decompressed.csv; for images a folder
            of PNG files, by default decompressed, or a .npy or .npz file.
    """
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"there is no file {path}: give one that `diffeo compress` wrote.")
    packed = path.read_bytes()
    if run.flow.takes_pixels:
        from diffeo.compression import decompress_images
        from diffeo.data.images.writing import write_any_images

        target = Path(out or "decompressed")
        if target.suffix not in {"", ".npy", ".npz"}:
            raise ValueError(f"{target} would lose images: name a folder, a .npy or a .npz file.")
        x, _ = decompress_images(run.flow, packed)
        write_any_images([x], target)
        yield f"{len(x):,} images written to {target}."
        return
    from diffeo.cli.tables import table_model
    from diffeo.compression import decompress_table

    target = check_writable(out or "decompressed.csv")
    frame = decompress_table(table_model(run), packed)
    write_columns(target, {str(name): frame[name] for name in frame.columns})
    yield f"{len(frame):,} rows written to {target}."

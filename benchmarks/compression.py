"""Lossless files: tables and the test images of MNIST, and what general methods make of them.

    python -m benchmarks compression [--data FOLDER] [--only tables|images] [--model pixel-mnist]

A table is compressed by a `FlowDensity` of the same rows, as a file and its model are made for each
other; the model is not in the size, nor is pandas in that of Parquet. Images are compressed by a
model that has not seen them. Each file is decompressed and compared with the data. Sizes are in
bytes; those of images with single files (PNG, WebP, JPEG XL) are sums without names.
"""

from __future__ import annotations

import argparse
import io
import lzma
import math
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import torch

from benchmarks.real import DATA
from diffeo.compression import (
    compress_images,
    compress_table,
    decompress_images,
    decompress_table,
)
from diffeo.data.tables.opening import TableOptions
from diffeo.data.tables.reading import read_frame

RESULTS = Path(__file__).parent / "results" / "compression.csv"
TABLES = ("penguins", "cars", "seattle-weather", "wage", "credit_cards", "nyc-weather")
ROWS = 5_000


def parquet(frame: pd.DataFrame) -> int:
    """The size of a Parquet file with zstd at its highest level."""
    file = io.BytesIO()
    frame.to_parquet(file, compression="zstd", compression_level=22, index=False)
    return file.tell()


def table_sizes(name: str, folder: Path) -> dict[str, float]:
    """The sizes of at most 5,000 random rows of a table."""
    from diffeo.sklearn import FlowDensity

    frame = read_frame(TableOptions(str(folder / "tables" / f"{name}.csv")))
    if len(frame) > ROWS:
        order = np.random.default_rng(0).permutation(len(frame))[:ROWS]
        frame = frame.iloc[np.sort(order)].reset_index(drop=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow = FlowDensity(random_state=0).fit(frame).flow_
    start = time.process_time()
    packed = compress_table(flow, frame)
    middle = time.process_time()
    pd.testing.assert_frame_equal(decompress_table(flow, packed), frame, check_exact=True)
    text = frame.to_csv(index=False).encode()
    return {
        "rows": len(frame),
        "diffeo": len(packed),
        "parquet zstd": parquet(frame),
        "csv lzma": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
        "csv": len(text),
        "compress seconds": round(middle - start, 1),
        "decompress seconds": round(time.process_time() - middle, 1),
    }


def single_files(x: np.ndarray, form: str, **options: object) -> int:
    """The sum of the sizes of grey images as files of a format."""
    total = 0
    for pixels in x:
        file = io.BytesIO()
        PIL.Image.fromarray(pixels).save(file, form, **options)
        total += file.tell()
    return total


def one_file(x: np.ndarray, form: str, **options: object) -> int:
    """The size of one image with all of them, in columns as high as WebP allows."""
    file, count = io.BytesIO(), min(len(x), 16_383 // x.shape[1])
    columns = [part.reshape(-1, x.shape[2]) for part in np.split(x, range(count, len(x), count))]
    height = max(len(column) for column in columns)
    whole = np.hstack([np.pad(column, ((0, height - len(column)), (0, 0))) for column in columns])
    PIL.Image.fromarray(whole).save(file, form, **options)
    return file.tell()


def image_sizes(model: str, folder: Path, count: int) -> dict[str, float]:
    """The sizes of the first test images of MNIST, and the model's bits of them."""
    from diffeo.run import Run

    run = Run(model)
    images = run.gallery(str(folder / "mnist" / "test.parquet")).images
    x, context = images.take(torch.arange(min(count, len(images))))
    with torch.no_grad():
        parts = torch.arange(len(x)).split(250)
        given = [None if context is None else context[part] for part in parts]
        bits = torch.cat(
            [run.flow.bits_per_dim(x[part], c) for part, c in zip(parts, given, strict=True)]
        )
    general = general_sizes(x[:, 0].numpy())  # first, since the model takes long
    start = time.process_time()
    packed = compress_images(run.flow, x, context)
    middle = time.process_time()
    again, _ = decompress_images(run.flow, packed)
    end = time.process_time()
    assert torch.equal(again, x)
    exact, category = float(bits.double().mean()), run.flow.context.category
    labels = 0.0 if category is None else math.log2(len(category.values)) / x[0].numel()
    return {
        "images": len(x),
        "exact bits/dim": round(exact, 5),
        "exact bits/dim with labels": round(exact + labels, 5),  # which the file holds, too
        "file bits/dim": round(8 * len(packed) / x.numel(), 5),
        "diffeo": len(packed),
        "compress seconds": round(middle - start, 1),
        "decompress seconds": round(end - middle, 1),
    } | general


def general_sizes(grey: np.ndarray) -> dict[str, float]:
    """The sizes of grey images `(n, H, W)` by general methods."""
    found = {
        "lzma": len(lzma.compress(grey.tobytes(), preset=9 | lzma.PRESET_EXTREME)),
        "png": single_files(grey, "PNG", optimize=True),
        "png, all in one": one_file(grey, "PNG", optimize=True),
        "webp": single_files(grey, "WEBP", lossless=True, quality=100, method=6),
        "webp, all in one": one_file(grey, "WEBP", lossless=True, quality=100, method=6),
    }
    try:
        import pillow_jxl  # noqa: F401  # registers the format

        found["jpeg xl"] = single_files(grey, "JXL", lossless=True, effort=9)
    except ImportError:
        print("Without pillow-jxl-plugin, which pip installs, JPEG XL is left out.")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and add to the CSV."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compression", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", type=Path, default=DATA, help="with tables/ and mnist/")
    parser.add_argument("--only", choices=("tables", "images"), default="")
    parser.add_argument("--tables", nargs="*", default=TABLES)
    parser.add_argument("--model", default="pixel-mnist", help="of images")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.out.is_dir():
        parser.error(f"--out {options.out} is a folder: name the CSV file.")
    torch.set_num_threads(1)
    tasks: dict[str, Callable[[], dict[str, float]]] = {}
    if options.only != "images":
        tasks |= {
            name: lambda name=name: table_sizes(name, options.data) for name in options.tables
        }
    if options.only != "tables":
        tasks["MNIST"] = partial(image_sizes, options.model, options.data, options.images)
    known = pd.read_csv(options.out).to_dict("records") if options.out.is_file() else []
    for name, task in tasks.items():
        found = task()
        print(name, *(f"{what} {value:,}" for what, value in found.items()), sep="  ", flush=True)
        known = [line for line in known if line["data"] != name]
        known += [{"data": name, "what": what, "value": value} for what, value in found.items()]
        pd.DataFrame(known).to_csv(options.out, index=False, lineterminator="\n")

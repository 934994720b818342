"""Whole and harmless files of each kind that diffeo reads, made by diffeo itself; and a pickle."""

import io
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from .commands import run

SMALL = ["--trainer.max_epochs=2", "--trainer.batch_size=16", "--trainer.figure_every=9"]
TABLE = ["train", "--data=rows.csv", "--out=run", "--model.layers=2", "--model.hidden=[4]", *SMALL]
GLOW = ["train", "--data=images", "--out=glow", "--model=Glow", "--model.levels=1", *SMALL]
GLOW += ["--model.steps=1", "--model.hidden_channels=2"]
# Commands that read each kind of file; what they write is not looked at.
SCORE = ["score", "run", "--out=s.csv", "--data"]
TYPICALITY = ["score", "run", "--out=s.csv", "--kind=typicality", "--data"]
SCORE_IMAGES = ["score", "glow", "--out=s.csv", "--data"]
SAMPLE = ["sample", "run", "-n=2", "--out=s.csv"]
SAMPLE_IMAGES = ["sample", "glow", "-n=2", "--out=s.npy"]
EDIT = ["edit", "glow", "-n=1", "--data=images", "--attribute=age", "--directions"]
RESUME, EVALUATE = ["train", "--resume", "run"], ["eval", "run"]
# Settings are read and checked, and then no run begins, since `run` holds one.
CONFIGURE = ["train", "--data=rows.csv", "--out=run", "--config"]


class Bomb:  # whoever unpickles it writes a file
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


def data(folder: Path) -> None:
    """Write a table and images in every format."""
    rng = np.random.default_rng(0)
    rows, pixels = rng.standard_normal((60, 2)), rng.integers(0, 256, (24, 4, 4), dtype=np.uint8)
    folder.mkdir(parents=True)
    np.savetxt(folder / "rows.csv", rows, delimiter=",", header="x,y", comments="")
    np.save(folder / "rows.npy", rows)
    np.savez(folder / "rows.npz", x=rows, columns=np.array(["x", "y"]))
    np.savez_compressed(folder / "images.npz", x=pixels, y=np.arange(24) % 2)
    pq.write_table(pa.table([*rows.T], ["x", "y"]), folder / "rows.parquet", row_group_size=8)
    contents = [image("PNG", array) for array in pixels]
    column = [{"bytes": content, "path": None} for content in contents]
    pq.write_table(pa.table({"image": column}), folder / "images.parquet", row_group_size=4)
    names = [f"{'ab'[i % 2]}/{i}.png" for i in range(24)]
    for name, content in zip(names, contents, strict=True):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(content)
    lines = ["file_name,age", *(f"{name},{i}" for i, name in enumerate(names))]
    (folder / "images/metadata.csv").write_text("\n".join(lines) + "\n")


@cache
def whole(folder: Path) -> Path:
    """A folder with these data, a run of the table, one of the images, and its directions."""
    data(folder)
    for words in (TABLE, GLOW, ["directions", "glow", "--data=images", "--out=age.safetensors"]):
        if (done := run(words, folder)).status:
            raise RuntimeError(f"{words}: {done}")
    shutil.copy(folder / "run/config.yaml", folder / "settings.yaml")
    return folder


def encoded() -> list[bytes]:
    """An image in each format that is read, in colours and in grey."""
    kinds = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "ICO", "AVIF")
    pixels = np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return [image(kind, array) for kind in kinds for array in (pixels, pixels[..., 0])]


def image(kind: str, pixels: np.ndarray, **options: Any) -> bytes:
    return saved(lambda file: Image.fromarray(pixels).save(file, kind, **options))


def saved(save: Callable[..., Any]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def nodes(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value in a tree of dicts and lists; of long lists the first few."""
    if path:
        yield path
    if isinstance(tree, list):
        tree = dict(enumerate(tree[:3]))
    for key in tree if isinstance(tree, dict) else ():
        yield from nodes(tree[key], (*path, key))


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of a tree with another value at a path."""
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = replaced(tree[path[0]], path[1:], value)
    return copy

"""Small files of each kind that diffeo reads, whole and harmless; and a pickle that is not."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

import diffeo
from diffeo.data import ImageOptions, load_gallery
from diffeo.latent import Directions

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
CONFIG = """\
model: {class_path: diffeo.RealNVP, init_args: {layers: 2, hidden: [4]}}
data: {source: rows.csv, columns: null, context: null, rows: null, noise: null,
  splits: [0.8, 0.1, 0.1], seed: 0, dequantize: false, delimiter: null, size: null}
seed: 0
precision: float32
trainer: {max_epochs: 1, device: cpu}
"""


class Bomb:
    """Whoever unpickles it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)

    def bytes(self) -> bytes:
        """Itself, pickled."""
        return pickle.dumps(self)


def table_model(folder: Path) -> None:
    """A flow of two columns, which knows what rows like its own score."""
    flow = diffeo.RealNVP(2, layers=3, hidden=[4]).eval()
    flow.metadata = {"columns": ["x", "y"], "context_columns": [], "data": "rows"}
    code = {"edges": [-1.0, 0.0, 1.0], "counts": [3, 4]}
    quantiles = np.linspace(-9, -1, 101).tolist()
    flow.metadata["scores"] = {
        "events": 9, "mean": -3.0, "quantiles": quantiles, "codes": [code, code]
    }  # fmt: skip
    flow.save_pretrained(folder)


def image_model(folder: Path) -> None:
    """A flow of grey pictures of 4 x 4 pixels."""
    flow = diffeo.Glow([1, 4, 4], levels=1, steps=1, hidden_channels=2)
    flow.initialize(torch.randint(0, 256, (8, 1, 4, 4), dtype=torch.uint8))
    flow.eval().metadata = {"size": 4, "context_columns": []}
    flow.save_pretrained(folder)


def directions(path: Path) -> None:
    """The directions of two attributes in the z of `image_model`."""
    vectors = torch.linspace(-1, 1, 32, dtype=torch.float64).reshape(2, 16)
    found = Directions(["a", "b"], vectors, [3, 4], [4, 3], "mean", "diffeo.Glow", [(4, 2, 2)])
    found.save(path)


def run_folder(folder: Path) -> None:
    """A run of `table_model`, without checkpoints."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    table_model(folder / "model")


def pictures(folder: Path) -> None:
    """Two classes of pictures with attributes."""
    lines = ["file_name,age"]
    for i in range(8):
        path = folder / f"{'ab'[i % 2]}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture("PNG", pixels(i)))
        lines.append(f"{path.relative_to(folder)},{i}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def picture(kind: str, array: Pixels, **options: Any) -> bytes:
    """A picture in one of Pillow's formats."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def cache(folder: Path, source: Path) -> Path:
    """What `load_images` keeps of a folder of pictures; the only one of its folder."""
    load_gallery(ImageOptions(str(source), cache=str(folder)))
    (kept,) = folder.iterdir()
    return kept


def rows() -> Any:
    """Twenty rows of two columns."""
    return np.random.default_rng(0).normal(size=(20, 2))


def csv(path: Path) -> None:
    """`rows` as CSV."""
    path.write_text("x,y\n" + "".join(f"{x:.4f},{y:.4f}\n" for x, y in rows()))


def parquet(path: Path) -> None:
    """`rows` as parquet, with pandas' notes."""
    x, y = rows().T
    table = pa.table({"x": x, "y": y, "z": pa.array([f"{i % 3}" for i in range(20)])})
    notes = {b"pandas": json.dumps({"index_columns": [], "columns": []}).encode()}
    pq.write_table(table.replace_schema_metadata(notes), path, row_group_size=8)


def image_parquet(path: Path) -> None:
    """Pictures in a column, as Hugging Face writes them."""
    encoded = [picture("PNG", pixels(i)) for i in range(8)]
    images = pa.array([{"bytes": content, "path": None} for content in encoded])
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    notes = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = pa.table({"image": images, "label": pa.array([0, 1] * 4)})
    pq.write_table(table.replace_schema_metadata(notes), path, row_group_size=4)


def npy(path: Path) -> None:
    """`rows` without names."""
    np.save(path, rows())


def npz(path: Path) -> None:
    """`rows` with the names of columns."""
    np.savez(path, x=rows(), columns=np.array(["x", "y"]))


def image_npz(path: Path) -> None:
    """Pictures and labels."""
    np.savez_compressed(path, x=np.stack([pixels(i) for i in range(8)]), y=np.arange(8) % 2)


def checkpoint(path: Path) -> None:
    """What a checkpoint holds: tensors and plain values."""
    flow = diffeo.RealNVP(2, layers=2, hidden=[4])
    torch.save({"state_dict": flow.state_dict(), "epoch": 3, "callbacks": {"a": {"best": 1}}}, path)


def zipped(path: Path, members: dict[str, bytes]) -> None:
    """A zip file of these members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def saved(save: Callable[..., Any], *values: Any, **options: Any) -> bytes:
    """What a function such as `np.save` writes into a file."""
    file = io.BytesIO()
    save(file, *values, **options)
    return file.getvalue()


def pixels(seed: int) -> Pixels:
    """4 x 4 pixels of noise."""
    return np.random.default_rng(seed).integers(0, 256, (4, 4), dtype=np.uint8)

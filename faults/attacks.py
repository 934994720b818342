"""What a stranger may put into a file, as command lines of `diffeo` that meet it."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file

from faults import specimens, thrift
from faults.apart import Ended, apart
from faults.specimens import Bomb

Words = list[str]
MODEL = "config.json", "model.safetensors"
# Ends a training once its data are read and its model is made: the folder is in use.
STOP = ["--out", "pngs"]


def in_order(ended: Ended) -> bool:
    """Whether a command did its work, or said in one sentence why not; and said all plainly."""
    said = ended.said.splitlines()
    plain = all(line.replace("\t", "").isprintable() for line in said)
    if ended.status == 0:
        return plain
    errors = [line for line in said if line.startswith("diffeo: ")]
    return ended.status == 2 and plain and len(errors) == 1 and errors[0] == said[-1]


# Pickles ----------------------------------------------------------------------------------------


def pickles(here: Path, marker: Path, sample: bool) -> Iterator[Words]:
    """In the place of each file, and in each place of a file that could hold one."""
    bomb = Bomb(marker)
    raw = bomb.bytes()
    whole = specimens.saved(lambda file: torch.save({"state_dict": bomb, "epoch": 1}, file))
    objects = specimens.saved(np.save, np.array([[bomb, 1], [2, 3]], dtype=object))
    for number, content in enumerate((raw, whole, objects)):
        for name in MODEL:
            (here / f"m{number}{name}").mkdir()
            for other in MODEL:
                data = content if other == name else (here / "table" / other).read_bytes()
                (here / f"m{number}{name}" / other).write_bytes(data)
            yield ["sample", f"m{number}{name}", "-n", "2", "--out", "s.csv"]
        for ending in (".csv", ".parquet", ".npy", ".npz"):
            (here / f"p{number}{ending}").write_bytes(content)
            yield ["score", "table", "--data", f"p{number}{ending}"]
        (here / f"p{number}.safetensors").write_bytes(content)
        yield _edit(f"p{number}.safetensors")
        (here / f"f{number}").mkdir()
        (here / f"f{number}" / "x.png").write_bytes(content)
        yield ["score", "pictures", "--data", f"f{number}"]
        run = _run(here, f"r{number}")
        (run / "checkpoints").mkdir()
        for name in ("last.ckpt", "before.ckpt"):
            (run / "checkpoints" / name).write_bytes(content)
        yield ["train", "--resume", run.name]
    for key in ("x", "y", "columns"):
        members = {"x": np.zeros((8, 4, 4), np.uint8), "y": np.zeros(8, int)}
        members[key] = np.array([bomb] * 8, dtype=object)
        np.savez(here / f"o{key}.npz", allow_pickle=True, **members)
        yield ["score", "pictures", "--data", f"o{key}.npz"]
        yield ["score", "table", "--data", f"o{key}.npz"]
    yield from _arrow_pickles(here, raw)
    yield from _cache_pickles(here, objects)


def _arrow_pickles(here: Path, raw: bytes) -> Iterator[Words]:
    """Where pyarrow itself once unpickled a type that a file names."""
    for name in ("arrow.py_extension_type", "arrow.extension", "pandas.object"):
        notes = {b"ARROW:extension:name": name.encode(), b"ARROW:extension:metadata": raw}
        column = pa.field("x", pa.float64(), metadata=notes)
        schema = pa.schema([column, pa.field("y", pa.float64())], metadata={b"pandas": raw})
        table = pa.table([np.arange(9.0), np.arange(9.0)], schema=schema)
        pq.write_table(table, here / f"{name}.parquet")
        yield ["score", "table", "--data", f"{name}.parquet"]
        yield ["train", "--data", f"{name}.parquet", *STOP]


def _cache_pickles(here: Path, objects: bytes) -> Iterator[Words]:
    for name in ("pixels.npy", "labels.npy", "values.npy", "meta.json"):
        kept = specimens.cache(here / f"cache-{name}", here / "pngs")
        (kept / name).write_bytes(objects)
        yield ["train", "--data", "pngs", "--data.cache", f"cache-{name}", *STOP]


# Classes ----------------------------------------------------------------------------------------


def classes(here: Path, marker: Path, sample: bool) -> Iterator[Words]:
    """A class of a module that lies in the folder at hand, named in every place of settings."""
    code = (
        f"open({str(marker)!r}, 'w').close()\nfrom diffeo import RealNVP\nclass E(RealNVP): pass\n"
    )
    (here / "evil.py").write_text(code)
    named = {"class_path": "evil.E"}
    places: list[Any] = [
        {"model": "evil.E"}, {"model": named}, {"model": ["evil.E"]},
        {"model.class_path": "evil.E"},
        {"data": named}, {"data": "evil.E"}, {"optimizer": named}, {"optimizer": "evil.E"},
        {"trainer": named}, {"trainer": "evil.E"}, {"config": "inner.yaml"},
        {"config": ["inner.yaml"]}, {"model": "inner.yaml"}, {"model": "section.yaml"},
        {"optimizer": "section.yaml"}, {"train": {"model": "evil.E"}}, {"seed": named},
        {"model": {"class_path": "RealNVP", "init_args": {"hidden": named}}},
        {"model": {"class_path": "RealNVP", "dict_kwargs": {"hidden": named}}},
        {"model": "os.system"}, {"model": {"class_path": "subprocess.Popen", "init_args": {}}},
        "evil.E", ["evil.E"], {"precision": "evil.E"}, {"model": {"evil.E": None}},
    ]  # fmt: skip
    (here / "inner.yaml").write_text(json.dumps({"model": named}))
    (here / "section.yaml").write_text(json.dumps(named))
    stop = ["--data", "rows.csv", *STOP]
    for number, settings in enumerate(places):
        (here / f"s{number}.yaml").write_text(json.dumps(settings))
        yield ["train", "--config", f"s{number}.yaml", *stop]
    for option in ("--model", "--optimizer", "--trainer", "--config=", "--conf", "--mod"):
        file = "inner.yaml" if "conf" in option else "section.yaml"
        yield ["train", *([option + file] if option[-1] == "=" else [option, file]), *stop]
    for tag in ("object/apply:exec", "object/new:evil.E", "module:evil", "name:evil.E"):
        text = f'seed: !!python/{tag} [\'open("{marker}", "w").close()\']\n'
        run = _run(here, "tag-" + tag.replace("/", "-").replace(":", "-"))
        (run / "config.yaml").write_text(text + specimens.CONFIG)
        yield ["train", "--config", str(run / "config.yaml"), *STOP]
        yield ["train", "--resume", run.name]
        yield ["eval", run.name]
    run = _run(here, "evilrun")
    (run / "config.yaml").write_text(specimens.CONFIG.replace("diffeo.RealNVP", "evil.E"))
    yield ["train", "--resume", "evilrun"]
    yield from _models(here, [{"class": "evil.E"}, {"class": "evil"}, {"class": "os.system"}])


# Sizes ------------------------------------------------------------------------------------------


def sizes(here: Path, marker: Path, sample: bool) -> Iterator[Words]:
    """A model, or settings, of a few bytes that ask for everything."""
    many = 10**9
    arguments: list[dict[str, Any]] = [
        {"features": many}, {"layers": many}, {"hidden": [many, many]}, {"hidden": [30_000] * 2},
        {"context_features": many}, {"layers": -1}, {"layers": 10**30}, {"hidden": "x"},
        {"steps": [0.5] * 1000}, {"bound": None}, {"features": None}, {"features": [many, many]},
        {"unknown": 1}, {"base": "cauchy"}, {"hidden": [[[]]]}, {"hidden": [4] * 100_000},
    ]  # fmt: skip
    yield from _models(here, [{"arguments": {"features": 2} | said} for said in arguments])
    said: list[dict[str, Any]] = [
        {"metadata": {"columns": ["x"] * 10**6}}, {"metadata": {"columns": 5}}, {"metadata": []},
        {"metadata": {"columns": ["x", 1]}}, {"metadata": {"context_columns": ["a"]}},
        {"metadata": {"scores": {"events": 1}}}, {"metadata": {"scores": []}},
        {"stored_as": "float8"}, {"stored_as": ["a"]}, {"class": ["diffeo.NICE"]},
    ]  # fmt: skip
    yield from _models(here, said, ["--kind", "typicality"])
    pictures: list[dict[str, Any]] = [
        {"image_shape": [1, many, many]}, {"image_shape": [many, 4, 4]}, {"levels": many},
        {"steps": many}, {"hidden_channels": many}, {"bits": many}, {"bits": -1},
        {"num_classes": many}, {"image_shape": [1, 4]}, {"image_shape": 4}, {"margin": 10},
        {"permutation": "shuffle", "image_shape": [10**6, 4, 4]}, {"levels": 10**18},
    ]  # fmt: skip
    basic = {"image_shape": [1, 4, 4], "levels": 1, "steps": 1, "hidden_channels": 2}
    yield from _models(here, [{"arguments": basic | said} for said in pictures], of="pictures")
    deep = 10**5
    texts = ["[" * deep, '{"a":' * deep, "[" * deep + "]" * deep, "{}", "[]", "5", "", "\0",
             '{"class": "diffeo.RealNVP", "arguments": {"features": 1e999}}',
             '{"class": "diffeo.RealNVP", "arguments": {"features": ' + "9" * 5000 + "}}",
             "\ufeff{}"]  # fmt: skip
    for number, text in enumerate(texts):
        folder = here / f"text{number}"
        folder.mkdir()
        (folder / MODEL[0]).write_text(text)
        (folder / MODEL[1]).write_bytes((here / "table" / MODEL[1]).read_bytes())
        yield ["sample", folder.name, "--out", "s.csv"]
    laughs = "a0: &a0 [1, 1]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
    )
    yamls = [laughs, "a: &a [*a]\n", "[" * deep, "- " * deep, "{a: " * deep, "a: 1\n" * 10**6, "\0",
             "%YAML 9.9\n---\n", "? [1, 2]\n: 3\n", "seed: .nan\n", "seed: 1\nseed: 2\n", "\ufeff",
             "seed: " + "9" * 10**5, "&a " * deep]  # fmt: skip
    for number, text in enumerate(yamls):
        run = _run(here, f"yaml{number}")
        (run / "config.yaml").write_text(text)
        yield ["train", "--config", str(run / "config.yaml"), *STOP]
        yield ["eval", run.name]
    yield from _headers(here)


def _headers(here: Path) -> Iterator[Words]:
    """Headers of safetensors that lie, and tensors of other types."""
    entry = {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 8]}
    texts = [json.dumps({"a": entry}), "[" * 10**5, json.dumps({"a": dict(entry, shape=[-1])}),
             json.dumps({"a": dict(entry, shape=[0, 10**18], data_offsets=[0, 0])})]  # fmt: skip
    contents = [struct.pack("<Q", len(text)) + text.encode() + bytes(8) for text in texts]
    contents += [struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 10**8) + b"{}", b""]
    model = here / "table" / MODEL[1]
    contents += [model.read_bytes()[:-4], model.read_bytes() + bytes(4)]
    from safetensors.torch import load

    state = load(model.read_bytes())
    for dtype in (torch.float16, torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn):
        file = here / "other.safetensors"
        save_file({name: tensor.to(dtype) for name, tensor in state.items()}, file)
        contents.append(file.read_bytes())
    for number, content in enumerate(contents):
        folder = here / f"header{number}"
        folder.mkdir()
        (folder / MODEL[0]).write_bytes((here / "table" / MODEL[0]).read_bytes())
        (folder / MODEL[1]).write_bytes(content)
        yield ["sample", folder.name, "-n", "2", "--out", "s.csv"]
        (here / f"header{number}.safetensors").write_bytes(content)
        yield _edit(f"header{number}.safetensors")


# Pictures ---------------------------------------------------------------------------------------


def pictures(here: Path, marker: Path, sample: bool) -> Iterator[Words]:
    """Pictures larger than any, of many frames, damaged, or none."""
    small = np.arange(16, dtype=np.uint8).reshape(4, 4)
    png = specimens.picture("PNG", small)
    contents = {
        "60000.png": _png(60_000, 60_000), "wide.png": _png(60_000, 1), "high.png": _png(1, 60_000),
        "most.png": _png(2**31 - 1, 2**31 - 1), "none.png": _png(0, 0), "empty.png": b"",
        "cut.png": png[:-20], "half.png": png[: len(png) // 2], "head.png": png[:8],
        "text.png": _chunks(png, b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8))),
        "profile.png": _chunks(png, b"iCCP", b"k\0\0" + zlib.compress(bytes(10**8))),
        "words.png": _chunks(png, b"tEXt", b"k\0" + bytes(10**5)),
        "bitmap.png": specimens.picture("BMP", small), "page.png": b"<html></html>",
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
        "frames.gif": _frames("GIF", 3_000), "frames.webp": _frames("WEBP", 300),
        "frames.tif": _frames("TIFF", 1_000), "frames.png": _frames("PNG", 1_000),
        "icon.ico": _icon(_png(12_000, 12_000)), "exif.jpg": _exif(small),
        "profile.jpg": specimens.picture("JPEG", small, icc_profile=bytes(10**6)),
        "big.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24,
                                       0, 0, 0, 0, 0, 0),
        "big.ppm": b"P6 99999999 99999999 255\n", "big.jp2": _jpeg2000(small),
    }  # fmt: skip
    for name, content in contents.items():
        folder = here / f"of {name}"
        folder.mkdir()
        (folder / name).write_bytes(content)
        yield ["score", "pictures", "--data", folder.name]
    # Many at once, each of which is small only on the disk; with and without a size to scale to.
    (here / "many").mkdir()
    bomb = _png(9_000, 9_000, whole=True)
    for i in range(2 if sample else 6):
        (here / "many" / f"{i}.png").write_bytes(bomb)
    yield ["score", "pictures", "--data", "many"]
    yield ["train", "--data", "many", *STOP]


def _png(width: int, height: int, whole: bool = False) -> bytes:
    """A grey picture of zeros, of which only a little is there unless it is whole."""
    head = b"\x89PNG\r\n\x1a\n" + _chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    )
    rows = zlib.compress(bytes((width + 1) * (height if whole else 1)), 9 if whole else 1)
    return head + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _chunks(png: bytes, kind: bytes, data: bytes) -> bytes:
    """A PNG with a hundred chunks more after its first."""
    return png[:33] + _chunk(kind, data) * 100 + png[33:]


def _frames(kind: str, count: int) -> bytes:
    file = io.BytesIO()
    frames = [Image.new("L", (4, 4), i % 251) for i in range(count)]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


def _icon(png: bytes) -> bytes:
    """An icon that says it is of 16 x 16 pixels, and holds another picture."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png


def _exif(pixels: np.ndarray) -> bytes:
    exif = Image.Exif()
    exif[274] = 99  # an orientation that there is not
    exif[270] = "\x1b[31m" * 1_000
    return specimens.picture("JPEG", pixels, exif=exif)


def _jpeg2000(pixels: np.ndarray) -> bytes:
    """One whose header says that it is 2^31 wide."""
    content = bytearray(specimens.picture("JPEG2000", pixels, no_jp2=True))
    content[8:16] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    return bytes(content)


# Tables -----------------------------------------------------------------------------------------


def tables(here: Path, marker: Path, sample: bool) -> Iterator[Words]:
    """Rows and columns beyond counting, texts that never end, bombs."""
    for number, (columns, rows) in enumerate(((10**6, 10), (10**6, 10**12), (3, 10**12))):
        thrift.write_footer(here / f"f{number}.parquet", columns, rows)
    apart(lambda: _bombs(here, sample), here / "said.txt")
    nested = pa.table({"x": [[1.0, 2.0]] * 9, "y": [{"a": {"b": 1}}] * 9})
    pq.write_table(nested, here / "nested.parquet")
    texts = {
        "line": "x,y\n1,2\n" + "7" * (2**24 + 9), "header": "x" * (2**24 + 9), "nul": "x,y\n1,\0\n",
        "nulname": "x\0,y\n1,2\n", "open": 'x,y\n"1,2\n' + "3,4\n" * 10**5, "quote": '"x,y\n' * 9,
        "mac": "x,y\r1,2\r3,4\r", "none": "x,y", "bom": "\ufeffx,y\n1,2\n", "blank": "\n" * 10**6,
        "more": "x,y\n1,2,3,4\n", "less": "x,y\n1\n", "huge": "x,y\n1e999,2\n",
        "same": "x,x\n1,2\n",
        "columns": ",".join(map(str, range(10**6))) + "\n" + ",".join(["1"] * 10**6) + "\n",
    }  # fmt: skip
    for name, text in texts.items():
        (here / f"{name}.csv").write_text(text)
    (here / "mixed.csv").write_bytes(b"x,y\n1,2\n\xff\xfe,\xe4\n")
    (here / "utf16.csv").write_bytes("x,y\n1,2\n".encode("utf-16"))
    header = specimens.saved(np.save, np.zeros((2, 2)))
    for name, shape in (("long", (10**12, 2)), ("wide", (2, 10**9)), ("minus", (-5, 2))):
        (here / f"{name}.npy").write_bytes(_same_header(header, shape))
        specimens.zipped(here / f"{name}.npz", {"x.npy": _same_header(header, shape)})
    np.savez(here / "slip.npz", **{"../../x": np.zeros((3, 2)), "/etc/y": np.zeros((3, 2))})
    specimens.zipped(here / "words.npz", {"x": b"no array", "y.npy": b"", "../z.npy": header})
    endings = {".parquet", ".csv", ".npy", ".npz"}
    for path in sorted(path for path in here.iterdir() if path.suffix in endings):
        yield ["score", "table", "--data", path.name]
        if path.suffix != ".csv":
            yield ["score", "pictures", "--data", path.name]
        yield ["train", "--data", path.name, *STOP]


def _bombs(here: Path, sample: bool) -> int:
    """Files of kilobytes that unpack into gigabytes; written in a process of their own."""
    for name, many in (("x", pa.string()), ("image", pa.binary())):
        value = pa.array([b"\0" * 10**8]).cast(many)
        column = pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), value)
        table = pa.table({name: column, "y": np.arange(300.0)})
        options: dict[str, Any] = {"compression": "zstd", "store_schema": False}
        options |= {"dictionary_pagesize_limit": 2**30}
        pq.write_table(table, here / f"{name}.parquet", **options)
    if sample:
        return 0
    zeros = pa.table({"x": np.zeros(2**27 + 2**20), "y": np.zeros(2**27 + 2**20)})
    options = {"compression": "zstd", "use_dictionary": ["y"]}
    options |= {"row_group_size": 2**28, "data_page_size": 2**31 - 1}
    pq.write_table(zeros, here / "zeros.parquet", **options)
    np.savez_compressed(here / "bomb.npz", x=np.zeros((2**27 + 2**20, 1)))
    np.savez_compressed(here / "pixels.npz", x=np.zeros((2**18 + 9, 64, 64), np.uint8))
    return 0


def _same_header(content: bytes, shape: tuple[int, ...]) -> bytes:
    """An array of another shape than it has bytes for."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f8", "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + content[-32:]


# Names ------------------------------------------------------------------------------------------

ODD = ["line\nbreak", "\x1b[31mred\x1b[0m", "[bold]x", "[link=http:x]", "bell\a",
       "\udcff\udcfe", "\u202edlrow", "-rf", "a'b\"c", "$(x)", "%s{0}", ":smile:"]  # fmt: skip


def names(here: Path, marker: Path, sample: bool) -> Iterator[Words]:
    """Names that speak to the terminal, and what is no plain file."""
    png = (here / "pngs" / "a" / "0.png").read_bytes()
    for number, odd in enumerate(ODD):
        folder = here / f"n{number}"
        folder.mkdir()
        for name, content in ((f"{odd}.png", png), (f"{odd}.txt", b"no picture")):
            (folder / name).write_bytes(content)
        (here / f"{odd}.csv").write_text("a,b\n1,2\n")
        yield ["score", "pictures", "--data", folder.name, "--out", "s.csv"]
        yield ["score", "table", "--data", f"{odd}.csv"]
        yield ["train", f"--data={odd}.parquet", *STOP]
        yield ["sample", f"./{odd}"]
        (here / "header.csv").write_text(f'"{odd}",b\n1,2\n', errors="ignore")
        yield ["train", "--data", "header.csv", "--data.columns", "c", *STOP]
    os.mkfifo(here / "pipe.csv")
    (here / "zero.csv").symlink_to("/dev/zero")
    (here / "pipes").mkdir()
    (here / "loop").mkdir()
    (here / "loop" / "a.png").write_bytes(png)
    (here / "loop" / "back").symlink_to(here / "loop")
    (here / "loop" / "up").symlink_to("..")
    (here / "loop" / "self").symlink_to("self")
    (here / "self.csv").symlink_to("self.csv")
    (here / "folder.png").mkdir()
    (here / "folder.png" / "x.png").mkdir()
    for ending in ("csv", "parquet", "npy", "npz", "png", "safetensors", "yaml"):
        os.mkfifo(here / f"a.{ending}")
        (here / f"z.{ending}").symlink_to("/dev/zero")
        for file in (f"a.{ending}", f"z.{ending}"):
            if ending == "safetensors":
                yield _edit(file)
            elif ending == "yaml":
                yield ["train", "--config", file, *STOP]
            else:
                yield ["score", "table", "--data", file]
                yield ["score", "pictures", "--data", file]
                yield ["train", "--data", file, *STOP]
    for name in ("x.png", "metadata.csv", "train.parquet"):
        os.mkfifo(here / "pipes" / name)
        yield ["score", "pictures", "--data", "pipes"]
    for name in ("config.yaml", "model"):
        run = _run(here, f"piped-{name}")
        _remove(run / name)
        os.mkfifo(run / name)
        yield ["eval", run.name]
        yield ["train", "--resume", run.name]
    for source in ("loop", "self.csv", "folder.png", "pngs/a/0.png", "a\0b.csv", "~nobody/x.csv"):
        yield ["score", "pictures", "--data", source, "--out", "s.csv"]
        yield ["score", "table", "--data", source]
    (here / "closed.csv").write_text("x,y\n1,2\n")
    (here / "closed.csv").chmod(0)
    yield ["score", "table", "--data", "closed.csv"]
    texts = ["file_name,[/bold]\na/0.png,1\n", "file_name,a\n../../x,1\n", "x\n1\n",
             'file_name,"\x1b[1m"\na/0.png,"\x1b]0;t\a"\n']  # fmt: skip
    for number, text in enumerate(texts):
        folder = here / f"meta{number}"
        (folder / "a").mkdir(parents=True)
        (folder / "a" / "0.png").write_bytes(png)
        (folder / "metadata.csv").write_text(text)
        yield ["score", "pictures", "--data", folder.name, "--out", "s.csv"]
        yield ["train", "--data", folder.name, "--data.context", "c", *STOP]


# Caches -----------------------------------------------------------------------------------------


def caches(here: Path, marker: Path, sample: bool) -> Iterator[Words]:
    """Caches that are shorter than they say, or say what cannot be."""
    changes: dict[str, Callable[[Path], Any]] = {
        "short": lambda kept: os.truncate(kept / "pixels.npy", 140),
        "empty": lambda kept: os.truncate(kept / "pixels.npy", 0),
        "gone": lambda kept: (kept / "labels.npy").unlink(),
        "floats": lambda kept: np.save(kept / "pixels.npy", np.zeros((8, 1, 4, 4))),
        "shape": lambda kept: np.save(kept / "pixels.npy", np.zeros((8, 4, 4), np.uint8)),
        "labels": lambda kept: np.save(kept / "labels.npy", np.full(8, 10**6)),
        "text": lambda kept: np.save(kept / "labels.npy", np.array(["a"] * 8)),
        "link": lambda kept: _relink(kept / "pixels.npy", Path("/dev/zero")),
        "far": lambda kept: (kept / "pixels.npy").write_bytes(
            _same_header(bytes(32), (10**12, 1, 4, 4))
        ),
        "pipe": lambda kept: (_remove(kept / "meta.json"), os.mkfifo(kept / "meta.json")),
    }
    said: dict[str, Any] = {
        "names": 5, "label_names": [1, 2], "shape": [8, 1, 4, 10**9], "splits": {"train": 10**9},
        "gaps": [["\x1b[31m", "x"]], "unit": [], "attributes": {}, "other": 1,
    }  # fmt: skip
    for key, value in said.items():
        changes[key] = lambda kept, key=key, value=value: _say(kept / "meta.json", {key: value})
    for name, change in changes.items():
        kept = specimens.cache(here / f"cache-{name}", here / "pngs")
        change(kept)
        yield ["train", "--data", "pngs", "--data.cache", f"cache-{name}", *STOP]


# Parts ------------------------------------------------------------------------------------------


def _models(
    here: Path, said: list[dict[str, Any]], more: Words | None = None, of: str = "table"
) -> Iterator[Words]:
    """Models whose config.json says something else."""
    for entry in said:
        number = len(list(here.glob("model*")))
        folder = here / f"model{number}"
        folder.mkdir()
        config = json.loads((here / of / MODEL[0]).read_text()) | entry
        (folder / MODEL[0]).write_text(json.dumps(config))
        (folder / MODEL[1]).write_bytes((here / of / MODEL[1]).read_bytes())
        if more is None:
            yield ["sample", folder.name, "-n", "2", "--out", "s.npy"]
        else:
            yield ["score", folder.name, "--data", "rows.csv", *more]


def _run(here: Path, name: str) -> Path:
    """A run that is whole."""
    specimens.run_folder(here / name)
    return here / name


def _edit(directions: str) -> Words:
    return ["edit", "pictures", "--data", "pngs", "--attribute", "a", "--directions", directions]


def _say(path: Path, said: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | said))


def _remove(path: Path) -> None:
    if path.is_dir():
        for inner in path.iterdir():
            inner.unlink()
        path.rmdir()
    else:
        path.unlink()


def _relink(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


KINDS: dict[str, Callable[[Path, Path, bool], Iterator[Words]]] = {
    "A pickle in each file and in each place for one": pickles,
    "A stranger's class in settings, a run or a model": classes,
    "Models and settings that ask for 10^9 of anything": sizes,
    "Pictures of 60,000 pixels, of frames, damaged": pictures,
    "Tables without end, and bombs": tables,
    "Names with orders to the terminal; pipes, devices, loops": names,
    "Caches that lie": caches,
}

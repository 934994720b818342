"""Images: the pixels of every format, what is left out, the cache, splits, and every refusal."""

from __future__ import annotations

import io
import itertools
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from diffeo.data import ImageOptions, Images, augment, is_image_source, load_images
from diffeo.data.images import cache
from diffeo.data.images.decoding import UnreadableError, decode, open_image


def load(source: Path | str, **options) -> Images:
    return load_images(ImageOptions(str(source), cache="cache", **options))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def folder_of(path: Path, count: int = 10, shape: tuple[int, ...] = (6, 8)) -> Path:
    """PNG files 00.png, 01.png, ..., of which each has its number as its first pixel."""
    path.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = noise(*shape, seed=i)
        pixels[0, 0] = i
        (path / f"{i:02}.png").write_bytes(encoded(pixels))
    return path


def numbers(images: Images, name: str) -> list[int]:
    """The first pixels of a split."""
    return images.split(name).all()[:, 0, 0, 0].tolist()


def caches() -> list[Path]:
    """The folders of decoded images; the locks of their builds lie next to them."""
    return [path for path in Path("cache").iterdir() if path.suffix != ".lock"]


def everything(images: Images) -> list[int]:
    return sorted(n for name in ("train", "val", "test") for n in numbers(images, name))


# Decoding


def saved(image: Image.Image, kind: str, **keywords) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **keywords)
    return file.getvalue()


def pixel(content: bytes, **options) -> list[int]:
    """The values of the upper left pixel."""
    return decode(content, **options)[:, 0, 0].tolist()


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        ("1", 1, "PNG", [255]),
        ("L", 77, "PNG", [77]),
        ("L", 77, "BMP", [77]),
        ("LA", (0, 255), "PNG", [0]),
        ("LA", (0, 0), "PNG", [255]),
        ("LA", (0, 128), "PNG", [127]),
        ("RGB", (1, 2, 3), "PNG", [1, 2, 3]),
        ("RGB", (7, 7, 7), "PNG", [7, 7, 7]),
        ("RGB", (1, 2, 3), "TIFF", [1, 2, 3]),
        ("RGBA", (1, 2, 3, 255), "PNG", [1, 2, 3]),
        ("RGBA", (1, 2, 3, 0), "PNG", [255, 255, 255]),
        ("RGBA", (255, 0, 0, 51), "PNG", [255, 204, 204]),
        ("CMYK", (255, 0, 0, 0), "TIFF", [0, 255, 255]),
        ("CMYK", (0, 0, 0, 255), "TIFF", [0, 0, 0]),
    ],
)
def test_modes(mode, colour, kind, expected):
    assert pixel(saved(Image.new(mode, (3, 2), colour), kind)) == expected


def test_sixteen_bits_keep_their_upper_eight():
    values = np.array([[0, 255, 256, 0x1234, 0xFFFF]], dtype=np.uint16)
    for kind in ("PNG", "TIFF", "PPM"):
        content = saved(Image.fromarray(values), kind)
        assert decode(content)[0, 0].tolist() == [0, 0, 1, 0x12, 255]


def test_palettes():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert decode(saved(image, "PNG")).tolist() == [[[10, 200]], [[20, 100]], [[30, 50]]]
    assert decode(saved(image, "GIF"))[:, 0, 1].tolist() == [200, 100, 50]
    assert decode(saved(image, "PNG", transparency=0))[:, 0].T.tolist() == [
        [255, 255, 255],
        [200, 100, 50],
    ]
    image.putpalette([9, 9, 9, 8, 8, 8])
    assert decode(saved(image, "PNG")).tolist() == [[[9, 8]]]


def test_a_transparent_colour():
    assert pixel(saved(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG", transparency=(1, 2, 3))) == [
        255,
        255,
        255,
    ]
    assert pixel(saved(Image.new("L", (2, 2), 5), "PNG", transparency=5)) == [255]


def test_cmyk_jpeg_and_jpeg_of_greys():
    assert pixel(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")) == pytest.approx(
        [255, 0, 0], abs=4
    )
    assert decode(saved(Image.new("L", (8, 8), 9), "JPEG")).shape == (1, 8, 8)


def test_exif_turns_images_upright():
    upright = noise(3, 5)
    turns = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }
    for orientation, stored in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind in ("PNG", "TIFF"):
            content = saved(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
            np.testing.assert_array_equal(decode(content)[0], upright)


def test_grey_is_luma():
    content = saved(Image.new("RGB", (2, 2), (255, 0, 0)), "PNG")
    assert pixel(content, grey=True) == [76]
    assert pixel(content, grey=True, size=1) == [76]


def test_size_crops_the_middle_and_keeps_its_pixels():
    wide = noise(4, 9)
    np.testing.assert_array_equal(decode(encoded(wide), size=4)[0], wide[:, 2:6])
    np.testing.assert_array_equal(decode(encoded(wide.T.copy()), size=4)[0], wide.T[2:6])
    assert decode(encoded(wide), size=16).shape == (1, 16, 16)
    assert decode(encoded(noise(1, 500)), size=3).shape == (1, 3, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("shape", [(200, 320), (320, 200), (200, 201)])
def test_a_circle_stays_a_circle(shape, kind):
    y, x = np.mgrid[: shape[0], : shape[1]]
    middle = [(length - 1) / 2 for length in shape]
    disc = (np.hypot(y - middle[0], x - middle[1]) < 80) * np.uint8(255)
    small = decode(encoded(disc, kind), size=40)[0] / 255
    assert small.sum() == pytest.approx(np.pi * 16**2, rel=0.01)
    y, x = np.mgrid[:40, :40] - 19.5
    spread = [(small * axis**2).sum() for axis in (y, x)]
    assert spread[0] == pytest.approx(spread[1], rel=0.01)
    assert np.abs([(small * axis).sum() / small.sum() for axis in (y, x)]).max() < 0.15


def test_size_is_antialiased():
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255
    middle = decode(encoded(stripes), size=8)[0, 2:6, 2:6].astype(int)
    assert np.abs(middle - 127).max() <= 3


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


PNG = encoded(noise(40, 40))
UNREADABLE = {
    "truncated": (PNG[: len(PNG) // 2], "broken"),
    "truncated jpeg": (encoded(noise(40, 40), "JPEG")[:900], "broken"),
    "garbled": (PNG[:60] + bytes(200) + PNG[260:], "broken"),
    "text": (b"this is a note", "no images"),
    "nothing": (b"", "no images"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no images"),
    "bomb": (bomb(60_000, 60_000), "too large"),
    "wide": (bomb(10_001, 1), "too large"),
    "many pixels": (bomb(9_900, 9_900), "too large"),
    "floats": (saved(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), "of 32-bit values"),
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.filterwarnings("ignore:Image size")
def test_what_cannot_be_decoded(name):
    content, kind = UNREADABLE[name]
    for size in (None, 4):
        with pytest.raises(UnreadableError) as caught:
            decode(content, size=size)
        assert caught.value.kind == kind


# Folders


def test_a_folder_with_classes(tmp_path):
    folder_of(tmp_path / "f" / "dogs", 6)
    folder_of(tmp_path / "f" / "cats" / "deep inside", 4)
    (tmp_path / "f" / ".hidden").mkdir()
    (tmp_path / "f" / ".hidden" / "a.txt").write_text("no")
    (tmp_path / "f" / "cats" / ".DS_Store").write_text("no")
    images = load(tmp_path / "f")
    assert images.shape == (1, 6, 8) and images.name == "f" and images.notes == []
    assert images.label_names == ["cats", "dogs"]
    labels = torch.cat([images.split(name).labels for name in ("train", "val", "test")])
    assert labels.dtype == torch.int64 and labels.bincount().tolist() == [4, 6]
    assert [len(images.split(name)) for name in ("train", "val", "test")] == [8, 1, 1]


def test_a_folder_of_splits(tmp_path):
    for split, count in (("train", 10), ("Test", 3)):
        folder_of(tmp_path / "f" / split / "a", count)
        folder_of(tmp_path / "f" / split / "b", count)
    images = load(tmp_path / "f")
    assert images.label_names == ["a", "b"]
    assert [len(images.split(name)) for name in ("train", "val", "test")] == [18, 2, 6]
    assert sorted(numbers(images, "test")) == [0, 0, 1, 1, 2, 2]


def test_a_folder_without_classes_has_no_labels(tmp_path):
    images = load(folder_of(tmp_path / "f"))
    assert images.train.labels is None and images.label_names == [] and images.notes == []
    assert everything(images) == list(range(10))


def test_a_image_outside_the_classes_is_noted(tmp_path):
    folder_of(tmp_path / "f" / "a", 5)
    folder_of(tmp_path / "f", 1)
    images = load(tmp_path / "f")
    assert images.notes == [
        f"{tmp_path / 'f'}: 1 of 6 images have no label, so that their split has no labels"
    ]
    found = [images.split(name).labels is None for name in ("train", "val", "test")]
    assert sum(found) == 1


@pytest.mark.parametrize("colours_at", [0, 5, 9])
def test_one_image_in_colour_makes_all_three_channels(tmp_path, colours_at):
    folder = folder_of(tmp_path / "f")
    red = np.zeros((6, 8, 3), dtype=np.uint8)
    red[..., 0] = colours_at
    (folder / f"{colours_at:02}.png").write_bytes(encoded(red))
    images = load(folder)
    assert images.shape == (3, 6, 8) and everything(images) == list(range(10))
    x = torch.cat([images.split(name).all() for name in ("train", "val", "test")])
    coloured = x[x[:, 0, 0, 0] == colours_at]
    assert coloured[0, 1:].max() == 0
    for image in x[x[:, 0, 0, 0] != colours_at]:
        np.testing.assert_array_equal(image, [image[0].numpy()] * 3)
        expected = noise(6, 8, seed=int(image[0, 0, 0]))
        np.testing.assert_array_equal(image[0].ravel()[1:], expected.ravel()[1:])
    assert load(folder, grey=True).shape == (1, 6, 8)


def test_mixed_sizes_need_a_size(tmp_path):
    folder = folder_of(tmp_path / "f")
    folder_of(folder / "more", 2, (5, 7))
    sentence = refusal(lambda: load(folder))
    assert "00.png of 8 x 6" in sentence and "of 7 x 5 pixels" in sentence
    assert "pass --data.size N" in sentence
    assert load(folder, size=4).shape == (1, 4, 4)


def test_odd_names(tmp_path):
    folder = folder_of(tmp_path / "f", 4)
    for i, name in enumerate([" a b.png", "new\nline.png", "ünï.PNG", "no_ending", "-x.jpg"]):
        (folder / name).write_bytes(encoded(np.full((6, 8), 100 + i, np.uint8)))
    (folder / "bad\nname.png").write_bytes(b"no image")
    images = load(folder)
    assert everything(images) == [0, 1, 2, 3, 100, 101, 102, 103, 104]
    assert "\n" not in images.notes[0] and r"'bad\nname.png'" in images.notes[0]


def test_links(tmp_path):
    folder = folder_of(tmp_path / "f" / "real", 6)
    (folder / "up").symlink_to(tmp_path / "f")
    (folder / "itself").symlink_to(folder / "itself")
    (folder / "nowhere.png").symlink_to(tmp_path / "missing.png")
    (tmp_path / "f" / "another").symlink_to(folder)
    (tmp_path / "f" / "elsewhere").symlink_to(folder_of(tmp_path / "g", 3))
    os.mkfifo(tmp_path / "f" / "pipe")
    images = load(tmp_path / "f")
    assert images.label_names == ["elsewhere", "real"]
    assert everything(images) == [0, 0, 1, 1, 2, 2, 3, 4, 5]
    assert "2 unreadable" in images.notes[0] and "nowhere.png" in images.notes[0]


def with_bad_files(path: Path) -> Path:
    folder = folder_of(path, 20)
    for name in ("a", "b", "c", "d"):
        (folder / f"{name}.png").write_bytes(PNG[:500])
    (folder / "notes.txt").write_text("notes")
    (folder / "text.png").write_text("text")
    (folder / "bomb.png").write_bytes(bomb(60_000, 60_000))
    (folder / "many.png").write_bytes(bomb(9_900, 9_900))
    return folder


def test_what_cannot_be_read_is_left_out_with_a_note(tmp_path, recwarn):
    folder = with_bad_files(tmp_path / "f")
    images = load(folder)
    assert everything(images) == list(range(20))
    assert images.notes == [
        f"{folder}: left out 8 of 28 files: 4 broken (a.png, b.png, c.png, ...), "
        "2 too large (bomb.png, many.png), 2 no images (notes.txt, text.png)"
    ]
    assert load(folder).notes == images.notes  # from the cache
    assert not list(recwarn)


def test_strict_refuses_what_cannot_be_read(tmp_path):
    folder = with_bad_files(tmp_path / "f")
    for _ in range(2):
        sentence = refusal(lambda: load(folder, strict=True))
        assert "8 of 28 files" in sentence and "--data.strict" in sentence
        for name in ("a.png", "b.png", "c.png", "d.png", "bomb.png", "notes.txt", "text.png"):
            assert name in sentence
    assert load(folder_of(tmp_path / "g"), strict=True).notes == []


def test_no_image_at_all(tmp_path):
    (tmp_path / "empty" / ".git").mkdir(parents=True)
    assert "without files" in refusal(lambda: load(tmp_path / "empty"))
    (tmp_path / "empty" / "a.png").write_bytes(PNG[:500])
    (tmp_path / "empty" / "b.txt").write_text("text")
    sentence = refusal(lambda: load(tmp_path / "empty"))
    assert "no image that can be read: 1 broken (a.png), 1 no image (b.txt)" in sentence
    assert caches() == []


def test_the_first_rows(tmp_path):
    folder = folder_of(tmp_path / "f")
    assert everything(load(folder, rows=6)) == list(range(6))
    assert everything(load(folder, rows=99)) == list(range(10))


# The cache


def forbid(*_: object) -> None:
    raise AssertionError("decoded again")


def test_images_are_decoded_once(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "f")
    first = load(folder)
    (key,) = caches()
    names = ["meta.json", "pixels.bin", "values.npy"]
    assert sorted(p.name for p in key.iterdir()) == names
    assert json.loads((key / "meta.json").read_text())["shape"] == [10, 1, 6, 8]
    assert isinstance(first.train.pixels, np.memmap) and not first.train.pixels.flags.writeable
    monkeypatch.setattr(cache, "open_image", forbid)
    second = load(folder, seed=1, flip=True, shift=2, splits=(0.5, 0.3, 0.2))
    assert everything(second) == everything(first)
    with pytest.raises(AssertionError, match="decoded again"):
        load(folder, size=4)


def test_the_key_follows_the_content_and_the_options(tmp_path):
    folder = folder_of(tmp_path / "f")
    load(folder)
    changes = [{"size": 4}, {"grey": True}, {"rows": 5}]
    for count, options in enumerate(changes, 2):
        load(folder, **options)
        assert len(caches()) == count
    (folder / "00.png").write_bytes(encoded(np.full((6, 8), 200, np.uint8)))
    assert everything(load(folder)) == [*range(1, 10), 200]
    (folder / "00.png").rename(folder / "zz.png")
    load(folder)
    os.utime(folder / "zz.png", ns=(0, 0))
    load(folder)
    assert len(caches()) == 7


def test_a_file_is_known_by_its_bytes(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", noise(9, 4, 4))
    load(tmp_path / "a.npy")
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes())
    monkeypatch.setattr(cache, "open_image", forbid)
    load(tmp_path / "b.npy")
    np.save(tmp_path / "b.npy", noise(9, 4, 4, seed=1))
    with pytest.raises(AssertionError, match="decoded again"):
        load(tmp_path / "b.npy")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch, error):
    folder = folder_of(tmp_path / "f", 60)

    def interrupted(content, *options):
        if content.name == "33.png":
            raise error
        return open_image(content, *options)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "open_image", interrupted)
        with pytest.raises(error):
            load(folder)
    assert caches() == []
    assert everything(load(folder)) == list(range(60))


def test_what_a_killed_build_left_is_removed(tmp_path):
    folder = folder_of(tmp_path / "f", 40)
    code = (
        "import os; from diffeo.data.images import cache\n"
        "from diffeo.data import *\n"
        "decode = cache.open_image\n"
        "def killed(content, *options):\n"
        "    return os._exit(9) if content.name == '20.png' else decode(content, *options)\n"
        "cache.open_image = killed\n"
        f"load_images(ImageOptions({str(folder)!r}, cache='cache'))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    (partial,) = caches()
    assert partial.suffix == ".partial"
    other = Path("cache") / "beef.partial"
    other.mkdir()
    assert everything(load(folder)) == list(range(40))
    assert not partial.exists() and other.exists()


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


DAMAGE = {
    "no pixels": lambda key: (key / "pixels.bin").unlink(),
    "short pixels": lambda key: shortened(key / "pixels.bin"),
    "no attributes": lambda key: (key / "values.npy").unlink(),
    "short attributes": lambda key: shortened(key / "values.npy"),
    "other attributes": lambda key: np.save(key / "values.npy", np.zeros((10, 2), np.float32)),
    "no meta": lambda key: (key / "meta.json").unlink(),
    "short meta": lambda key: shortened(key / "meta.json"),
    "odd meta": lambda key: (key / "meta.json").write_text("[]"),
    "empty meta": lambda key: (key / "meta.json").write_text('{"gaps": []}'),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_cache_is_made_again(tmp_path, name):
    folder = folder_of(tmp_path / "f")
    load(folder)
    (key,) = caches()
    DAMAGE[name](key)
    assert everything(load(folder)) == list(range(10))
    assert caches() == [key] and len(list(key.iterdir())) == 3


def test_one_build_at_a_time(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "f")
    decoded = []

    def counted(*content):
        decoded.append(1)
        return open_image(*content)

    monkeypatch.setattr(cache, "open_image", counted)
    with ThreadPoolExecutor(3) as pool:
        for images in pool.map(load, [folder] * 3):
            assert everything(images) == list(range(10))
    assert len(decoded) == 10 and len(caches()) == 1


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "f")
    Path("cache").write_text("a file")
    assert "--data.cache" in refusal(lambda: load(folder))
    monkeypatch.setenv("DIFFEO_CACHE", str(tmp_path / "other"))
    load_images(ImageOptions(str(folder)))
    assert len(list((tmp_path / "other").glob("*/meta.json"))) == 1


def test_progress_is_shown_on_a_terminal(tmp_path):
    folder = folder_of(tmp_path / "f", 40)
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, force_interactive=terminal)
        load_images(ImageOptions(str(folder), cache=f"cache {terminal}"), console)
        assert ("decoding" in console.file.getvalue()) == terminal


# Arrays


LAYOUTS = {
    "(N, H, W)": ((20, 6, 8), (1, 6, 8)),
    "(N, H, W, 1)": ((20, 6, 8, 1), (1, 6, 8)),
    "(N, H, W, 3)": ((20, 6, 8, 3), (3, 6, 8)),
    "(N, 1, H, W)": ((20, 1, 6, 8), (1, 6, 8)),
    "(N, 3, H, W)": ((20, 3, 6, 8), (3, 6, 8)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ending", [".npy", ".npz", "compressed", "fortran"])
def test_arrays(tmp_path, layout, ending):
    shape, expected = LAYOUTS[layout]
    pixels = noise(*shape)
    pixels[:, 0, 0] = np.arange(20).reshape(20, *[1] * (len(shape) - 3))
    if len(shape) == 4 and shape[1] in (1, 3):
        pixels[:, :, 0, 0] = np.arange(20)[:, None]
    path = tmp_path / ("a.npy" if ending == ".npy" else "a.npz")
    if ending == ".npy":
        np.save(path, pixels)
    elif ending == "fortran":
        np.savez(path, np.asfortranarray(pixels))
    else:
        save = np.savez if ending == ".npz" else np.savez_compressed
        save(path, images=pixels, labels=np.arange(20)[:, None] % 3, other=np.zeros(3))
    assert is_image_source(str(path))
    images = load(path)
    assert images.shape == expected and everything(images) == list(range(20))
    for name in ("train", "val", "test"):
        split = images.split(name)
        rows = [int(n) for n in numbers(images, name)]
        if split.labels is not None:
            assert split.labels.tolist() == [n % 3 for n in rows]
        wanted = pixels[rows]
        if len(shape) == 3:
            wanted = wanted[:, None]
        elif shape[-1] in (1, 3):
            wanted = wanted.transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(split.all(), wanted)
    assert images.label_names == (["0", "1", "2"] if ending in (".npz", "compressed") else [])
    assert load(path, size=4, grey=True).shape == (1, 4, 4)


def test_labels_in_words(tmp_path):
    words = np.array(["cat", "dog", "ape"])[np.arange(12) % 3]
    np.savez(tmp_path / "a.npz", x=noise(12, 4, 4), y=words)
    images = load(tmp_path / "a.npz")
    assert images.label_names == ["ape", "cat", "dog"]


def test_digits_need_no_cache():
    images = load("digits")
    assert images.shape == (1, 8, 8) and images.label_names == [str(i) for i in range(10)]
    assert len(images.train) + len(images.val) + len(images.test) == 1797
    assert images.train.all().unique().tolist() == [v * 255 // 16 for v in range(17)]
    assert not Path("cache").exists() and images.name == "digits"
    assert load("digits", size=16).shape == (1, 16, 16)
    assert is_image_source("digits")
    from sklearn.datasets import load_digits

    assert images.train.labels.tolist() == load_digits().target[images.train.rows].tolist()


# Parquet and the hub


def table_of(count: int, first: int = 0, label: str | None = "label", bare: bool = False):
    """A table of images as Hugging Face writes it, or with bare bytes and no notes."""
    files = []
    for i in range(count):
        pixels = np.zeros((6, 8, 3), dtype=np.uint8)
        pixels[0, 0] = first + i
        files.append(encoded(pixels))
    columns = {"id": pa.array(range(count))}
    if bare:
        columns["photo"] = pa.array(files, pa.binary())
    else:
        structs = [{"bytes": p, "path": None} for p in files]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns["img"] = pa.array(structs, kind)
    if label is not None:
        columns[label] = pa.array([i % 3 for i in range(count)])
    table = pa.table(columns)
    if bare:
        return table
    features = {"img": {"_type": "Image"}}
    if label is not None:
        features[label] = {"_type": "ClassLabel", "names": ["ape", "bee", "cat", "dog"]}
    notes = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": notes})


@pytest.mark.parametrize("bare", [False, True])
def test_parquet(tmp_path, monkeypatch, bare):
    path = tmp_path / "a b.parquet"
    monkeypatch.setattr("diffeo.data.images.parquet.BATCH_ROWS", 7)
    pq.write_table(table_of(30, bare=bare), path, row_group_size=10)
    assert is_image_source(str(path))
    images = load(path)
    assert images.shape == (3, 6, 8) and everything(images) == list(range(30))
    assert images.label_names == (["0", "1", "2"] if bare else ["ape", "bee", "cat", "dog"])
    for name in ("train", "val", "test"):
        assert images.split(name).labels.tolist() == [n % 3 for n in numbers(images, name)]
    assert everything(load(path, rows=8)) == list(range(8))


def test_columns_are_found_or_named(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(table_of(9, label="fine_label"), path)
    assert load(path).label_names == ["ape", "bee", "cat", "dog"]
    pq.write_table(table_of(9, label="kind", bare=True), path)
    assert load(path).label_names == []
    assert load(path, label_column="kind", image_column="photo").label_names == ["0", "1", "2"]
    assert "'knd' (did you mean 'kind'?)" in refusal(lambda: load(path, label_column="knd"))
    assert "--data.image_column" in refusal(lambda: load(path, image_column="id"))
    assert "--data.label_column" in refusal(lambda: load(path, label_column="photo"))
    both = table_of(9, bare=True).append_column("other", table_of(9, 100, bare=True)["photo"])
    pq.write_table(both.append_column("kind", pa.array(list("xyzxyzxyz"))), path)
    assert everything(load(path)) == list(range(9))
    assert everything(load(path, image_column="other")) == list(range(100, 109))
    assert load(path, label_column="kind").label_names == ["x", "y", "z"]


def test_bad_rows_and_missing_labels_of_parquet(tmp_path):
    table = table_of(12)
    structs = table["img"].to_pylist()
    structs[1] = None
    structs[2] = {"bytes": b"text", "path": "2.png"}
    structs[4]["bytes"] = structs[4]["bytes"][:50]
    labels = [0, 1, -1, 2, 0, *[None] * 2, *[1] * 5]
    table = table.set_column(1, "img", pa.array(structs, table["img"].type))
    table = table.set_column(2, "label", pa.array(labels))
    pq.write_table(table, tmp_path / "a.parquet")
    images = load(tmp_path / "a.parquet")
    assert everything(images) == [0, 3, *range(5, 12)]
    left_out, unlabelled = images.notes
    assert "left out 3 of 12 rows: 2 no images (a.parquet row 2, a.parquet row 3), " in left_out
    assert "1 broken (a.parquet row 5)" in left_out and "2 of 9 images" in unlabelled


def test_a_folder_of_train_and_test_tables(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "README.md").write_text("# Data")
    pq.write_table(table_of(20), folder / "train-00000-of-00002.parquet")
    pq.write_table(table_of(20, 20), folder / "train-00001-of-00002.parquet")
    pq.write_table(table_of(9, 100), folder / "test.parquet")
    images = load(folder)
    assert is_image_source(str(folder)) and images.name == "set" and images.notes == []
    assert sorted(numbers(images, "test")) == list(range(100, 109))
    assert sorted(numbers(images, "train") + numbers(images, "val")) == list(range(40))
    assert len(images.val) == 4
    other = load(folder, seed=1)
    assert sorted(numbers(other, "test")) == list(range(100, 109))
    assert numbers(other, "val") != numbers(images, "val")
    first = load(folder, rows=30)
    assert sorted(numbers(first, "train") + numbers(first, "val")) == list(range(30))
    assert len(first.test) == 9
    pq.write_table(table_of(5, 200), folder / "validation.parquet")
    images = load(folder)
    assert sorted(numbers(images, "val")) == list(range(200, 205)) and len(images.train) == 40


def test_hub(monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the extra 'hub' is not installed")
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["ape", "bee", "cat"])}
    )

    def split(count: int, first: int):
        rows = table_of(count, first).select(["img", "label"]).to_pydict()
        return datasets.Dataset.from_dict(rows, features=features)

    splits = datasets.DatasetDict({"train": split(20, 0), "test": split(6, 100)})
    calls = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a: calls.append(a) or splits)
    images = load("hf://someone/something/small")
    assert calls == [("someone/something", "small")] and images.name == "small"
    assert images.label_names == ["ape", "bee", "cat"]
    assert sorted(numbers(images, "test")) == list(range(100, 106)) and len(images.val) == 2
    assert images.test.labels.tolist() == [(n - 100) % 3 for n in numbers(images, "test")]
    monkeypatch.setattr(cache, "open_image", forbid)
    load("hf://someone/something/small")
    assert "hf://one" in refusal(lambda: load("hf://one"))
    assert is_image_source("hf://someone/something/small")


def test_hub_without_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refusal(lambda: load("hf://a/b")) == (
        'reading hf:// needs the datasets package: pip install "diffeo[hub]"'
    )


# Splits


@given(
    rows=st.integers(3, 200),
    seed=st.integers(0, 2**32),
    weights=st.tuples(*[st.integers(1, 8)] * 3),
)
def test_splits_are_disjoint_exhaustive_and_seeded(tmp_path_factory, rows, seed, weights):
    path = tmp_path_factory.mktemp("splits") / "t.npy"
    np.save(path, np.arange(rows, dtype=np.uint8)[:, None, None])
    shares = tuple(weight / sum(weights) for weight in weights)

    def loaded() -> Images:
        return load(path, splits=shares, seed=seed)

    if rows - sum(max(1, round(rows * share)) for share in shares[1:]) < 1:
        assert "too few" in refusal(loaded)
        return
    images = loaded()
    parts = [numbers(images, name) for name in ("train", "val", "test")]
    assert all(parts) and sorted(itertools.chain(*parts)) == list(range(rows))
    for part, share in zip(parts, shares, strict=True):
        assert abs(len(part) - rows * share) <= 2
    assert parts == [numbers(loaded(), name) for name in ("train", "val", "test")]


def test_batches_keep_the_order_that_was_asked_for(tmp_path):
    images = load(folder_of(tmp_path / "f", 30, (6, 8, 3)))
    train = images.train
    indices = torch.tensor([5, 0, 23, 5, 1])
    batch = train.batch(indices)
    assert batch.dtype == torch.uint8 and batch.shape == (5, 3, 6, 8)
    np.testing.assert_array_equal(batch, train.pixels[train.rows[indices.numpy()]])
    batch += 1  # a copy: the cache stays as it is
    assert train.batch(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 6, 8)
    assert len(train.all(4)) == 4 and len(train.all(99)) == len(train.all()) == 24
    np.testing.assert_array_equal(train.all(4), train.all()[:4])
    assert "train, val, test" in refusal(lambda: images.split("valid"))


# Augmentation


@pytest.mark.parametrize(("flip", "shift"), [(False, 0), (True, 0), (False, 2), (True, 3)])
def test_augmented_images_are_moved_ones(flip, shift):
    x = torch.from_numpy(noise(300, 3, 5, 7))
    before = x.clone()
    y = augment(x, flip, shift, torch.Generator().manual_seed(0))
    assert y.dtype == torch.uint8 and y.shape == x.shape and (x == before).all()
    assert (y == augment(x, flip, shift, torch.Generator().manual_seed(0))).all()
    seen = set()
    for before, after in zip(x.numpy(), y.numpy(), strict=True):
        padded = np.pad(before, ((0, 0), (shift, shift), (shift, shift)), mode="edge")
        candidates = {
            (mirror, i, j): padded[:, i : i + 5, j : j + 7][..., :: -1 if mirror else 1]
            for mirror in {False, flip}
            for i in range(2 * shift + 1)
            for j in range(2 * shift + 1)
        }
        matches = [key for key, value in candidates.items() if (value == after).all()]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 0.85 * len(candidates)


def test_augmentation_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    augment(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), True, 1, torch.Generator().manual_seed(0))
    assert (torch.get_rng_state() == before).all()


# Refusals. Each makes a file, and gives the options and the words that the sentence must hold.


def array(pixels: np.ndarray, **others: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.savez(path, x=pixels, **others)


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


def truncated(path: Path) -> None:
    np.savez(path, x=noise(30, 20, 20))
    path.write_bytes(path.read_bytes()[:-2000])


def flipped(path: Path) -> None:
    np.savez(path, x=noise(30, 20, 20))
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)


plain = array(noise(9, 4, 4))
REFUSALS = {
    "floats": ("a.npz", array(np.zeros((9, 4, 4), np.float32)), {}, ["float32", "pass uint8"]),
    "axes": ("a.npz", array(noise(9, 4)), {}, ["(9, 4)", "(images, height, width)"]),
    "channels": ("a.npz", array(noise(9, 2, 4, 4)), {}, ["(9, 2, 4, 4)"]),
    "no rows": ("a.npz", array(noise(0, 4, 4)), {}, ["(0, 4, 4)", "no image"]),
    "no pixels": ("a.npz", array(noise(9, 0, 4)), {}, ["(9, 0, 4)"]),
    "two images": ("a.npz", array(noise(2, 4, 4)), {}, ["2 images", "--data.splits"]),
    "one image": ("a.npz", array(noise(1, 4, 4)), {}, ["1 image,"]),
    "no x": ("a.npz", lambda p: np.savez(p, a=noise(9, 4, 4), b=noise(3)), {}, ["a (9, 4, 4)"]),
    "labels": ("a.npz", array(noise(9, 4, 4), y=np.zeros(8, int)), {}, ["'y'", "(8,)"]),
    "float labels": ("a.npz", array(noise(9, 4, 4), y=np.zeros(9)), {}, ["'y'", "float64"]),
    "not a zip": ("a.npz", text("hello"), {}, ["damaged"]),
    "truncated": ("a.npz", truncated, {}, ["damaged"]),
    "flipped bit": ("a.npz", flipped, {}, ["damaged"]),
    "not an array": ("a.npy", text("hello"), {}, ["damaged"]),
    "not parquet": ("a.parquet", text("hello"), {}, ["damaged"]),
    "no image column": (
        "a.parquet",
        lambda p: pq.write_table(pa.table({"a": [1], "b": [2.0]}), p),
        {},
        ["no column of images", "a, b"],
    ),
    "column of an array": ("a.npz", plain, {"image_column": "x"}, ["--data.image_column"]),
    "one file": ("a.png", lambda p: p.write_bytes(PNG), {}, ["has 1 image, too few to split"]),
    "shift": ("a.npz", plain, {"shift": 4}, ["--data.shift", "4 x 4"]),
    "splits": ("a.npz", plain, {"splits": (0.9, 0.1, 0.1)}, ["--data.splits"]),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(tmp_path, name):
    file, make, options, words = REFUSALS[name]
    make(tmp_path / file)
    sentence = refusal(lambda: load(tmp_path / file, **options))
    for word in [file, *words]:
        assert word in sentence


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("digts", ["'digts'", "did you mean 'digits'"]),
        ("", ["--data.source"]),
        ("~no_such_user/a.npz", ["~no_such_user", "home"]),
        ("missing.npz", ["no file missing.npz"]),
        ("nowhere/", ["unknown source 'nowhere/'", "a folder of images"]),
        ("nowhere/x.parquet", ["no file nowhere/x.parquet"]),
    ],
)
def test_unknown_sources(source, words):
    sentence = refusal(lambda: load(source))
    assert all(word in sentence for word in words)
    assert not is_image_source(source)


def test_tables_are_no_image_sources(tmp_path):
    np.save(tmp_path / "t.npy", np.zeros((9, 2)))
    np.savez(tmp_path / "t.npz", x=np.zeros((9, 2)))
    pq.write_table(pa.table({"a": [1.0]}), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    (tmp_path / "bad.npz").write_text("no zip")
    for name in ("t.npy", "t.npz", "t.parquet", "t.csv", "bad.npz", "moons", "\0", "missing.npy"):
        assert not is_image_source(name)


# Real data


def test_real_data(shared_data):
    for name, shape, classes, first in (
        ("mnist", (1, 28, 28), 10, "0"),
        ("cifar10-jpeg", (3, 32, 32), 10, "airplane"),
    ):
        folder = shared_data / name
        if not folder.is_dir():
            pytest.skip(f"needs {folder}, which is not there")
        images = load(folder, rows=500)
        assert images.shape == shape and len(images.label_names) == classes
        assert images.label_names[0] == first and images.notes == []
        assert [len(images.split(s)) for s in ("train", "val", "test")] == [450, 50, 500]
        table = next(pq.ParquetFile(folder / "test.parquet").iter_batches(500)).to_pylist()
        row = int(images.test.rows[0]) - 500
        column = "image" if name == "mnist" else "img"
        image = np.asarray(Image.open(io.BytesIO(table[row][column]["bytes"])))
        np.testing.assert_array_equal(
            images.test.all(1)[0].permute(1, 2, 0).squeeze(-1).numpy(), image
        )
        assert images.test.labels[0] == table[row]["label"]

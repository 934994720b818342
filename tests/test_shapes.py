"""Drawn shapes: their pixels show what their attributes say, and no two of these say the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffeo.data import (
    DataOptions,
    draw_shapes,
    holds_images,
    is_image_source,
    load_data,
)
from diffeo.data.images import cache
from diffeo.data.images import synthetic as shapes

N, LARGE = 120, 192


@pytest.fixture(scope="module")
def drawn():
    """Images large enough to be measured, channels last, from 0 to 1, and their columns."""
    pixels, columns = draw_shapes(N, LARGE, seed=3)
    return pixels.transpose(0, 2, 3, 1) / 255, columns


@pytest.fixture(scope="module")
def coverage(drawn):
    """How far each pixel is of the shape's colour: greys have none. Filled ones are whole."""
    images, _ = drawn
    chroma = images.max(-1) - images.min(-1)
    return chroma > 0.16


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Values of sRGB `[..., 3]` as Oklab, by the matrices as published."""
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    first = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    second = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.cbrt(light @ np.array(first).T) @ np.array(second).T


def test_what_is_given_back(drawn):
    pixels, columns = draw_shapes(7, 20, seed=1)
    assert pixels.dtype == np.uint8 and pixels.shape == (7, 3, 20, 20)
    names = ["shape", "colour", "filled", "stroke", "size", "x", "y", "rotation", "dark"]
    assert list(columns) == names and all(column.shape == (7,) for column in columns.values())
    _, columns = drawn
    assert set(columns["shape"]) == {"circle", "square", "triangle"}
    assert set(columns["colour"]) == {"red", "green", "blue"}
    assert columns["filled"].dtype == columns["dark"].dtype == bool


# Geometry


def areas(columns) -> np.ndarray:
    """In squares of the image's width, by formulas of their own."""
    r = columns["size"]
    side = 1.3 * r * np.sqrt(3)
    known = {"circle": np.pi * r**2, "square": np.pi * r**2, "triangle": np.sqrt(3) / 4 * side**2}
    return np.select([columns["shape"] == name for name in known], list(known.values()))


def test_a_filled_shape_has_its_area(drawn, coverage):
    _, columns = drawn
    share = coverage.mean((1, 2)) / areas(columns)
    for name in ("circle", "square", "triangle"):
        chosen = columns["filled"] & (columns["shape"] == name)
        assert chosen.sum() >= 10
        assert share[chosen].mean() == pytest.approx(1, abs=0.01)
        np.testing.assert_allclose(share[chosen], 1, atol=0.02)


@pytest.mark.parametrize("size", [16, 32, 64, 192])
def test_edges_are_smooth_so_that_a_ring_has_its_area_at_every_size(size):
    """A pixel at an edge counts by its share: what light a ring takes away is what it covers."""
    found = []
    for side in (size, LARGE):
        pixels, columns = draw_shapes(600, side, seed=5)
        chosen = (columns["shape"] == "circle") & (columns["colour"] == "blue")
        chosen &= ~columns["filled"] & ~columns["dark"]
        images = pixels[chosen, 0].astype(float)  # blue has little red, paper has much
        steps = (np.arange(side) + 0.5) / side - 0.5
        plane = np.stack([np.ones((side, side)), *np.meshgrid(steps, steps)], -1).reshape(-1, 3)
        edge = (np.abs(plane[:, 1:]) > 0.5 - 0.04).any(1)  # the background alone, a plane
        fit, *_ = np.linalg.lstsq(plane[edge], images.reshape(-1, side**2).T[edge], rcond=None)
        found.append((plane @ fit).T - images.reshape(-1, side**2))
    small, large = found
    assert small.min() > -3  # nothing beyond the ring, and none lighter than the paper
    depth = np.array([np.median(light[light > light.max() / 2]) for light in large])
    r, stroke = columns["size"][chosen], columns["stroke"][chosen]
    assert len(r) > 20
    ring = np.pi * (r**2 - (r - stroke) ** 2)
    np.testing.assert_allclose(small.mean(1) / depth, ring, rtol=0.06)
    assert (small.mean(1) / depth / ring).mean() == pytest.approx(1, abs=0.01)


def test_the_centre_is_where_x_and_y_say(drawn, coverage):
    _, columns = drawn
    steps = (np.arange(LARGE) + 0.5) / LARGE
    total = coverage.sum((1, 2))
    x = (coverage * steps).sum((1, 2)) / total
    y = (coverage * steps[:, None]).sum((1, 2)) / total
    np.testing.assert_allclose(x, columns["x"], atol=0.004)
    np.testing.assert_allclose(y, columns["y"], atol=0.004)


def test_every_shape_stays_inside():
    pixels, _ = draw_shapes(2000, 64, seed=1)
    chroma = pixels.max(1).astype(int) - pixels.min(1)
    border = np.ones((64, 64), bool)
    border[1:-1, 1:-1] = False
    assert chroma[:, border].max() < 40 < chroma.max((1, 2)).min()


def test_a_corner_points_where_the_rotation_says(drawn, coverage):
    """The corner of a triangle that is farthest up, seen from its centre, clockwise from above."""
    _, columns = drawn
    steps = (np.arange(LARGE) + 0.5) / LARGE
    for i in np.flatnonzero(columns["shape"] == "triangle"):
        x, y = steps[None, :] - columns["x"][i], steps[:, None] - columns["y"][i]
        angle = np.rad2deg(np.arctan2(x, -y))
        reach = np.where(coverage[i] & (np.abs(angle) < 60), np.hypot(x, y), 0)
        tip = angle.ravel()[reach.argmax()]
        assert tip == pytest.approx(columns["rotation"][i], abs=3)
        assert reach.max() == pytest.approx(1.3 * columns["size"][i], rel=0.06)


def test_a_square_is_turned_as_the_rotation_says(drawn, coverage):
    _, columns = drawn
    steps = (np.arange(LARGE) + 0.5) / LARGE
    for i in np.flatnonzero(columns["shape"] == "square"):
        x, y = steps[None, :] - columns["x"][i], steps[:, None] - columns["y"][i]
        fourth = (coverage[i] * (x + 1j * y) ** 4).sum()  # points at the corners, 45 degrees off
        turned = (np.rad2deg(np.angle(-fourth)) / 4 + 45) % 90 - 45
        assert turned == pytest.approx(columns["rotation"][i], abs=1.5)


# Colours


def at(images, columns, distance) -> np.ndarray:
    """The pixels `[n, 3]` at a distance to the right of each centre, in widths of the image."""
    column = ((columns["x"] + distance) * LARGE).astype(int)
    row = (columns["y"] * LARGE).astype(int)
    return images[np.arange(len(images)), row, column]


def test_the_middle_is_filled_or_shows_the_background(drawn):
    images, columns = drawn
    middle = oklab(at(images, columns, 0))
    corners = oklab(images[:, [0, 0, -1, -1], [0, -1, 0, -1]])
    filled = columns["filled"]
    chroma = np.hypot(middle[:, 1], middle[:, 2])
    assert chroma[filled].min() > 0.11 and chroma[~filled].max() < 0.02
    np.testing.assert_allclose(middle[~filled], corners[~filled].mean(1), atol=0.02)


def test_colours_have_their_hues_and_one_lightness(drawn):
    images, columns = drawn
    middle = oklab(at(images, columns, 0))[columns["filled"]]
    names = columns["colour"][columns["filled"]]
    light = [middle[names == name, 0].mean() for name in ("red", "green", "blue")]
    assert max(light) - min(light) < 0.03
    assert np.abs(middle[:, 0] - 0.66).max() < 0.06
    angle = np.rad2deg(np.arctan2(middle[:, 2], middle[:, 1])) % 360
    for name, hue in (("red", 25), ("green", 150), ("blue", 255)):
        assert np.abs(angle[names == name] - hue).max() < 15
        assert np.ptp(angle[names == name]) > 8  # no two are quite the same


def test_dark_and_light_backgrounds(drawn):
    images, columns = drawn
    corners = oklab(images[:, [0, 0, -1, -1], [0, -1, 0, -1]])
    light = corners[..., 0].mean(1)
    assert light[columns["dark"]].max() < 0.35 and light[~columns["dark"]].min() > 0.85
    assert np.ptp(corners[..., 0], axis=1).min() > 0.01  # a gradient, and a subtle one
    assert np.ptp(corners[..., 0], axis=1).max() < 0.1
    assert np.hypot(corners[..., 1], corners[..., 2]).max() < 0.02


def test_the_outline_is_as_wide_as_the_stroke(drawn):
    """Along the ray to the right of a circle's centre, of hollow ones and of filled ones."""
    images, columns = drawn
    for i in np.flatnonzero(columns["shape"] == "circle"):
        row = int(columns["y"][i] * LARGE)
        start, stop = ((columns["x"][i] + np.array([0, 0.35])) * LARGE).astype(int)
        ray = oklab(images[i, row, start : min(stop, LARGE)])
        chroma = np.hypot(ray[:, 1], ray[:, 2])
        if columns["filled"][i]:
            outline = (chroma > 0.05) & (ray[:, 0] < ray[0, 0] - 0.1)
        else:
            outline = chroma > 0.075
        assert outline.sum() / LARGE == pytest.approx(columns["stroke"][i], abs=1.5 / LARGE)


# Randomness


def test_the_first_images_do_not_depend_on_how_many_there_are(monkeypatch):
    pixels, columns = draw_shapes(700, 16, seed=4)
    for n in (1, 255, 257, 600):
        fewer, known = draw_shapes(n, 16, seed=4)
        np.testing.assert_array_equal(fewer, pixels[:n])
        for name, column in known.items():
            np.testing.assert_array_equal(column, columns[name][:n])
    monkeypatch.setattr(shapes, "_PIXELS", 1000)  # nor on how many are drawn at once
    np.testing.assert_array_equal(draw_shapes(700, 16, seed=4)[0], pixels)


def test_a_seed_draws_the_same_in_every_process_and_another_others():
    code = (
        "from diffeo.data import draw_shapes; print(draw_shapes(20, 16, 9)[0].sum(dtype='int64'))"
    )
    once = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    state = np.random.get_state()[1].copy()
    pixels, columns = draw_shapes(20, 16, 9)
    assert int(once) == pixels.sum(dtype=np.int64)
    assert (np.random.get_state()[1] == state).all()
    other, others = draw_shapes(20, 16, 10)
    assert not np.isin(others["x"], columns["x"]).any() and (other != pixels).any((1, 2, 3)).all()


def test_no_images_repeat():
    _, columns = draw_shapes(2000, 1, seed=1)
    assert len(np.unique(columns["x"])) == 2000


def test_a_size_changes_the_pixels_and_nothing_else():
    small, large = draw_shapes(30, 16, 2), draw_shapes(30, 64, 2)
    for name, column in small[1].items():
        np.testing.assert_array_equal(column, large[1][name])
    averaged = large[0].reshape(30, 3, 16, 4, 16, 4).mean((3, 5))
    assert np.abs(averaged - small[0]).mean() < 2  # the same image, seen with fewer pixels


def test_attributes_are_independent():
    n = 20_000
    _, columns = draw_shapes(n, 1, seed=0)
    numbers = [
        *(columns["shape"] == name for name in ("circle", "square")),
        *(columns["colour"] == name for name in ("red", "green")),
        *(columns[name] for name in ("filled", "stroke", "size", "x", "y", "rotation", "dark")),
    ]
    # Squares too, since a range that depends on another attribute would not show in a mean.
    spread = [(v - v.mean()) ** 2 for v in numbers[5:-1]]
    owner = ["shape"] * 2 + ["colour"] * 2 + [*columns][2:] + [*columns][3:-1]
    found = np.corrcoef(np.array([*numbers, *spread], dtype=float))
    for i, one in enumerate(owner):
        for j, other in enumerate(owner):
            if one != other:
                assert abs(found[i, j]) < 4.5 / np.sqrt(n), (one, other)
    for values in columns.values():
        if values.dtype.kind in "Ub":
            counts = np.unique(values, return_counts=True)[1]
            np.testing.assert_allclose(counts / n, 1 / len(counts), atol=0.015)


# As data


def options(**changes) -> DataOptions:
    return DataOptions("shapes", cache="cache", **changes)


def test_shapes_as_data(monkeypatch):
    assert is_image_source("shapes") and holds_images(options(context=["filled"]))
    images = load_data(options(rows=300, size=16, seed=6))
    assert images.shape == (3, 16, 16) and images.name == "shapes" and images.notes == []
    pixels, columns = draw_shapes(300, 16, 6)
    names = [f"shape={name}" for name in ("circle", "square", "triangle")]
    names += [f"colour={name}" for name in ("blue", "green", "red")]
    names += ["filled", "stroke", "size", "x", "y", "rotation", "dark"]
    assert images.attribute_names == names
    for split in (images.train, images.val, images.test):
        np.testing.assert_array_equal(split.all(), pixels[split.rows])
        for name, found in zip(names, split.attributes.T, strict=True):
            column, _, value = name.partition("=")
            truth = columns[column] == value if value else columns[column]
            np.testing.assert_array_equal(found, truth[split.rows].astype(np.float32))
    monkeypatch.setattr(cache, "open_image", None)
    again = load_data(options(rows=300, size=16, seed=6))
    assert torch.equal(again.val.attributes, images.val.attributes)


def test_the_cache_follows_what_is_drawn(monkeypatch):
    changes = [{}, {"seed": 1}, {"size": 8}, {"rows": 20}]
    for count, change in enumerate(changes, 1):
        load_data(options(**{"rows": 10, "size": 4} | change))
        assert len(list(Path("cache").glob("*/"))) == count
    monkeypatch.setattr(shapes, "VERSION", 0)
    load_data(options(rows=10, size=4))
    assert len(list(Path("cache").glob("*/"))) == 5


def test_defaults():
    (part,) = shapes.open_shapes(options()).parts()
    assert len(part.names) == 20_000 and next(iter(part.contents)).shape == (24, 24, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: draw_shapes(0), ["n is 0", "from 1 on"]),
        (lambda: draw_shapes(1, 0), ["size is 0"]),
        (lambda: draw_shapes(1, 1, -1), ["seed is -1", "from 0 on"]),
        (lambda: load_data(options(seed=-1)), ["--data.seed is -1"]),
        (lambda: load_data(options(noise=0.1)), ["shapes holds images", "--data.noise"]),
        (lambda: load_data(options(label_column="shape")), ["shapes", "--data.label_column"]),
        (lambda: load_data(options(context=["fild"])), ["'fild'", "did you mean 'filled'"]),
        (lambda: load_data(DataOptions("shaeps")), ["'shaeps'", "did you mean 'shapes'"]),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    assert all(word in str(caught.value) for word in words)

"""Lossless files: round trips bit for bit, sizes by exact probabilities, and what is refused."""

import math
import zlib

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from commands import refused

from diffeo import PixelFlow, RealNVP
from diffeo.bijections.discrete import SoftmaxCDF
from diffeo.cli import main
from diffeo.compression import (
    compress_images,
    compress_table,
    container,
    decompress_images,
    decompress_table,
)
from diffeo.compression.coder import Reader, Writer
from diffeo.compression.container import Container, digest
from diffeo.compression.numbers import code_numbers
from diffeo.context import ContextSpec
from diffeo.data.tables.frames import encode
from diffeo.sklearn import FlowDensity

pytest.importorskip("constriction", reason="the files need constriction")
ROWS = 300


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """A table of every kind of column, with a value on its own, gaps, and what is no number."""
    random = np.random.default_rng(0)
    a = random.normal(size=ROWS)
    heavy = np.where(random.random(ROWS) < 0.3, -1.5, random.standard_cauchy(ROWS))
    gaps = np.where(random.random(ROWS) < 0.2, np.nan, np.exp(5 * random.normal(size=ROWS)))
    columns = {
        "a": a,
        "near": (2 * a + random.normal(size=ROWS) / 10).round(2),
        "heavy": heavy,
        "gaps": gaps,
        "when": pd.date_range("2020-01-01", periods=ROWS, freq="h"),
        "word": random.choice(["x", "y", "z"], ROWS),
        "flag": random.random(ROWS) < 0.5,
        "count": random.poisson(3, ROWS),
        "single": a.astype(np.float32),
        "name": [f"row {i}" for i in range(ROWS)],
    }
    return pd.DataFrame(columns)


@pytest.fixture(scope="module")
def flow(frame):
    return FlowDensity(random_state=0).fit(frame).flow_


def test_a_table_comes_back_bit_for_bit(flow, frame):
    packed = compress_table(flow, frame)
    pd.testing.assert_frame_equal(decompress_table(flow, packed), frame, check_exact=True)


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_any_number_of_rows_comes_back(flow, frame, rows):
    part = frame.iloc[:rows].reset_index(drop=True)
    found = decompress_table(flow, compress_table(flow, part))
    pd.testing.assert_frame_equal(found, part, check_exact=True)


def test_rows_that_the_model_cannot_have_come_back_too(flow, frame):
    other = frame.copy()
    other.loc[5, "word"] = "never seen"
    other.loc[6, "when"] = pd.Timestamp("2031-01-01 00:00:01")
    other.loc[7, "heavy"] = 1e300
    other.loc[8, "near"] = 0.123456
    other.loc[9, "count"] = -4
    other.loc[10, "a"] = -0.0
    found = decompress_table(flow, compress_table(flow, other))
    pd.testing.assert_frame_equal(found, other, check_exact=True)
    assert np.signbit(found["a"][10])


def test_a_table_of_known_probabilities_takes_their_bits():
    random = np.random.default_rng(1)
    n = 4_000
    x = random.choice(3, n, p=[0.9, 0.09, 0.01])
    known = pd.DataFrame({"x": np.array(["a", "b", "c"])[x], "y": (x + random.choice(2, n)) * 10})
    fitted = FlowDensity(random_state=0).fit(known).flow_
    # Of x the entropy of the shares in these rows, of y one bit.
    share = np.bincount(x) / n
    truth = n * (1 - (share * np.log2(share)).sum()) / 8
    size = len(compress_table(fitted, known))
    empty = len(compress_table(fitted, known.iloc[:0]))
    assert truth * 0.99 < size - empty < truth * 1.04


def size_of_cells(flow, frame):
    """In bytes, of all that the model codes."""
    packed = compress_table(flow, frame)
    return len(Container.unpack(packed, "tables", digest(flow)).parts["cells"])


def test_sizes_are_those_of_the_model_of_discrete_tables(frame):
    density = FlowDensity(random_state=0).fit(frame[["word", "flag", "count"]])
    fitted, discrete = density.flow_, density.sample(4_000, random_state=0)
    x = torch.from_numpy(encode(fitted.schema, discrete))
    with torch.no_grad():
        bits = -float(fitted.log_prob(x).sum()) / math.log(2)
    assert size_of_cells(fitted, discrete) == pytest.approx(bits / 8, rel=2e-3)


def test_whole_numbers_take_the_bits_of_their_distribution():
    random = np.random.default_rng(2)
    numbers = torch.from_numpy(random.geometric(0.1, 5_000) - 1)

    def tails(keys, rows):
        above = 0.9 ** keys.double()
        return 1 - above, above

    writer = Writer()
    code_numbers(writer, tails, len(numbers), 0, int(numbers.max()), numbers)
    data = writer.finish()
    p = 0.1 * 0.9 ** numbers.double() / (1 - 0.9 ** (numbers.max() + 1).double())
    assert 8 * len(data) == pytest.approx(-float(p.log2().sum()), rel=1e-3, abs=64)
    found = code_numbers(Reader(data), tails, len(numbers), 0, int(numbers.max()))
    assert torch.equal(found, numbers)


def test_numbers_on_a_grid_take_the_bits_of_the_model_too():
    random = np.random.default_rng(3)
    tenths = pd.DataFrame({"x": (38.3 + random.normal(size=1_500)).round(1)})
    fitted = FlowDensity(random_state=0).fit(tenths).flow_
    with torch.no_grad():
        log_prob = fitted.log_prob(torch.from_numpy(encode(fitted.schema, tenths))).sum()
    bits = -(float(log_prob) + len(tenths) * math.log(0.1)) / math.log(2)
    assert size_of_cells(fitted, tenths) == pytest.approx(bits / 8, rel=2e-3, abs=8)


# Images -----------------------------------------------------------------------------------------


def small_flow(channels=1, **options):
    torch.manual_seed(0)
    flow = PixelFlow((channels, 5, 4), layers=2, hidden_channels=8, **options).eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return flow


@pytest.mark.parametrize(("channels", "head"), [(1, "softmax"), (3, "logistics")])
def test_images_come_back_and_take_the_bits_of_the_model(channels, head):
    flow = small_flow(channels, head=head)
    x = torch.randint(256, (400, channels, 5, 4), dtype=torch.uint8)
    packed = compress_images(flow, x)
    found, context = decompress_images(flow, packed)
    assert torch.equal(found, x)
    assert context is None
    with torch.no_grad():
        bits = float(flow.bits_per_dim(x).double().sum()) * x[0].numel()
    empty = len(compress_images(flow, x[:0]))
    assert 8 * (len(packed) - empty) == pytest.approx(bits, rel=5e-3)


def test_the_context_of_images_comes_back():
    flow = small_flow(context=3)
    x = torch.randint(256, (7, 1, 5, 4), dtype=torch.uint8)
    context = torch.randn(4, 3)[[0, 1, 2, 3, 3, 0, 1]]
    found, again = decompress_images(flow, compress_images(flow, x, context))
    assert torch.equal(found, x)
    assert torch.equal(again, context)


def test_classes_and_shares_of_several_come_back():
    flow = small_flow(context=ContextSpec.classes(3))
    x = torch.randint(256, (4, 1, 5, 4), dtype=torch.uint8)
    classes = torch.eye(3)[[2, 0, 1, 2]]
    sizes = []
    for context in (classes, torch.tensor([[0.5, 0.5, 0.0]]).expand(4, -1)):
        packed = compress_images(flow, x, context)
        found, again = decompress_images(flow, packed)
        assert torch.equal(found, x)
        assert torch.equal(again, context)
        sizes.append(len(packed))
    assert sizes[0] < sizes[1]  # the model knows the rows of its classes


# Refused ----------------------------------------------------------------------------------------


def test_a_file_of_another_model_or_precision_or_a_damaged_one_is_refused(flow, frame):
    one = small_flow()
    x = torch.randint(256, (3, 1, 5, 4), dtype=torch.uint8)
    packed = compress_images(one, x)
    other = small_flow()
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    with pytest.raises(ValueError, match="another model"):
        decompress_images(other, packed)
    with pytest.raises(ValueError, match="another precision"):
        decompress_images(small_flow().double(), packed)
    with pytest.raises(ValueError, match="holds images"):
        decompress_table(flow, packed)
    for place in (8, 11, 20, 40, len(packed) // 2, len(packed) - 1):
        damaged = bytearray(packed)
        damaged[place] ^= 4
        with pytest.raises(ValueError, match="damaged"):
            decompress_images(one, bytes(damaged))
    for part in (packed[:-3], packed[:10]):
        with pytest.raises(ValueError, match="damaged"):
            decompress_images(one, part)
    with pytest.raises(ValueError, match="no file of `diffeo compress`"):
        decompress_images(one, b"PNG")


def test_a_container_comes_back_and_has_few_bytes_of_its_own():
    facts = {"rows": 0, "coded": 2**40, "sum": 2**32 - 1}
    parts = {"limits": b"", "others": b"x" * 127, "rows": b"y" * 128, "places": b"", "cells": b"z"}
    made = Container("tables", "0123456789abcdef", facts, parts)
    assert Container.unpack(made.pack(), "tables", made.model) == made
    images = Container("images", made.model, {"images": 10_000, "sum": 0}, {"context": b""})
    images.parts["pixels"] = b"z" * 1_000
    assert len(images.pack()) == 1_024
    assert Container.unpack(images.pack(), "images", made.model) == images
    # A check sum that fits, of a file that ends too soon.
    first = images.pack()[container.CHECK.size :][: container.FIRST.size] + b"\xff"
    short = container.CHECK.pack(b"diffeo", zlib.crc32(first)) + first
    with pytest.raises(ValueError, match="damaged"):
        Container.unpack(short, "images", made.model)


def test_a_file_of_another_format_is_refused(monkeypatch):
    one = small_flow()
    monkeypatch.setattr(container, "VERSION", container.VERSION + 1)
    packed = compress_images(one, torch.zeros(1, 1, 5, 4, dtype=torch.uint8))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="install the one that wrote it"):
        decompress_images(one, packed)


def test_arithmetic_that_rounds_otherwise_is_found_out(monkeypatch):
    one = small_flow(head="softmax")
    x = torch.randint(256, (30, 1, 5, 4), dtype=torch.uint8)
    packed = compress_images(one, x)
    exact = SoftmaxCDF.probabilities
    monkeypatch.setattr(SoftmaxCDF, "probabilities", lambda self, p: exact(self, p * 1.001))
    with pytest.raises(ValueError, match="rounds otherwise"):
        decompress_images(one, packed)


def test_models_without_exact_probabilities_are_refused():
    with pytest.raises(ValueError, match="train a PixelFlow"):
        compress_images(RealNVP(4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="do not fit the model"):
        compress_images(small_flow(), torch.zeros(2, 1, 9, 4, dtype=torch.uint8))


def test_images_that_would_be_scaled_are_refused(tmp_path, capsys):
    small_flow().save_pretrained(tmp_path / "model")
    for folder, size in (("larger", (8, 10)), ("equal", (4, 5))):
        (tmp_path / folder).mkdir()
        PIL.Image.new("L", size, 7).save(tmp_path / folder / "one.png")
    small, back = tmp_path / "small.flow", tmp_path / "back.npy"
    arguments = ["--with", str(tmp_path / "model"), "--out"]
    sizes = ("8 x 10 pixels in 1 channel", "4 x 5 pixels in 1 channel")
    refused(["compress", str(tmp_path / "larger"), *arguments, str(small)], capsys, *sizes)
    assert not small.exists()
    assert main(["compress", str(tmp_path / "equal"), *arguments, str(small)]) == 0
    assert main(["decompress", str(small), *arguments, str(back)]) == 0
    assert np.array_equal(np.load(back), np.full((1, 1, 5, 4), 7))


def test_columns_without_names_are_refused(flow):
    with pytest.raises(ValueError, match="no text"):
        compress_table(flow, pd.DataFrame({0: [1.0]}))


def test_the_commands_round_trip_a_csv(tmp_path, frame):
    frame[["near", "word", "count"]].to_csv(tmp_path / "data.csv", index=False)
    small, back = tmp_path / "data.flow", tmp_path / "back.csv"
    run = str(tmp_path / "run")
    assert main(["train", "--data", str(tmp_path / "data.csv"), "--out", run]) == 0
    assert main(["compress", str(tmp_path / "data.csv"), "--with", run, "--out", str(small)]) == 0
    assert main(["decompress", str(small), f"--with={run}", "--out", str(back)]) == 0
    assert back.read_bytes() == (tmp_path / "data.csv").read_bytes()
    assert small.stat().st_size < back.stat().st_size

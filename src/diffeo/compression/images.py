"""Images in few bytes: each pixel by its distribution given the pixels before it."""

from __future__ import annotations

import io
import lzma
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffeo.bijections.discrete import DiscreteCDF
from diffeo.bijections.pixels import PixelAutoregressive
from diffeo.compression.coder import OTHERWISE, Coder, Reader, Writer
from diffeo.compression.container import Container, check_sum, digest
from diffeo.compression.numbers import code_numbers
from diffeo.flow import Flow
from diffeo.utils.machine import one_thread

IMAGES = 500  # that grow at once, pixel by pixel


def compress_images(flow: Flow, x: Tensor, context: Tensor | None = None) -> bytes:
    """Images uint8 `(n, C, H, W)` as few bytes, from which `decompress_images` makes them again.

        bits = -sum_i log2 P(pixel i | the pixels before it)

    Args:
        flow: a `PixelFlow` of 8 bits, on the CPU.
        x: the images.
        context: of each `(n, context_features)`, for a conditional flow; it is in the file too.

    Raises:
        ValueError: if the flow has no exact probabilities or fewer bits, or images of another
            shape, or constriction is missing.
    """
    pixels = _pixels(flow)
    if x.dtype != torch.uint8 or x.shape[1:] != flow.shape:
        raise ValueError(
            f"images {tuple(x.shape[1:])} of {x.dtype} do not fit the model: give it "
            f"{tuple(flow.shape)} of torch.uint8."
        )
    writer, encoded = Writer(), _encoded(flow, len(x), context)
    stored = b""
    if context is not None:
        values, which, stored = _different(flow, context)
        _rows(writer, len(x), len(values), which)
    with one_thread(), torch.no_grad():
        for start in range(0, len(x), IMAGES):
            part = slice(start, start + IMAGES)
            _code(writer, pixels, flow.shape, encoded[part], x[part])
    return Container(
        kind="images",
        model=digest(flow),
        facts={"images": len(x), "sum": check_sum(x)},
        parts={
            "pixels": writer.finish(),
            "context": stored,
        },
    ).pack()


def decompress_images(flow: Flow, data: bytes) -> tuple[Tensor, Tensor | None]:
    """The images `(n, C, H, W)` of `compress_images` and their context.

    Raises:
        ValueError: if the file is damaged, or was made with another model or by other arithmetic.
    """
    pixels = _pixels(flow)
    container = Container.unpack(data, "images", digest(flow))
    count, context, values = container.facts["images"], None, _classes(flow)
    reader, found = Reader(container.parts["pixels"]), []
    if container.parts["context"]:
        values = _unpacked(container.parts["context"])
    if values is not None:
        context = values[_rows(reader, count, len(values))]
    encoded = _encoded(flow, count, context)
    with one_thread(), torch.no_grad():
        for start in range(0, count, IMAGES):
            part = encoded[start : start + IMAGES]
            found.append(_code(reader, pixels, flow.shape, part))
    x = torch.cat(found) if found else torch.zeros(0, *flow.shape, dtype=torch.uint8)
    if check_sum(x) != container.facts["sum"]:
        raise ValueError(OTHERWISE)
    return x, context


def _pixels(flow: Flow) -> PixelAutoregressive:
    """The part of a flow that has the distribution of each pixel."""
    found = [part for part in flow.modules() if isinstance(part, PixelAutoregressive)]
    exact = len(found) == 1 and isinstance(found[0].univariate, DiscreteCDF)
    if not exact or getattr(flow.dequantizer, "bits", 0) != 8:
        raise ValueError(
            f"a {type(flow).__name__} compresses no images, since it has no exact probabilities of "
            "their 8 bits: train a PixelFlow."
        )
    return found[0]


def _different(flow: Flow, context: Tensor) -> tuple[Tensor, Tensor, bytes]:
    """The different rows of a context, which of them each image has, and what of them is stored."""
    classes = _classes(flow)
    if classes is not None:
        which = context.argmax(1)
        if torch.equal(classes[which], context):
            return classes, which, b""
    values, which = context.unique(dim=0, return_inverse=True)
    return values, which, _packed(values)


def _classes(flow: Flow) -> Tensor | None:
    """The rows of context of all classes of a class-conditional flow, which no file need hold."""
    category = flow.context.category
    return None if category is None else torch.eye(len(category.values))


def _encoded(flow: Flow, n: int, context: Tensor | None) -> Tensor:
    """What the network takes as context of n images, of no columns if it takes none."""
    found: Any = None
    if context is not None:
        with torch.no_grad():
            found = flow._encode_context(context.to(flow.device))
    return torch.zeros(n, 0) if found is None else found


def _code(
    coder: Coder,
    pixels: PixelAutoregressive,
    shape: tuple[int, ...],
    context: Tensor,
    known: Tensor | None = None,
) -> Tensor:
    """Write images, or read them."""
    x = torch.zeros(len(context), *shape)
    univariate = pixels.univariate
    assert isinstance(univariate, DiscreteCDF)  # as `_pixels` has seen to

    def choose(parameters: Tensor, c: int, i: int, j: int) -> Tensor:
        p = univariate.probabilities(parameters)
        symbols = coder.code(p, None if known is None else known[:, c, i, j].long())
        x[:, c, i, j] = symbols.float()
        return pixels.scaled(symbols.float())

    raster: Any = pixels.conditioner.raster
    raster(x.clone(), context if context.shape[1] else None, choose)
    return x.to(torch.uint8)


def _rows(coder: Coder, n: int, count: int, which: Tensor | None = None) -> Tensor:
    """Which of the different rows of a context each image has; all of them are equally likely."""

    def tails(keys: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        below = keys.double() / count
        return below, 1 - below

    return code_numbers(coder, tails, n, 0, count - 1, which)


def _packed(values: Tensor) -> bytes:
    file = io.BytesIO()
    np.save(file, values.numpy(force=True))
    return lzma.compress(file.getvalue(), preset=9)


def _unpacked(data: bytes) -> Tensor:
    return torch.from_numpy(np.load(io.BytesIO(lzma.decompress(data)), allow_pickle=False))

"""8-bit images in labelled rows and columns, and their reconstructions by a flow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from matplotlib.figure import Figure
from torch import Tensor

from diffeo.context import Context
from diffeo.data.images.writing import check_images, enlarged
from diffeo.figures.style import DPI, GREY, INK, house_style, mount, write
from diffeo.flow import Flow, eval_mode

# In pixels of the file: an image, at least; a row, about; the gap between images; the margin.
IMAGE, ROW, GAP, MARGIN = 112, 1_400, 4, 24
LETTER, LINE = 11, 26  # the width of a letter and the height of a line of a column's label
DRAWN, LABEL = 10, 56  # reconstructions at most, and the height of a row's label


@house_style()
def image_grid(
    x: UInt8[Tensor, "rows columns channels height width"],
    labels: Sequence[str],
    caption: str = "",
) -> Figure:
    """8-bit images `(rows, columns, C, H, W)`, a label above each column, and a caption.

    Each pixel becomes a square of whole pixels of the file, so large that the labels fit side by
    side. A label may have several lines: the first is dark, the others are light.

    Raises:
        ValueError: if x holds no such images, or there is not one label for each column.
    """
    if x.ndim != 5 or 0 in x.shape[:2] or len(labels) != x.shape[1]:
        raise ValueError(
            f"expected images of shape (rows, {len(labels)}, C, H, W) for {len(labels)} labels, "
            f"got {tuple(x.shape)}."
        )
    check_images(x[0])
    columns, (height, width) = len(labels), x.shape[3:]
    lines = [label.split("\n") for label in labels]
    longest = LETTER * max(len(line) for label in lines for line in label)
    scale = max(
        min(round(IMAGE / max(height, width)), ROW // (columns * width)),
        -(-64 // max(height, width)),
        -(-longest // width),
    )
    grid = enlarged(x.flatten(0, 1), columns, GAP, scale)
    above = LINE * max(map(len, lines)) + 12
    below = 50 if caption else MARGIN
    right = max(MARGIN, 9 * len(caption) + MARGIN - grid.shape[1])
    figure = mount(grid, MARGIN, right, below, MARGIN // 2 + above)
    for i, label in enumerate(lines):
        middle = MARGIN + i * (width * scale + GAP) + width * scale / 2
        bottom = below + grid.shape[0] + 10
        for row, line in enumerate(reversed(label)):  # the first line stands highest
            color, size = (INK, 8.5) if row == len(label) - 1 else (GREY, 7.5)
            place = middle / DPI, (bottom + row * LINE) / DPI
            write(figure, *place, line, color=color, size=size, ha="center", va="bottom")
    write(figure, MARGIN / DPI, 0.09, caption, size=8, color=GREY)
    return figure


@house_style()
def reconstructions(
    flow: Flow,
    x: UInt8[Tensor, "n channels height width"],
    context: Context | None = None,
) -> Figure:
    """Images x `(n, C, H, W)`, `decode(encode(x))`, and what remains without the finest latents.

    Below the decoded images, each row sets one more level of the latents to 0, the most likely
    value, until only the last and coarsest is left. At most the first 10 images are drawn. The
    caption counts how many of all come back bit for bit, in the bits that the flow models.

    Raises:
        ValueError: if x is no batch of images, or not of those that the flow takes.

    (after the conceptual compression of Gregor et al. 2016 and Dinh et al. 2017)
    """
    check_images(x)
    if not len(x):
        raise ValueError("there are no images to encode: pass at least one.")
    if flow.dequantizer is None:
        raise ValueError("this flow takes no 8-bit images: pass an image flow.")
    height, width = x.shape[2:]
    # Flat images are drawn larger, so that the two lines of a label fit next to them.
    scale = max(round(IMAGE / max(height, width)), -(-LABEL // height))
    drawn = max(1, min(len(x), DRAWN, ROW // (width * scale + GAP)))
    with eval_mode(flow):
        z = flow.encode(x, context)
        decoded = flow.decode(z, context)
        expected = flow.dequantizer.inverse(flow.dequantizer(x)[0])
        rows, labels = [x[:drawn], decoded[:drawn]], ["data", "decoded"]
        z, context = z[:drawn].clone(), None if context is None else context[:drawn]
        dropped = 0
        for level, shape in enumerate(flow.latent_shapes[:-1], start=1):
            dropped += math.prod(shape)
            z[:, :dropped] = 0
            rows.append(flow.decode(z, context))
            which = "level 1" if level == 1 else f"levels 1\N{EN DASH}{level}"
            share = 100 - 100 * dropped / flow.dims
            labels.append(f"without {which}\n{share:.3g} % of z left")
    exact = int((decoded == expected).flatten(1).all(dim=1).sum())
    caption = f"{exact:,} of {len(x):,} images come back bit for bit"
    if not torch.equal(expected, x):
        caption += ", in the bits that the flow models"
    if drawn < len(x):
        caption += f"; the first {drawn} are drawn" if drawn > 1 else "; the first is drawn"

    grid = enlarged(torch.cat(rows), drawn, GAP, scale)
    tall, wide = grid.shape[:2]
    left, bottom = 240, 64
    right = max(MARGIN, 10 * len(caption) + 2 * MARGIN - left - wide)
    figure = mount(grid, left, right, bottom, MARGIN)
    for i, (label, _, note) in enumerate(label.partition("\n") for label in labels):
        middle = bottom + tall - i * (height * scale + GAP) - height * scale / 2
        place = (left - 16) / DPI, middle / DPI
        write(figure, *place, f"{label}\n" if note else label, ha="right", va="center")
        write(figure, *place, f"\n{note}", size=7.5, color=GREY, ha="right", va="center")
    write(figure, MARGIN / DPI, 0.14, caption, size=8, color=GREY)
    return figure

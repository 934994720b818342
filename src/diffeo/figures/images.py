"""8-bit images in labelled columns, and their reconstructions by a flow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffeo.data.images.writing import check_images, enlarged
from diffeo.figures.style import DPI, GREY, INK, Drawing, house_style, panel, write
from diffeo.flow import Flow, eval_mode
from diffeo.utils.modules import on_device

# In pixels of the file: an image, at least; a row or column, about; the gap between images; the
# margin; the width of a letter and the height of a line of a label.
IMAGE, SIDE, GAP, MARGIN, LETTER, LINE = 112, 1_400, 4, 24, 11, 26
DRAWN = 8  # reconstructions, at most


@house_style()
def image_grid(x: Tensor, labels: Sequence[str], caption: str = "") -> Figure:
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
        min(round(IMAGE / max(height, width)), SIDE // (columns * width)),
        -(-64 // max(height, width)),
        -(-longest // width),
    )
    grid = enlarged(x.flatten(0, 1), columns, GAP, scale)
    tall, wide = grid.shape[:2]
    above, below = MARGIN // 2 + LINE * max(map(len, lines)) + 12, 50 if caption else MARGIN
    right = max(MARGIN, 9 * len(caption) + MARGIN - wide)
    figure = Drawing(figsize=((MARGIN + wide + right) / DPI, (below + tall + above) / DPI))
    axes = panel(figure, MARGIN / DPI, below / DPI, wide / DPI, tall / DPI)
    axes.imshow(grid, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for i, label in enumerate(lines):
        middle = MARGIN + i * (width * scale + GAP) + width * scale / 2
        for row, line in enumerate(reversed(label)):  # the first line is highest
            color, size = (INK, 8.5) if row == len(label) - 1 else (GREY, 7.5)
            place = middle / DPI, (below + tall + 10 + row * LINE) / DPI
            write(figure, *place, line, color=color, size=size, ha="center", va="bottom")
    write(figure, MARGIN / DPI, 0.09, caption, size=8, color=GREY)
    return figure


def reconstructions(flow: Flow, x: Tensor, context: Tensor | None = None) -> Figure:
    """Images x `(n, C, H, W)`, `decode(encode(x))`, and what remains without the finest latents.

    After the decoded images, each column sets one more level of the latents to 0, the most likely
    value, until only the last and coarsest is left. At most the first 8 images are drawn. The
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
    drawn = max(1, min(len(x), DRAWN, SIDE // max(IMAGE, *x.shape[2:])))
    x, context = on_device(x, context, flow.device)
    with eval_mode(flow):
        z = flow.encode(x, context)
        decoded = flow.decode(z, context)
        expected = flow.dequantizer.inverse(flow.dequantizer(x)[0])
        columns, labels = [x[:drawn], decoded[:drawn]], ["data", "decoded"]
        z, context = z[:drawn].clone(), None if context is None else context[:drawn]
        dropped, last = 0, len(flow.latent_shapes)
        for level, shape in enumerate(flow.latent_shapes[:-1], start=2):
            dropped += math.prod(shape)
            z[:, :dropped] = 0
            columns.append(flow.decode(z, context))
            left = f"levels {level}\N{EN DASH}{last}" if level < last else f"level {last}"
            labels.append(f"{left}\n{100 - 100 * dropped / flow.dims:.3g} % of z")
    exact = int((decoded == expected).flatten(1).all(dim=1).sum())
    caption = f"{exact:,} of {len(x):,} images come back bit for bit"
    if not torch.equal(expected, x):
        caption += ", in the bits that the flow models"
    if drawn < len(x):
        caption += f"; the first {drawn} are drawn" if drawn > 1 else "; the first is drawn"
    return image_grid(torch.stack(columns, dim=1), labels, caption)

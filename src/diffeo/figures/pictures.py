"""8-bit pictures there and back through a flow."""

from __future__ import annotations

import math

import torch
from jaxtyping import UInt8
from matplotlib.figure import Figure
from torch import Tensor

from diffeo.bijections.base import Context
from diffeo.data.images.sheets import check_images, enlarged
from diffeo.figures.style import GREY, INK, STYLE, house_style, mount, write
from diffeo.flow import Flow, eval_mode

# How many are drawn, and pixels of the file along one, along a row, and down a label.
DRAWN, CELL, ROW, LABEL = 10, 112, 1_400, 56


@house_style()
def reconstructions(
    flow: Flow,
    x: UInt8[Tensor, "n channels height width"],
    context: Context | None = None,
) -> Figure:
    """Pictures, `decode(encode(x))`, and what is left of them without the finest latents.

    Below the decoded pictures, each row sets one more level of the latents to 0, the most likely
    value, until only the last and coarsest is left: what survives there is what the flow keeps
    longest. At most the first 10 pictures are drawn; all are counted in the caption, which says
    how many come back bit for bit, in the bits that the flow models.

    Args:
        flow: a flow of 8-bit pictures.
        x: pictures `(n, C, H, W)`.
        context: `(n, context_features)` for a conditional flow.

    Raises:
        ValueError: if x is no picture, or none that this flow takes.

    (after the conceptual compression of Gregor et al. 2016 and Dinh et al. 2017)
    """
    check_images(x)
    if not len(x):
        raise ValueError("there are no pictures to encode: pass at least one.")
    if flow.dequantizer is None:
        raise ValueError("this flow takes no 8-bit pictures: pass an image flow.")
    height, width = x.shape[2:]
    # Flat pictures are drawn larger, so that two lines of a label fit beside them.
    scale, gap = max(round(CELL / max(height, width)), -(-LABEL // height)), 4
    drawn = max(1, min(len(x), DRAWN, ROW // (width * scale + gap)))
    with eval_mode(flow):
        z = flow.encode(x, context)
        decoded = flow.decode(z, context)
        kept = flow.dequantizer.inverse(flow.dequantizer(x)[0])
        rows = [x[:drawn], decoded[:drawn]]
        labels = [("data", ""), ("decoded", "")]
        z, context = z[:drawn].clone(), None if context is None else context[:drawn]
        dropped = 0
        for level, shape in enumerate(flow.latent_shapes[:-1], start=1):
            dropped += math.prod(shape)
            z[:, :dropped] = 0
            rows.append(flow.decode(z, context))
            which = "level 1" if level == 1 else f"levels 1\N{EN DASH}{level}"
            labels.append(
                (f"without {which}", f"{100 - 100 * dropped / flow.dims:.3g} % of z left")
            )
    exact = int((decoded == kept).flatten(1).all(dim=1).sum())
    caption = f"{exact:,} of {len(x):,} pictures come back bit for bit"
    if not torch.equal(kept, x):
        caption += ", in the bits that the flow models"
    if drawn < len(x):
        caption += f"; the first {drawn} are drawn" if drawn > 1 else "; the first is drawn"

    # In pixels of the saved file, so that each pixel of a picture is a square of whole ones.
    dpi = STYLE["savefig.dpi"]
    sheet = enlarged(torch.cat(rows), drawn, gap, scale)
    tall, wide = sheet.shape[:2]
    left, bottom, margin = 240, 64, 24
    right = max(margin, 10 * len(caption) + 2 * margin - left - wide)
    figure = mount(sheet, left, right, bottom, margin)
    for i, (label, note) in enumerate(labels):
        middle = bottom + tall - i * (height * scale + gap) - height * scale / 2
        place = (left - 16) / dpi, middle / dpi
        text = f"{label}\n" if note else label
        write(figure, *place, text, color=INK, ha="right", va="center")
        if note:
            write(figure, *place, f"\n{note}", size=7.5, color=GREY, ha="right", va="center")
    write(figure, margin / dpi, 0.14, caption, size=8, color=GREY)
    return figure

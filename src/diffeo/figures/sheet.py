"""Pictures in rows, with a label above each column."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import UInt8
from matplotlib.figure import Figure
from torch import Tensor

from diffeo.data.images.sheets import check_images, enlarged
from diffeo.figures.style import GREY, INK, STYLE, house_style, mount, write

# In pixels of the file: a picture, at least; all of them in a row, about; between two; the margin;
# a letter's width; a line of labels; the caption.
CELL, ROW, GAP, MARGIN, LETTER, LINE, CAPTION = 64, 1_400, 4, 24, 11, 26, 50


@house_style()
def labelled_sheet(
    x: UInt8[Tensor, "rows columns channels height width"],
    labels: Sequence[str],
    caption: str = "",
) -> Figure:
    """Pictures in rows and columns, with a label above each column and a caption below.

    Each pixel becomes a square of whole pixels of the file, so large that the labels fit side by
    side. A label may have several lines, of which the first is dark and the others are light.

    Args:
        x: 8-bit pictures `(rows, columns, C, H, W)`; channels as in `tile`.
        labels: of the columns.
        caption: one line, in grey.

    Raises:
        ValueError: if x holds no such pictures, or there is not a label for each column.
    """
    if x.ndim != 5 or 0 in x.shape[:2] or len(labels) != x.shape[1]:
        raise ValueError(
            f"expected pictures of shape (rows, {len(labels)}, C, H, W) for {len(labels)} labels, "
            f"got {tuple(x.shape)}."
        )
    check_images(x[0])
    columns, (height, width) = len(labels), x.shape[3:]
    lines = [label.split("\n") for label in labels]
    longest = LETTER * max(len(line) for label in lines for line in label)
    scale = max(
        min(round(112 / max(height, width)), ROW // (columns * width)),
        -(-CELL // max(height, width)),
        -(-longest // width),
    )
    sheet = enlarged(x.flatten(0, 1), columns, GAP, scale)
    above = LINE * max(map(len, lines)) + 12
    below = CAPTION if caption else MARGIN
    right = max(MARGIN, 9 * len(caption) + MARGIN - sheet.shape[1])
    figure = mount(sheet, MARGIN, right, below, MARGIN // 2 + above)
    dpi = STYLE["savefig.dpi"]
    for i, (first, *others) in enumerate(lines):
        # In whole pixels of the figure: the first line stands highest.
        middle = MARGIN + i * (width * scale + GAP) + width * scale / 2
        bottom = below + sheet.shape[0] + 10
        place = {"ha": "center", "va": "bottom"}
        for row, line in enumerate(reversed([first, *others])):
            color, size = (INK, 8.5) if row == len(others) else (GREY, 7.5)
            y = (bottom + row * LINE) / dpi
            write(figure, middle / dpi, y, line, color=color, size=size, **place)
    if caption:
        write(figure, MARGIN / dpi, 0.09, caption, size=8, color=GREY)
    return figure

"""Images and numbers as pieces of a page.

Images travel inside the page, as data: no visitor's image has an address of its own that
another could ask for.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from diffeo.data.images.dataset import Pixels
from diffeo.figures.style import STYLE


def png(x: Tensor) -> str:
    """An image `(C, H, W)`, uint8, pixel by pixel, as a data address."""
    return png_of(pixels_of(x))


def pixels_of(x: Tensor) -> Pixels:
    """Those of an image `(C, H, W)`: grey `(H, W)`, RGB or RGBA `(H, W, C)`."""
    pixels = x.permute(1, 2, 0).contiguous().numpy()
    return pixels if pixels.shape[2] in (3, 4) else pixels[..., 0]


def png_of(pixels: Pixels) -> str:
    """Grey `(H, W)`, RGB or RGBA `(H, W, C)` as a data address."""
    buffer = io.BytesIO()
    # Small images: the least compression costs no more bytes than the rest of the message.
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=1)
    return address(buffer.getvalue(), "image/png")


def address(content: bytes, kind: str) -> str:
    """Bytes as a data address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def grid(x: Tensor, captions: Sequence[str], columns: int, *, small: bool = False) -> str:
    """Images `(n, C, H, W)` in rows, each with its caption for those who do not see it."""
    items = "".join(
        f'<img src="{png(image)}" alt="{escape(caption, quote=True)}" '
        f'width="{image.shape[2]}" height="{image.shape[1]}">'
        for image, caption in zip(x, captions, strict=True)
    )
    look = "image-grid small" if small else "image-grid"
    return f'<div class="{look}" style="--columns: {columns}">{items}</div>'


def captioned(x: Tensor, caption: str, title: str = "") -> str:
    """One image `(C, H, W)` with words below it."""
    head = f"<strong>{escape(title)}</strong> " if title else ""
    alt = escape(f"{title}: {caption}" if title else caption, quote=True)
    return (
        f'<figure class="captioned"><img src="{png(x)}" alt="{alt}" '
        f'width="{x.shape[2]}" height="{x.shape[1]}">'
        f"<figcaption>{head}{escape(caption)}</figcaption></figure>"
    )


def save_link(pixels: Pixels, name: str) -> str:
    """A link that saves grey `(H, W)` or RGB `(H, W, C)` as a file of that name."""
    source = png_of(pixels)
    return f'<a class="save" download="{escape(name, quote=True)}" href="{source}">Save as PNG</a>'


def drawn(figure: Figure, alt: str) -> str:
    """A figure of the package; the page turns its colours round where it is dark."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=STYLE["savefig.dpi"])
    source = address(buffer.getvalue(), "image/png")
    return f'<img class="chart paper" src="{source}" alt="{escape(alt, quote=True)}">'


def trouble(text: str) -> str:
    """What went wrong and what to do, read out at once; nothing for no text."""
    return f'<p class="trouble" role="alert">{escape(text)}</p>' if text else ""


def note(text: str) -> str:
    """A quiet line."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def rows(head: Sequence[str], body: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table; cells that begin with `<img` are taken as they are, others as text."""

    def cell(text: str, tag: str) -> str:
        inner = text if text.startswith("<img ") else escape(text)
        return f"<{tag}>{inner}</{tag}>"

    top = "".join(cell(text, "th") for text in head)
    lines = "".join(f"<tr>{''.join(cell(text, 'td') for text in line)}</tr>" for line in body)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(caption or "table")}">'
        f"<table>{title}<thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>"
    )

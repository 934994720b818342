"""The image that other sites show with a link to this one: the figure of the front page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

SIZE = 1200, 630  # which all of them show whole


def on_post_build(config: Any) -> None:
    """Write `images/card.png` of the site."""
    with Image.open(Path(config.docs_dir) / "images" / "front.png") as figure:
        figure = figure.convert("RGB")
    figure.thumbnail((SIZE[0] - 80, SIZE[1]))
    card = Image.new("RGB", SIZE, "white")
    card.paste(figure, ((SIZE[0] - figure.width) // 2, (SIZE[1] - figure.height) // 2))
    card.save(Path(config.site_dir) / "images" / "card.png")

"""Formulas become MathML while the site is built: every browser draws it, with no script."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

# What pymdownx.arithmatex leaves: \( \) in a span, \[ \] in a div.
INLINE = re.compile(r'<span class="arithmatex">\\\((.+?)\\\)</span>', re.DOTALL)
# A function and its argument stand too close, but for an opening bracket; and ~ is a relation.
FUNCTION = re.compile(r'(<mi>(?:log|exp|det|sinh?|cosh?)</mi>)(?!<mo stretchy="false">&#x00028;)')
SIMILAR = "<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>"
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.+?)\\\]\s*</div>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace each formula of a page."""
    content = INLINE.sub(lambda found: _mathml(found[1], "inline"), content)
    return BLOCK.sub(
        lambda found: f'<div class="formula">{_mathml(found[1], "block")}</div>', content
    )


def _mathml(formula: str, display: str) -> str:
    written = convert(html.unescape(formula), display=display)
    return FUNCTION.sub(r'\1<mspace width="0.17em" />', written).replace(*SIMILAR)

"""Print text as it is: control characters in it do not reach the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from diffeo.utils.text import printable as printable

STAY = "\n\t"


def size_text(count: float) -> str:
    """Bytes in words: of a GB and more in GB, else in MB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


class PlainConsole(Console):
    """A console that takes text for text: no markup, no emoji, no escape sequences.

    A name such as `[link=...]` is printed as it is. Line breaks and tabs of sentences stay.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """The text, made printable."""
        lines = "".join(c if c in STAY else printable(c) for c in text)
        return super().render_str(lines, **options | {"markup": False, "emoji": False})

"""Text of strangers, made plain; it needs no other package."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""A text in which whatever is no plain character is spelled out: `\n`, `\x1b`, `\udcff`.

    Names of files and columns are a stranger's: one may hold escape sequences, which a terminal
    obeys, newlines, or bytes that are no text at all.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

"""What README and docs hold that can be tried: fenced blocks, commands, options, names, links.

A block that is not to be run says why, in a comment right above its fence:

    <!-- not run: it takes half an hour -->
"""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^(?P<ticks>```+)\s*(?P<language>[\w+-]*)(?P<rest>.*)$")
NOT_RUN = re.compile(r"^<!-- not run: (?P<reason>.+) -->$")
TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the page where the text begins."""

    page: Path
    line: int
    language: str
    text: str
    title: str | None
    reason: str | None  # why it is not run

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"

    @cached_property
    def commands(self) -> list[list[str]]:
        """The words of each command of a console block, without its comments."""
        joined = self.text.replace("\\\n", " ")
        lines = (shlex.split(line, comments=True) for line in joined.splitlines())
        return [words for words in lines if words]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    above, i = "", 0
    while i < len(lines):
        opening = FENCE.match(lines[i])
        if opening is None:
            above, i = lines[i].strip() or above, i + 1
            continue
        end = lines.index(opening["ticks"], i + 1)
        title, mark = TITLE.search(opening["rest"]), NOT_RUN.match(above)
        found.append(
            Block(
                page,
                i + 2,
                opening["language"],
                "\n".join(lines[i + 1 : end]) + "\n",
                title[1] if title else None,
                mark["reason"] if mark else None,
            )
        )
        above, i = "", end + 1
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks and comments."""
    text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"^(```+).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)


def inline_code(page: Path) -> list[str]:
    """The pieces of code that stand in a line of prose or in a table."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def links(page: Path) -> Iterator[str]:
    """Where links and images lead that stay within the repository, `path#anchor`."""
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(page))):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    slugs = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {slug.strip().replace(" ", "-") for slug in slugs}


def resolve(name: str) -> object:
    """The object of a dotted name; None of a module that needs a package of an extra."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        except ImportError:
            return None
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"there is no {name}")

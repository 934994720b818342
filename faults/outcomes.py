"""What came of trying to break something, on disk and as the table of `docs/reliability.md`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


@dataclass(frozen=True)
class Outcome:
    """One row of the table.

    Args:
        what: what was tried, in a phrase.
        tries: how many times.
        lost: after how many of these anything was lost, wrong, or not told in one sentence.
        seen: what was seen, in a phrase, with figures.
    """

    what: str
    tries: int
    lost: int
    seen: str


def write(path: Path, results: Mapping[str, Sequence[Outcome]]) -> None:
    """Keep the outcomes of each fault by its name; those of others stay."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known |= {name: [dataclasses.asdict(o) for o in rows] for name, rows in results.items()}
    path.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, list[Outcome]]:
    """What `write` kept."""
    known = json.loads(path.read_text(encoding="utf-8"))
    return {name: [Outcome(**row) for row in rows] for name, rows in known.items()}


def table(results: Mapping[str, Iterable[Outcome]]) -> str:
    """The outcomes as a table in Markdown."""
    lines = ["| tried | times | lost | seen | again |", "|---|--:|--:|---|---|"]
    lines += [
        f"| {o.what} | {o.tries:,} | {o.lost:,} | {o.seen} | `python -m faults {name}` |"
        for name, rows in results.items()
        for o in rows
    ]
    return "\n".join(lines)


def put_table(page: Path, results: Mapping[str, Iterable[Outcome]]) -> None:
    """Put the table where a page has one between its marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    text = f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}"
    page.write_text(text, encoding="utf-8")

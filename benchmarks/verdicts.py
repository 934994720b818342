"""Ours against the best of the rivals: difference, paired standard error, and a word for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.store import Store


@dataclass(frozen=True)
class Verdict:
    """How ours compares on one table.

    Args:
        table: its name and size.
        method: ours.
        rival: the best of the others.
        theirs, ours: mean log-likelihoods.
        error: the standard error of the difference, by pairs of rows; NaN where rows are unknown.
    """

    table: str
    method: str
    rival: str
    theirs: float
    ours: float
    error: float

    @property
    def difference(self) -> float:
        """By how much ours is ahead."""
        return self.ours - self.theirs

    @property
    def word(self) -> str:
        """Best, within one standard error, or behind."""
        if self.difference > 0:
            return "best"
        return "within one SE" if self.difference >= -self.error else "behind"


def verdict(
    label: str, table: str, seeds: Sequence[int], method: str, ours: Store, theirs: Store
) -> Verdict | None:
    """That on all splits, with the rivals that have been measured on all; None if there is none."""
    known = dict.fromkeys(name for of, _, name in theirs.lines if of == table)
    rivals = [r for r in known if all((table, seed, r) in theirs.lines for seed in seeds)]
    if not rivals or not all((table, seed, method) in ours.lines for seed in seeds):
        return None

    def mean(store: Store, name: str) -> float:
        return float(np.mean([store.lines[table, seed, name]["mean"] for seed in seeds]))

    best = max(rivals, key=lambda rival: mean(theirs, rival))
    pairs = [(ours.rows((table, s, method)), theirs.rows((table, s, best))) for s in seeds]
    gaps = [a - b for a, b in pairs if a is not None and b is not None]
    gap = np.concatenate(gaps) if len(gaps) == len(pairs) else np.array([np.nan])
    error = float(gap.std() / len(gap) ** 0.5)
    return Verdict(label, method, best, mean(theirs, best), mean(ours, method), error)


def markdown(verdicts: Sequence[Verdict]) -> str:
    """A table of a line each, and how many are best."""
    if not verdicts:
        return ""
    lines = [
        f"| table | best rival | its mean | {verdicts[0].method} | difference | |",
        "|---" * 6 + "|",
    ]
    for v in verdicts:
        figures = f"{v.theirs:.3f} | {v.ours:.3f} | {v.difference:+.3f} ± {v.error:.3f}"
        lines.append(f"| {v.table} | {v.rival} | {figures} | {v.word} |")
    words = [v.word for v in verdicts]
    counted = ", ".join(f"{words.count(w)} {w}" for w in dict.fromkeys(words))
    return "\n".join([*lines, f"({counted}, of {len(words)} tables)"])

"""Files of a stranger: each is given to the command that would read it.

A command may read it, or refuse it by exit status 2 and one sentence. Lost is a try that ran the
stranger's code, ended otherwise, sent a control character to the terminal, took over 10 s of the
processor or 2 GB.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

import diffeo.run.learning  # noqa: F401  # before there are copies of this process
from diffeo.cli import main
from faults import attacks, specimens
from faults.apart import Ended, apart
from faults.outcomes import Outcome

KEEP = 4  # of the tries of each kind, in a sample one in so many


def attempt(folder: Path, sample: bool) -> Iterator[Outcome]:
    """Each kind of attack, in processes that may crash."""
    torch.set_num_threads(1)
    os.environ["DIFFEO_CACHE"] = str(folder / "cache")
    good = folder / "good"
    specimens.run_folder(good / "run")
    specimens.table_model(good / "table")
    specimens.image_model(good / "pictures")
    specimens.csv(good / "rows.csv")
    specimens.pictures(good / "pngs")
    specimens.directions(good / "d.safetensors")
    for what, make in attacks.KINDS.items():
        here = folder / make.__name__
        shutil.copytree(good, here)
        ended = [
            (words, _try(words, here))
            for number, words in enumerate(make(here, here / "marker", sample))
            if not sample or number % KEEP == 0
        ]
        yield _outcome(what, ended, here / "marker")


def _try(words: list[str], here: Path) -> Ended:
    def work() -> int:
        os.chdir(here)
        # As the command `diffeo` finds it: what lies in the folder at hand is not imported.
        sys.path[:] = [path for path in sys.path if path not in ("", str(here))]
        return main(words)

    return apart(work, here / "said.txt")


def _outcome(what: str, tries: list[tuple[list[str], Ended]], marker: Path) -> Outcome:
    lost = [
        (words, end) for words, end in tries if not (end.bounded and attacks.in_order(end))
    ]  # fmt: skip
    for words, end in lost:
        print(f"lost: diffeo {' '.join(words)!r}: {end}", file=sys.stderr)
    ran = int(marker.exists())
    refused = sum(end.status == 2 for _, end in tries)
    seen = f"{refused} refused in one sentence, {len(tries) - refused - len(lost)} read; at most "
    seen += f"{max(end.seconds for _, end in tries):.1f} s and "
    seen += f"{max(end.peak for _, end in tries) / 2**20:,.0f} MB"
    return Outcome(what, len(tries), len(lost) + ran, seen + ", and its code ran" * ran)

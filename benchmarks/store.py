"""Results by table, split and method: a line of a CSV each, and the values of all rows in a cache.

The rows, of which paired standard errors are made, lie in ~/.cache/diffeo-benchmarks, or in the
folder that DIFFEO_BENCHMARKS names.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Rows = NDArray[np.float64]
Key = tuple[str, int, str]
KEYS = ["table", "split", "method"]


def cache_folder() -> Path:
    """Where the values of rows lie."""
    named = os.environ.get("DIFFEO_BENCHMARKS")
    return Path(named) if named else Path.home() / ".cache" / "diffeo-benchmarks"


class Store:
    """What is known.

    Args:
        file: the CSV.
        cache: the folder of the rows.
    """

    def __init__(self, file: Path, cache: Path | None = None) -> None:
        self.file, self.cache = file, (cache or cache_folder()) / file.stem
        lines = pd.read_csv(file).to_dict("records") if file.is_file() else []
        self.lines = {(line["table"], line["split"], line["method"]): line for line in lines}

    def rows(self, key: Key) -> Rows | None:
        """The values of the rows of a result, where they are known."""
        table, split, method = key
        file = self.cache / f"{table}-{split}-{method.replace(' ', '-')}.npy"
        return np.load(file) if key in self.lines and file.is_file() else None

    def measure(
        self, key: Key, method: Callable[[], tuple[Rows, str]], again: bool = False
    ) -> dict[str, Any]:
        """The line of a result; it is computed where it is unknown, or `again`, and printed."""
        if key in self.lines and not again:
            return self.lines[key]
        clock, start = time.perf_counter(), time.process_time()
        values, chosen = method()
        table, split, name = key
        line = dict(zip(KEYS, key, strict=True))
        line |= {"mean": round(float(values.mean()), 4), "rows": len(values)}
        line |= {"stderr": round(float(values.std() / len(values) ** 0.5), 4), "chosen": chosen}
        line |= {"seconds": round(time.perf_counter() - clock, 1)}
        line |= {"processor_seconds": round(time.process_time() - start, 1)}
        self.cache.mkdir(parents=True, exist_ok=True)
        np.save(self.cache / f"{table}-{split}-{name.replace(' ', '-')}.npy", values)
        self.lines[key] = line
        self.write()
        print(*line.values(), sep="  ", flush=True)
        return line

    def write(self) -> None:
        """All lines, in the order in which they came."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        frame = pd.DataFrame(list(self.lines.values()))
        frame.to_csv(self.file, index=False, lineterminator="\n")

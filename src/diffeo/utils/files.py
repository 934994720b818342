"""Files: written completely or not at all, and those of strangers read as plain values.

JSON makes nothing but numbers, strings, lists and dictionaries; nor does `diffeo.utils.yaml`.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Of settings, which people write; and of a model's config.json, with the codes of its columns.
SETTINGS_BYTES, JSON_BYTES = 2**20, 2**26


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends well.

    The folder is made where it is missing. The suffix stays, since some writers go by it. What was
    written is removed if the block fails.

    Raises:
        OSError: of the block, by the name of `path`: that of a disk that is full has none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(partial)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        # Nor does a file that cannot be removed hide why it is to be.
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def read_text(path: Path, most: int) -> str:
    """A text file of no more bytes than `most`.

    Raises:
        ValueError: if it is larger, no plain file (a pipe would be waited for, a device never
            ends), or not in UTF-8.
        OSError: if it cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} is no plain file: name one that is.")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} is longer than {most >> 20} MiB: it is no file of this kind.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not written in UTF-8: {error.reason}.") from error


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, which has no NaN.

    Raises:
        ValueError: if it is none, or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def dump_json(value: Any) -> str:
    """The JSON text of a value; a number that is not finite is null, since JSON has none such."""

    def finite(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: finite(inner) for key, inner in part.items()}
        if isinstance(part, (list, tuple)):
            return [finite(inner) for inner in part]
        return None if isinstance(part, float) and not math.isfinite(part) else part

    return json.dumps(finite(value), indent=2, allow_nan=False) + "\n"


def _no_number(name: str) -> float:
    raise ValueError(f"it holds {name}")

"""Files that hold data: their names, and one sentence for whatever is wrong with them."""

from __future__ import annotations

import difflib
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from diffeo.data.limits import RefusedError, check_plain

Array = NDArray[Any]


def listing(names: Iterable[str], most: int = 20) -> str:
    """Names in a row, with the end of a long row counted instead of written."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def suggestion(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'moons'?)"` where a known name is close, otherwise nothing."""
    close = difflib.get_close_matches(name[:100], list(itertools.islice(known, 1_000)), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns whatever a reading library raises into one sentence that names the file."""
    try:
        yield
    except RefusedError:
        raise
    except Exception as error:  # damage makes libraries raise nearly anything
        reason = " ".join(str(error).split()).replace("Error tokenizing data. C error: ", "")
        reason = reason or type(error).__name__
        raise ValueError(f"{name} cannot be read, it may be damaged: {reason}") from error


def plain_path(name: str) -> Path:
    """The path that a user wrote, in which ~ is the home folder.

    Raises:
        ValueError: if there is no such home folder, or the name could be no file's.
    """
    if not name:  # which would be the folder at hand
        raise ValueError("no source is named: pass --data.source")
    if "\0" in name:
        raise ValueError(f"{name} has a zero byte in it, as no name of a file has")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name}: there is no such home folder: check --data.source") from error


def check_file(
    name: str, path: Path, endings: Sequence[str], others: str, known: Iterable[str]
) -> None:
    """Refuses a source that is no plain file of one of some endings.

    For the message, `others` are what else could be given, and `known` names that may be meant.
    """
    if path.suffix.lower() not in endings:
        what = f"{name} cannot be read" if path.exists() else f"unknown source '{name}'"
        raise ValueError(
            f"{what}{suggestion(name, known)}: give {others}, a file ending in "
            f"{', '.join(endings)}, or hf://owner/name"
        )
    if not path.exists():
        neighbours = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ValueError(
            f"there is no file {name}{suggestion(path.name, neighbours)}: check --data.source"
        )
    check_plain(name, path)


def file_hash(path: Path) -> str:
    """The hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Write to a temporary file, then rename it: no reader meets half a file, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
            error.filename = str(path)
            error.filename2 = None
        raise
    finally:
        # Nor does a file that cannot be removed hide why it is to be.
        with suppress(OSError):
            partial.unlink(missing_ok=True)

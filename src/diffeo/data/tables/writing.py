"""Tables onto the disk, a batch at a time, and never half of one."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from diffeo.data.files import Array
from diffeo.utils.files import atomic_write


def is_folder(name: str | Path) -> bool:
    """Whether an output is a folder: it ends in a slash, has no ending, or is one already."""
    return str(name).endswith("/") or not Path(name).suffix or Path(name).is_dir()


def check_writable(path: str | Path) -> Path:
    """The path of a table to be written, checked before any work; a missing folder is made.

    Raises:
        ValueError: an unknown ending, a path that is a folder, or a folder that cannot be made or
            written to.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in WRITERS:
        raise ValueError(
            f"{path} cannot be written: its name has to end in one of {', '.join(WRITERS)}"
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written, its folder cannot be made: {error.strerror}"
        ) from error
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path} cannot be written: its folder is not yours to write to")
    return path


def write_frames(path: str | Path, frames: Iterable[Any]) -> None:
    """Writes pandas DataFrames of the same columns as one table, of any type of `write_table`.

    The file appears only when it is whole.

    Raises:
        ValueError: a path that `check_writable` refuses, or columns of text in NumPy's formats.
    """
    path = check_writable(path)
    ending = path.suffix.lower()
    if ending not in FRAMES:
        parts = iter(frames)
        first = next(parts)
        arrays = (_numbers(path, frame) for frame in itertools.chain([first], parts))
        write_table(path, [str(name) for name in first.columns], arrays)
        return
    with atomic_write(path) as partial, partial.open("wb") as file:
        FRAMES[ending](file, iter(frames))


def _numbers(path: Path, frame: Any) -> Array:
    """A DataFrame as an array, where all its columns are numbers."""
    for name, kind in frame.dtypes.items():
        if getattr(kind, "kind", "O") not in "iuf":
            raise ValueError(
                f"{path} takes numbers alone, and column '{name}' has others: let its name end in "
                f"{' or '.join(FRAMES)}."
            )
    found: Array = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return found


def _frames_csv(file: IO[bytes], frames: Iterator[Any]) -> None:
    for number, frame in enumerate(frames):
        frame.to_csv(file, index=False, header=number == 0)


def _frames_parquet(file: IO[bytes], frames: Iterator[Any]) -> None:
    import pyarrow
    import pyarrow.parquet

    first = next(frames)
    table = pyarrow.Table.from_pandas(first, preserve_index=False)
    with pyarrow.parquet.ParquetWriter(file, table.schema) as writer:
        writer.write_table(table)
        for frame in frames:
            part = pyarrow.Table.from_pandas(frame, schema=table.schema, preserve_index=False)
            writer.write_table(part)


FRAMES = {".csv": _frames_csv, ".parquet": _frames_parquet}


def write_table(path: str | Path, columns: list[str], batches: Iterable[Array]) -> None:
    """Writes batches of rows as one table: .csv, .parquet, .npy, or .npz with `x` and `columns`.

    The file appears only when it is whole. CSV and Parquet hold one batch in memory, NumPy's
    formats all.

    Args:
        path: where to; its ending decides the format.
        columns: the names of the k columns.
        batches: arrays `[rows, k]`.

    Raises:
        ValueError: a path that `check_writable` refuses (before the first batch is taken), or a
            batch that is not `[rows, k]`.
    """
    path = check_writable(path)

    def checked() -> Iterator[Array]:
        for batch in batches:
            if batch.shape != (len(batch), len(columns)):
                raise ValueError(
                    f"{path} takes batches of shape (rows, {len(columns)}), not {batch.shape}"
                )
            yield batch

    with atomic_write(path) as partial, partial.open("wb") as file:
        WRITERS[path.suffix.lower()](file, columns, checked())


def _write_csv(file: IO[bytes], columns: list[str], batches: Iterator[Array]) -> None:
    import pandas

    pandas.DataFrame(columns=columns).to_csv(file, index=False)
    for batch in batches:
        pandas.DataFrame(batch).to_csv(file, index=False, header=False)


def _write_parquet(file: IO[bytes], columns: list[str], batches: Iterator[Array]) -> None:
    import pyarrow
    import pyarrow.parquet

    first = next(batches, np.empty((0, len(columns))))
    kind = pyarrow.from_numpy_dtype(first.dtype)
    schema = pyarrow.schema([(column, kind) for column in columns])
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for batch in itertools.chain([first], batches):
            writer.write_table(pyarrow.table(list(batch.T), schema=schema))


def _write_npy(file: IO[bytes], columns: list[str], batches: Iterator[Array]) -> None:
    np.save(file, np.concatenate([*batches] or [np.empty((0, len(columns)))]))


def _write_npz(file: IO[bytes], columns: list[str], batches: Iterator[Array]) -> None:
    x = np.concatenate([*batches] or [np.empty((0, len(columns)))])
    np.savez(file, x=x, columns=np.array(columns, dtype=np.str_))


WRITERS = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".npy": _write_npy,
    ".npz": _write_npz,
}


def write_columns(path: str | Path, columns: Mapping[str, Sequence[str] | Array]) -> None:
    """Writes whole columns `[rows]`, of text or of numbers, as one file.

    .npz holds each column under its name, .npy the only one, or those of numbers side by side; both
    take columns `[rows, ...]` too.

    Raises:
        ValueError: a path that `check_writable` refuses.
    """
    import pandas

    path = check_writable(path)
    ending = path.suffix.lower()
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    with atomic_write(path) as partial, partial.open("wb") as file:
        if ending == ".npz":
            np.savez(file, allow_pickle=False, **arrays)
        elif ending == ".npy":
            numbers = [column for column in arrays.values() if column.dtype.kind != "U"]
            np.save(file, numbers[0] if len(numbers) == 1 else np.column_stack(numbers))
        elif ending == ".csv":
            pandas.DataFrame(dict(columns)).to_csv(file, index=False)
        else:
            pandas.DataFrame(dict(columns)).to_parquet(file, index=False)

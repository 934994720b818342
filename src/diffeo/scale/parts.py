"""Parts: their files, their rows, and whether they are finished."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from diffeo.data.images.folders import list_files

ENDINGS = (".parquet", ".csv")


@dataclass(frozen=True)
class Part:
    """One unit of work, which becomes one file."""

    number: int  # from 0; the seed of its noise follows from it
    name: str  # of its file inside the output folder
    source: str = ""  # the file whose rows are scored
    rows: int | None = None  # to sample; None where the source decides

    def finished(self, folder: Path) -> bool:
        """Whether its file exists and is complete: a Parquet file ends with its metadata."""
        import pyarrow

        try:
            found = count_rows(folder / self.name)
        except (OSError, pyarrow.ArrowException):
            return False
        return self.rows is None or found == self.rows


def count_rows(file: Path) -> int:
    """The number of rows in the metadata of a Parquet file."""
    import pyarrow.parquet

    return int(pyarrow.parquet.read_metadata(file).num_rows)


def files(source: str) -> list[Part]:
    """One part for a file, or for each .parquet file below a folder, or else for each .csv.

    Hidden files, and those whose name begins with `_`, are left out.

    Raises:
        ValueError: if there is no such file.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix.lower() not in ENDINGS:
            raise ValueError(f"{source} is not scored by parts: give .parquet or .csv files.")
        return [Part(0, path.with_suffix(".parquet").name, str(path.resolve()))]
    if not path.is_dir():
        raise ValueError(f"there is no file or folder {source}: check --data.")
    found = [(Path(name), path / name) for name in list_files(source, path)]
    found = [(name, file) for name, file in found if not any(p[0] == "_" for p in name.parts)]
    for ending in ENDINGS:
        chosen = [(name, file) for name, file in found if name.suffix.lower() == ending]
        if chosen:
            return [
                Part(i, name.with_suffix(".parquet").as_posix(), str(file.resolve()))
                for i, (name, file) in enumerate(chosen)
            ]
    raise ValueError(f"{source} holds no {' or '.join(ENDINGS)} file: name a folder that does.")


def inputs(parts: list[Part]) -> dict[str, list[int]]:
    """The size in bytes and the modification time of the source of each part."""
    found = ((part.name, Path(part.source).stat()) for part in parts)
    return {name: [status.st_size, status.st_mtime_ns] for name, status in found}


def draws(n: int, rows: int, name: str) -> list[Part]:
    """Parts of n rows in all, at most `rows` in each, called NAME-00000.parquet and so on."""
    if rows < 1:
        raise ValueError(f"parts of {rows} rows are none: ask for at least one in each.")
    count = math.ceil(n / rows)
    digits = max(5, len(str(count - 1)))
    return [
        Part(i, f"{name}-{i:0{digits}d}.parquet", rows=min(rows, n - i * rows))
        for i in range(count)
    ]

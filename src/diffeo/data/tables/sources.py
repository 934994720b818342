"""Where tables come from: generators, bundled tables, files and the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from diffeo.data.files import ENDINGS, Chunk, Source, from_arrow, open_file, slices, suggestion
from diffeo.data.hub import hub_splits
from diffeo.data.images.options import IMAGE_SETS
from diffeo.data.tables.synthetic import DEFAULT_ROWS, GENERATORS, generate

BUNDLED = ("iris", "wine", "breast_cancer", "diabetes")


def open_source(
    name: str,
    *,
    rows: int | None = None,
    noise: float | None = None,
    seed: int = 0,
    delimiter: str | None = None,
) -> Source:
    """Opens a generator, a bundled table, a file or a dataset of the Hugging Face hub.

    `rows`, `noise` and `seed` are for generators, `delimiter` for CSV files.

    Raises:
        ValueError: an unknown name or ending, a missing, empty or damaged file, or a file without
            a usable line of column names.
    """
    if name in GENERATORS:
        return _generated(name, DEFAULT_ROWS if rows is None else rows, seed, noise)
    if noise is not None:
        raise ValueError(f"{name} draws no noise: --data.noise is for {', '.join(GENERATORS)}")
    if name in BUNDLED:
        return _bundled(name)
    if name.startswith("hf://"):
        return _hub(name)
    path = plain_path(name)
    _check_file(name, path)
    return open_file(name, path, delimiter)


def plain_path(name: str) -> Path:
    """The path that a user wrote, in which ~ is the home folder.

    Raises:
        ValueError: if there is no such home folder, or the name could be no file's.
    """
    if "\0" in name:
        raise ValueError(f"{name} has a zero byte in it, as no name of a file has")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name}: there is no such home folder: check --data.source") from error


def _check_file(name: str, path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{name} is a folder: give one file, ending in {', '.join(ENDINGS)}")
    if path.suffix.lower() not in ENDINGS:
        known = [*GENERATORS, *BUNDLED]
        # Pictures are no table, but may be what was meant.
        near = known if name in IMAGE_SETS else [*known, *IMAGE_SETS]
        what = f"{name} cannot be read" if path.exists() else f"unknown source '{name}'"
        raise ValueError(
            f"{what}{suggestion(name, near)}: give one of {', '.join(known)}, a file ending in "
            f"{', '.join(ENDINGS)}, or hf://owner/name"
        )
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ValueError(
            f"there is no file {name}{suggestion(path.name, beside)}: check --data.source"
        )


def _generated(name: str, rows: int, seed: int, noise: float | None) -> Source:
    points, names, labels = generate(name, rows, seed, noise)
    columns: Chunk = dict(zip(names, points.T, strict=True))
    if labels is not None:
        columns["label"] = labels
    extra = tuple(columns)[len(names) :]
    return Source(name, list(columns), slices(columns), labels=extra, drawn=True)


def _bundled(name: str) -> Source:
    from sklearn import datasets

    # Scikit-learn ships diabetes scaled to a common norm, which hides the units.
    keywords = {"scaled": False} if name == "diabetes" else {}
    table = getattr(datasets, f"load_{name}")(**keywords)
    columns: Chunk = dict(zip(map(str, table.feature_names), table.data.T, strict=True))
    columns["target"] = table.target
    return Source(name, list(columns), slices(columns), labels=("target",))


def _hub(name: str) -> Source:
    splits = hub_splits(name)
    table = splits["train" if "train" in splits else next(iter(splits))]

    def read(names: list[str], batch_rows: int) -> Iterator[Chunk]:
        for batch in table.select_columns(names).with_format("arrow").iter(batch_rows):
            yield {column: from_arrow(batch.column(column)) for column in names}

    return Source(name, list(table.column_names), read)

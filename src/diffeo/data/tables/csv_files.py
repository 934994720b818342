"""Files of text with a row a line: CSV, in whichever form spreadsheets write it."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from diffeo.data.files import UNPACKERS, Array, LimitedFile, RefusedError, listing, reading
from diffeo.data.tables.source import Chunk, Source, check_names, chunk_rows

DELIMITERS = ",;\t|"
# What numbers may look like, and the options that read them; the first that fits them all.
FORMS = {
    r"[+-]?\d{1,3}(,\d{3})+": "--data.thousands ,` or `--data.decimal ,",  # 1,234 may be either
    r"[+-]?\d*,\d+": "--data.decimal ,",
    r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?": "--data.thousands ,",
    r"[+-]?\d{1,3}(\.\d{3})+(,\d+)?|[+-]?\d+,\d+": "--data.decimal , --data.thousands .",
    r"[+-]?\d{1,3}( \d{3})+(\.\d+)?": '--data.thousands " "',
    r"[+-]?\d{1,3}( \d{3})+(,\d+)?|[+-]?\d+,\d+": '--data.decimal , --data.thousands " "',
    r"[+-]?\d{1,3}('\d{3})+(\.\d+)?": '--data.thousands "\'"',
}
TEXT_ENDINGS = (".csv", ".tsv", *(f"{e}{c}" for e in (".csv", ".tsv") for c in UNPACKERS))


def open_csv(
    name: str, path: Path, decimal: str = ".", thousands: str | None = None, encoding: str = "utf-8"
) -> Source:
    """A file of one of the `TEXT_ENDINGS`; its delimiter is found in its first lines."""
    _check_form(decimal, thousands, encoding)
    tabs = path.name.lower().partition(".tsv")[1]
    known = "\t" if tabs else DELIMITERS
    with _decoding(name, encoding):
        starts = {delimiter: _first_lines(path, delimiter, encoding) for delimiter in known}

    def fitness(delimiter: str) -> tuple[int, bool]:
        """How many columns it finds in both lines, and whether numbers are free of it."""
        found = min(map(len, starts[delimiter]), default=0)
        return found, delimiter not in (decimal, thousands)

    delimiter = max(starts, key=fitness)
    header, first = [*starts[delimiter], [], []][:2]
    header = [column.strip() for column in header]
    _check_header(name, header, first)

    def parse(batch_rows: int, **typing: Any) -> Iterator[Any]:
        import pandas

        # All columns are parsed, since with `usecols` pandas shortens lines that are too long
        # without a word; the copies let go of the columns that nobody asked for.
        # `low_memory=False` gives each column of a chunk one type.
        limited = LimitedFile(path)
        with (
            _decoding(name, encoding),
            io.BufferedReader(limited, 2**18) as file,
            pandas.read_csv(
                file,
                sep=delimiter,
                decimal=decimal,
                thousands=thousands,
                encoding=encoding,
                names=header,
                header=0,
                index_col=False,
                chunksize=chunk_rows(batch_rows, len(header)),
                low_memory=False,
                **typing,
            ) as frames,
        ):
            for frame in frames:
                yield frame
                limited.next_chunk()

    def read(names: list[str], batch_rows: int) -> Iterator[Chunk]:
        for frame in parse(batch_rows):
            yield {column: frame[column].to_numpy(copy=True) for column in names}

    return Source(name, header, read, decimal=decimal, frames=partial(_typed, parse))


def _typed(parse: Callable[..., Iterator[Any]], batch_rows: int) -> Iterator[Any]:
    """DataFrames, each column of a type that can hold gaps; of text where it holds 00501."""
    texts: set[str] = set()
    for start in parse(1_000, dtype=str):
        padded = {c: start[c].str.match(r"\s*0\d+\s*$", na=False).any() for c in start.columns}
        texts = {column for column, found in padded.items() if found}
        break
    dtypes = {"dtype": dict.fromkeys(texts, str)} if texts else {}
    yield from parse(batch_rows, dtype_backend="numpy_nullable", **dtypes)


def _first_lines(path: Path, delimiter: str, encoding: str) -> list[list[str]]:
    """The values of the first two lines that are not blank."""
    utf8 = codecs.lookup(encoding).name == "utf-8"  # which may begin with a mark
    with (
        io.BufferedReader(LimitedFile(path)) as file,
        io.TextIOWrapper(file, encoding="utf-8-sig" if utf8 else encoding, newline="") as text,
    ):
        rows = (row for row in csv.reader(text, delimiter=delimiter) if row)
        return list(itertools.islice(rows, 2))


def _check_header(name: str, header: list[str], first: list[str]) -> None:
    if not header:
        raise ValueError(f"{name} is empty: it has not a single line with text")
    numbered = header == [str(i) for i in range(len(header))]  # as pandas writes a bare array
    if all(map(_is_number, header)) and not numbered:
        raise ValueError(
            f"{name} has no line of column names, it starts with {listing(header, 3)}: "
            "write names that are not numbers above the values"
        )
    if len(first) > len(header):
        decimals = len(first) == 2 * len(header) and all(map(_is_number, first))
        remedy = "write one name for each column"
        if decimals:
            remedy += ", or `--data.decimal ,` if a comma is the decimal point"
        raise ValueError(
            f"{name} names {len(header)} column{'s' * (len(header) > 1)} and its first row has "
            f"{len(first)} values: {remedy}"
        )
    check_names(name, header)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_form(decimal: str, thousands: str | None, encoding: str) -> None:
    if thousands is not None and (len(thousands) != 1 or thousands == decimal):
        raise ValueError(
            f"--data.thousands is {thousands!r}: choose one character, and not the decimal point "
            f"{decimal!r}"
        )
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise ValueError(
            f"--data.encoding is {encoding!r}: choose one that Python has, such as utf-8, latin-1, "
            "cp1252 or utf-16"
        ) from error


@contextmanager
def _decoding(name: str, encoding: str) -> Iterator[None]:
    """`reading` with a sentence about letters in another encoding."""
    with reading(name):
        try:
            yield
        except UnicodeError as error:
            raise RefusedError(
                f"{name} is not written in {encoding}: name its encoding, such as --data.encoding "
                "latin-1, cp1252 or utf-16"
            ) from error


def form_of(texts: Array, decimal: str = ".") -> str | None:
    """The options by which texts `[rows]` are numbers: a decimal comma, separated thousands.

    None where they are no numbers in any form that is known.
    """
    values = [str(text).strip() for text in texts if text is not None and text == text]
    values = [value for value in values[:10_000] if not _is_number(value)]
    if not values or decimal != ".":
        return None
    for pattern, options in FORMS.items():
        if all(re.fullmatch(pattern, value) for value in values):
            return options
    return None

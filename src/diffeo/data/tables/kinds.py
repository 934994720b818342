"""The kinds of the columns of a table, found in its cells and corrected by who knows better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import date
from typing import Any, TypeAlias

import numpy as np

from diffeo.data.files import listing
from diffeo.data.tables.cells import Cells, in_units
from diffeo.data.tables.finding import (
    distinct,
    find_column,
    make_category,
    make_date,
    make_number,
)
from diffeo.data.tables.frames import encode_column
from diffeo.data.tables.grids import find_atoms, find_decimals
from diffeo.schema import AnyColumn, DateColumn, LeftOutColumn, NumberColumn, Schema, TableError
from diffeo.utils.ranges import suggestion

KINDS = ("number", "integer", "category", "date", "left out")
Kinds: TypeAlias = Mapping[str, str | Mapping[str, Any]]


def find_schema(frame: Any, kinds: Kinds | None = None) -> Schema:
    """What the columns of a table are.

    Args:
        frame: a pandas DataFrame, with cells of their types or as text.
        kinds: by column, what is to be changed: one of `KINDS`, or fields of the column and maybe
            its kind, such as `{"kind": "number", "low": 0, "high": 100}`.

    Raises:
        ValueError: of all problems of the table, a sentence a line.
    """
    kinds = dict(kinds or {})
    names = ["" if _is_blank(name) else str(name) for name in frame.columns]
    problems = [
        f"there is no column '{name}'{suggestion(name, names)}: the table has {listing(names)}."
        for name in kinds
        if name not in names
    ]
    problems += [
        f"{names.count(name)} columns are named '{name}': give each its own name."
        for name in dict.fromkeys(names)
        if name and names.count(name) > 1
    ]
    columns: list[AnyColumn] = []
    for i, name in enumerate(names):
        try:
            cells = Cells.of(frame.iloc[:, i])
        except TypeError:
            columns.append(LeftOutColumn(name, "its cells are lists or other containers"))
            continue
        column, found = _choose(name, cells, kinds.get(name))
        columns.append(column)
        problems += found
    schema = Schema(tuple(columns))
    if not schema.modelled and not problems:
        reasons = [f"column '{c.name}' is left out: {c.reason}." for c in columns]  # type: ignore[union-attr]
        problems += [
            f"no column is left to model: ask for one by its kind, such as {names[0]}=category.",
            *reasons[:20],
        ]
    if problems:
        raise TableError(problems)
    return schema


def _is_blank(name: Any) -> bool:
    return name is None or name != name or not str(name).strip()


def _choose(name: str, cells: Cells, asked: Any) -> tuple[AnyColumn, list[str]]:
    """The column that was asked for, or that is found; and what is wrong with it."""
    try:
        if asked is not None:
            column = _ask(name, cells, asked)
        else:
            column = find_column(name, cells)
    except ValueError as error:
        return LeftOutColumn(name), [str(error)]
    if isinstance(column, LeftOutColumn):
        return column, []
    return column, encode_column(column, cells)[1]


def _ask(name: str, cells: Cells, asked: Any) -> AnyColumn:
    """The column of a kind that is asked for, with its fields."""
    if not isinstance(asked, str | Mapping):
        raise ValueError(f"column '{name}' is to be {asked!r}: choose one of {', '.join(KINDS)}.")
    given: dict[str, Any] = {"kind": asked} if isinstance(asked, str) else {**asked}
    kind = given.pop("kind", None)
    if kind is not None and kind not in KINDS:
        raise ValueError(
            f"column '{name}' is to be '{kind}'{suggestion(str(kind), KINDS)}: choose one of "
            f"{', '.join(KINDS)}."
        )
    if kind == "left out":
        return LeftOutColumn(name, str(given.get("reason") or "as asked"))
    if not name:
        raise ValueError("a column without a name cannot be modelled: name it.")
    column: AnyColumn
    if kind is None:
        column = find_column(name, cells)
    elif kind == "category":
        column = make_category(name, cells)
    elif kind == "date":
        column = make_date(name, cells, given.get("form") or _form(cells))
    else:
        broken = np.isfinite(cells.numbers) & (cells.numbers != np.rint(cells.numbers))
        if kind == "integer" and broken.any():
            raise ValueError(
                f"column '{name}' holds '{cells.first(broken)}' in {cells.where(broken)}, no whole "
                "number: correct it, or ask for number."
            )
        whole = kind == "integer" or (cells.whole_text and not np.isnan(cells.numbers).any())
        column = make_number(name, cells, whole)
    known = {field.name for field in fields(column)} - {"name"}
    unknown = next((field for field in given if field not in known), None)
    if unknown is not None:
        raise ValueError(
            f"column '{name}' has no '{unknown}'{suggestion(unknown, known)}: a column of its kind "
            f"has {', '.join(sorted(known))}."
        )
    try:
        if isinstance(column, NumberColumn):
            given = _complete(column, cells, given)
        return replace(column, **given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"column '{name}': {str(error).rstrip('.')}.") from error


def _form(cells: Cells) -> str | None:
    return None if cells.are_dates else cells.form()


def _complete(column: NumberColumn, cells: Cells, given: dict[str, Any]) -> dict[str, Any]:
    """The fields that change with those that are given: the origin with the step, and atoms."""
    for field in ("step", "origin", "low", "high"):
        if isinstance(column, DateColumn) and isinstance(given.get(field), str | date):
            text = (
                given[field] if isinstance(given[field], str) else f"{given[field]:{column.form}}"
            )
            written = Cells(np.zeros(1, dtype=np.intp), [text], "str")
            unit = given.get("unit", column.unit)
            found = float(in_units(written.seconds(column.form), unit)[0])
            if np.isnan(found):
                raise ValueError(
                    f"{field} is {text}, no date of the form {column.form}: correct it"
                )
            given[field] = found
        if isinstance(given.get(field), int):
            given[field] = float(given[field])
    step = given.get("step")
    if step is None or isinstance(column, DateColumn):
        return given
    values, counts = distinct(cells)
    if not len(values):
        return given
    if not step:
        limits = given.get("low", column.low), given.get("high", column.high)
        return {"origin": 0.0, "atoms": find_atoms(values, counts, limits)} | given
    origin = float(values[0] % step)
    origin = 0.0 if min(origin, step - origin) < 1e-6 * step else float(values[0])
    given = {"origin": origin, "atoms": ()} | given
    return {"decimals": find_decimals(np.array([step, given["origin"]]))} | given

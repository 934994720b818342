"""Kinds of columns as a YAML file, which a person may edit, and in short on the command line."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from diffeo.data.tables.frames import kind_of, write_number
from diffeo.data.tables.kinds import KINDS, Kinds
from diffeo.schema import AnyColumn, DateColumn, Schema
from diffeo.utils.files import SETTINGS_BYTES, read_text
from diffeo.utils.yaml import dump_yaml, parse_yaml

ENDINGS = (".yaml", ".yml", ".json")
HEAD = """\
# What the columns of a table are; pass the file on by --kinds.
# A column may also be one word (number, integer, category, date or left out).
"""


def to_kinds(schema: Schema) -> dict[str, dict[str, Any]]:
    """What `find_schema` finds the same schema by, in plain values."""
    return {column.name: _fields(column) for column in schema.columns if column.name}


def _fields(column: AnyColumn) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": kind_of(column)}
    for field in fields(column):
        value = getattr(column, field.name)
        if field.name in ("name", "integer") or value in ("", ()):
            continue
        if isinstance(column, DateColumn) and field.name in ("low", "high") and value is not None:
            value = write_number(column, value)
        found[field.name] = [*value] if isinstance(value, tuple) else value
    if isinstance(column, DateColumn):
        found.pop("decimals")
    return found


def dump_kinds(schema: Schema) -> str:
    """The YAML text of the kinds of a schema."""
    return HEAD + dump_yaml(to_kinds(schema))


def read_kinds(text: str) -> Kinds:
    """Kinds from a YAML file, or from words: `age=integer,name=left out`.

    Raises:
        ValueError: if there is no such file, or it holds something else.
    """
    if text.lower().endswith(ENDINGS) and "=" not in text:
        try:
            found = parse_yaml(read_text(Path(text).expanduser(), SETTINGS_BYTES))
        except OSError as error:
            raise ValueError(f"{text} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise ValueError(f"{text}: {error}") from error
        if not isinstance(found, dict):
            raise ValueError(f"{text} names no columns: write lines such as `age: integer`.")
        wrong = next((k for k, v in found.items() if not isinstance(v, str | dict)), None)
        if wrong is not None:
            raise ValueError(f"{text}: column '{wrong}' has no kind: choose {', '.join(KINDS)}.")
        return {str(name): kind for name, kind in found.items()}
    kinds = {}
    for part in text.split(","):
        name, equals, kind = part.rpartition("=")
        if not equals or not name:
            raise ValueError(
                f"kinds are {text}: name a YAML file, or columns such as age=integer,name=category."
            )
        kinds[name.strip()] = kind.strip()
    return kinds

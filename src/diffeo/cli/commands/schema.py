"""`diffeo schema`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffeo.cli.parser import Parser, add_short
from diffeo.data.tables.describing import schema_table
from diffeo.data.tables.kind_files import dump_kinds, read_kinds
from diffeo.data.tables.kinds import find_schema
from diffeo.data.tables.opening import TableOptions
from diffeo.data.tables.reading import read_frame
from diffeo.utils.files import atomic_write

PLACES = " FILE"  # what stands before the options


def main(*, data: TableOptions, save: str | None = None) -> Iterator[Any]:
    """Show what the columns of a table are taken for, what is left out, and why.

    Examples: `diffeo schema my.csv`, `diffeo schema my.csv --kinds zip=category,id="left out"`,
    `diffeo schema my.csv --save schema.yaml`.

    Args:
        save: A .yaml file to write, which can be edited and passed on by --kinds.
    """
    if not data.source:
        raise ValueError("FILE is missing: name a table, such as `diffeo schema my.csv`.")
    frame = read_frame(data)
    frame = frame if data.columns is None else frame[data.columns]
    schema = find_schema(frame, None if data.kinds is None else read_kinds(data.kinds))
    title = f"{data.source}: {len(frame):,} rows, {len(schema.modelled)} columns to model"
    yield schema_table(schema, frame, title)
    if save is not None:
        with atomic_write(Path(save).expanduser()) as partial:
            partial.write_text(dump_kinds(schema), encoding="utf-8")
        yield f"Kinds written to {save}: edit them, and pass them on by --kinds {save}."


def add_options(parser: Parser) -> None:
    """No source by default, since there is no schema of nothing."""
    parser.set_defaults({"data.source": ""})
    actions = parser._option_string_actions
    actions["--data"].help, actions["--data"].metavar = "The same as FILE.", "SOURCE"
    add_short(parser, "data", "kinds")


def expand(words: list[str]) -> list[str]:
    """Replace the name of the file by an option."""
    first = words[0] if words else "-"
    if first.startswith("-"):
        return ["--data.source" if word == "--data" else word for word in words]
    return [f"--data.source={first}", *words[1:]]

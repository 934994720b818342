"""The command line: `diffeo train | eval | sample | score | plot | reconstruct | ...`."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Sequence

from rich.console import Console

from diffeo.cli.commands import COMMANDS
from diffeo.cli.options import make_parser
from diffeo.cli.shorthand import spell_out
from diffeo.training.options import limit_threads


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if all went well, 2 after an error that the user can mend."""
    console = Console()
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        parser = make_parser(given[0] if given else None)
        config = parser.parse_args(spell_out(given))
        limit_threads()
        command = config.command
        COMMANDS[command](parser.instantiate(config)[command], console)
    except (ArgumentError, ValueError, OSError, FloatingPointError) as error:
        print(f"diffeo: {_sentence(error)}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt as stop:
        how = str(stop) or "stopped; --resume goes on from the last checkpoint."
        print(f"diffeo: {how}", file=sys.stderr)  # noqa: T201
        return 130
    return 0


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}."
    return " ".join(str(error).split())

"""The command line: `diffeo train | eval | sample | score | plot | reconstruct | ...`."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Sequence

from diffeo.cli.overview import SUMMARIES, outline
from diffeo.cli.stopping import Stop
from diffeo.utils.console import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if all went well, 2 after an error that the user can mend."""
    with Stop() as stop:
        try:
            _run(list(sys.argv[1:] if arguments is None else arguments))
        except (ArgumentError, ValueError, OSError, FloatingPointError) as error:
            print(f"diffeo: {_sentence(error)}", file=sys.stderr)  # noqa: T201
            return 2
        except KeyboardInterrupt as error:
            print(f"diffeo: {printable(str(error)) or 'stopped.'}", file=sys.stderr)  # noqa: T201
            return stop.status
    return 0


def _run(given: list[str]) -> None:
    if not given or given[0] not in SUMMARIES:
        outline().parse_args(given)
        return
    from diffeo.cli.commands import run_command  # by PyTorch, which an overview does not need

    run_command(given)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.filename or 'a file'}: {error.strerror}.")
    return printable(" ".join(str(error).split()))

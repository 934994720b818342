"""The command line: `diffeo train | eval | sample | score | plot | reconstruct | ...`."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Sequence

from diffeo.cli.overview import SUMMARIES, outline


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if all went well, 2 after an error that the user can mend."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not given or given[0] not in SUMMARIES:
            outline().parse_args(given)
        else:
            from diffeo.cli.commands import (
                run_command,  # by PyTorch, which an overview does not need
            )

            run_command(given)
    except (ArgumentError, ValueError, OSError, FloatingPointError) as error:
        print(f"diffeo: {_sentence(error)}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("diffeo: stopped; --resume goes on from the last checkpoint.", file=sys.stderr)  # noqa: T201
        return 130
    return 0


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}."
    return " ".join(str(error).split())

"""The command line.

`COMMANDS` names the commands. Each is a module of `diffeo.cli.commands` whose function `main` has
the options as parameters, their help in its docstring, and yields what is printed: to add a
command, write its module and add its name here.
"""

from __future__ import annotations

import ast
import signal
import sys
import threading
import time
from argparse import ArgumentError
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from diffeo.utils.console import printable
from diffeo.utils.version import __version__

COMMANDS = (
    "train",
    "eval",
    "sample",
    "score",
    "plot",
    "reconstruct",
    "interpolate",
    "edit",
    "directions",
    "levels",
    "explore",
    "share",
    "export",
    "schema",
    "ask",
    "fill",
    "explain",
    "compress",
    "decompress",
    "doctor",
)

ONE_STOP = 2.0  # seconds in which several signals count as one

OVERVIEW = """\
usage: diffeo COMMAND [options]

Normalizing flows: learn a density from a table or from images, then score and draw samples.
To begin, run `diffeo train`, which learns a toy data set (two moons), `diffeo train --data my.csv`
or `diffeo train --data digits`.

commands:
{commands}

`diffeo COMMAND --help` lists the options of a command, `diffeo --version` prints the version.
"""


class Interrupts(ExitStack):
    """A context in which SIGINT and SIGTERM raise KeyboardInterrupt, at most once in two seconds.

    A second press of Ctrl-C would otherwise interrupt the sentence about how to resume.

    Attributes:
        status: the exit code, 128 plus the number of the signal.
    """

    def __init__(self) -> None:
        super().__init__()
        self.status: int = 128 + signal.SIGINT
        self.last: float = -ONE_STOP
        # Only the main thread may set handlers; an ignored signal, as under nohup, stays ignored.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.callback(signal.signal, number, signal.signal(number, self._interrupt))

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self.last >= ONE_STOP:
            self.last, self.status = now, 128 + number
            raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0 on success, and 2 after an error that the user can correct."""
    with Interrupts() as interrupts:
        try:
            _run(list(sys.argv[1:] if arguments is None else arguments))
        except (ArgumentError, ValueError, OSError, FloatingPointError) as error:
            print(f"diffeo: {_sentence(error)}", file=sys.stderr)  # noqa: T201
            return 2
        except KeyboardInterrupt as error:
            print(f"diffeo: {printable(str(error)) or 'stopped.'}", file=sys.stderr)  # noqa: T201
            return interrupts.status
    return 0


def _run(words: list[str]) -> None:
    if not words:
        raise ValueError("name a command, such as `diffeo train`: `diffeo --help` lists them.")
    name, *options = words
    if name in ("-h", "--help"):
        lines = [f"  {name:<13}{summary(name)}" for name in COMMANDS]
        print(OVERVIEW.format(commands="\n".join(lines)), end="")  # noqa: T201
    elif name == "--version":
        print(f"diffeo {__version__}")  # noqa: T201
    elif name not in COMMANDS:
        raise ValueError(f"there is no command {name!r}: choose one of {', '.join(COMMANDS)}.")
    else:
        from diffeo.cli.parser import run_command  # imports PyTorch, which an overview can spare

        run_command(name, options)


def summary(name: str) -> str:
    """What a command does: the first line of its docstring, read without importing its module."""
    source = Path(__file__).with_name("commands") / f"{name}.py"
    tree = ast.parse(source.read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    return (ast.get_docstring(functions["main"]) or "").partition("\n")[0]


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.filename or 'a file'}: {error.strerror}.")
    # Of a table there may be several.
    lines = getattr(error, "sentences", [str(error)])
    return "\n".join(printable(" ".join(line.split())) for line in lines)

"""Opening the explorer."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from diffeo.cli.common import run_options
from diffeo.run import Run


def explore_options(parser: ArgumentParser) -> None:
    """Open a page to explore a model: sample, interpolate, edit, inspect.

    It is there for this machine alone, unless --host says otherwise, and needs nothing from
    outside.
    """
    run_options(parser)
    parser.add_argument(
        "--host",
        type=str,
        default="127.0.0.1",
        help="Where to listen; with 0.0.0.0 everybody who reaches this machine can open the page.",
    )
    parser.add_argument(
        "--port", type=int | None, help="The port; by default the first free one from 7860 on."
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="Print the address, and open no browser."
    )


def explore(options: Namespace, console: Console) -> None:
    """Serve the page until it is stopped."""
    from diffeo.explorer import explore as open_page  # which draws, with matplotlib

    run = Run(options.run, trust=options.trust)

    def ready(address: str) -> None:
        console.print(f"{address} shows {options.run}; Ctrl-C ends it.", highlight=False)

    open_page(run, options.host, options.port, browser=not options.no_browser, ready=ready)

"""`diffeo explore`."""

from typing import Any

from diffeo.cli.common import open_run, report


def main(
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    no_browser: bool = False,
    **run: Any,
) -> None:
    """Open a page to explore a model: sample, interpolate, edit, inspect.

    Only this machine can open the page, unless --host says otherwise. It loads nothing from other
    hosts.

    Args:
        host: The address to listen on; with 0.0.0.0 everybody who reaches this machine can open
            the page.
        port: By default the first free one from 7860 on.
        no_browser: Print the address, and open no browser.
    """
    from diffeo.explorer import explore

    opened = open_run(device="cpu", **run)
    explore(
        opened,
        host,
        port,
        browser=not no_browser,
        ready=lambda address: report(f"{address} shows {opened.folder}; Ctrl-C ends it."),
    )

"""`diffeo explore`."""

from diffeo.run import Run
from diffeo.utils.console import PlainConsole
from diffeo.utils.ranges import Port


def main(
    run: Run,
    *,
    host: str = "127.0.0.1",
    port: Port | None = None,
    root_path: str = "",
    no_browser: bool = False,
) -> None:
    """Open a page to explore a model: sample, interpolate, edit, inspect.

    Only this machine can open the page, unless --host says otherwise. It loads nothing from other
    hosts.

    Args:
        host: The address to listen on; with 0.0.0.0 everybody who reaches this machine can open
            the page.
        port: By default the first free one from 7860 on.
        root_path: Where a reverse proxy shows the page: /PATH, or https://NAME/PATH.
        no_browser: Print the address, and open no browser.
    """
    from diffeo.explorer import explore

    def ready(address: str) -> None:
        sentence = f"{address} shows {run.folder}; Ctrl-C ends it."
        PlainConsole().print(sentence, highlight=False, soft_wrap=True)

    explore(run, host, port, root_path=root_path, browser=not no_browser, ready=ready)

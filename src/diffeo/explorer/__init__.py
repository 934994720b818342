"""The explorer: a local web page that shows what a model does.

`explore` opens it. What it shows is computed by modules that know nothing of pages (`sampling`,
`mixing`, `editing`, `inspecting`, `plane`; of mixed tables `columns`, `asking`, `oddities`), the
tabs connect them with controls, and only `serving` uses the network. Gradio is needed:
`pip install "diffeo[explorer]"`.
"""

from __future__ import annotations

from collections.abc import Callable

from diffeo.run import Run
from diffeo.utils.ranges import Port, checked

__all__ = ["explore"]


@checked
def explore(
    run: Run,
    host: str = "127.0.0.1",
    port: Port | None = None,
    *,
    root_path: str = "",
    browser: bool = True,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the page of a model until it is stopped.

    Args:
        run: the model.
        host: where to listen: on this machine alone by default.
        port: the port; by default the first free one from 7860 on.
        root_path: where a reverse proxy shows the page, as a path or a URL.
        browser: whether to open the page in the browser.
        ready: called with the address once the page is there.

    Raises:
        ValueError: if Gradio is missing, the port cannot be listened on, or the root path is none.
    """
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ValueError('the explorer needs Gradio: pip install "diffeo[explorer]".') from error
    from diffeo.explorer.serving import serve
    from diffeo.explorer.subject import Subject

    serve(Subject(run), host, port, root_path=root_path, browser=browser, ready=ready)

"""The server of the page: by default for this machine alone, and nothing is loaded from others."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from urllib.parse import urljoin

# Before Gradio is imported, which reads them then: no counters, and no look at what is newest.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from fastapi.exceptions import RequestValidationError
from gradio.state_holder import SessionState, StateHolder
from joblib import cpu_count
from starlette.middleware import Middleware

from diffeo.explorer.guard import Guard, misread
from diffeo.explorer.page import build
from diffeo.explorer.subject import Subject
from diffeo.explorer.tabs.parts import asset
from diffeo.utils.machine import return_freed_memory

FIRST_PORT, PORTS = 7860, 100
WAITING = 256  # events that wait for their turn, of all visitors together
TIDY = 5.0  # seconds between two times that freed memory is given back
SESSIONS = 200  # visitors whose images are remembered


def serve(
    subject: Subject,
    host: str = "127.0.0.1",
    port: int | None = None,
    *,
    root_path: str = "",
    browser: bool = False,
    wait: bool = True,
    ready: Callable[[str], None] = lambda address: None,
) -> gr.Blocks:
    """Serve the page until it is stopped.

    Args:
        subject: what is shown.
        host: where to listen; other than on loopback, others can reach it.
        port: the port; by default the first free one from 7860 on.
        root_path: where a reverse proxy shows the page, as a path or a URL.
        browser: whether to open the page in the browser.
        wait: whether to return only when it is stopped.
        ready: called with the address once the page is there.

    Raises:
        ValueError: if the host or the port cannot be listened on, or the root path is none.
    """
    root_path = _checked_root(root_path)
    port = _free_port(host, port)
    threading.Thread(target=_tidy, name="diffeo-tidy", daemon=True).start()
    # A private folder for whatever Gradio writes, gone at the end.
    scratch = tempfile.TemporaryDirectory(prefix="diffeo-explorer-")
    os.environ["GRADIO_TEMP_DIR"] = scratch.name
    # A name of somebody else's that leads here is not this page.
    names = ["localhost", "127.0.0.1", "::1", host] if is_loopback(host) else []
    middleware = [Middleware(Guard, names=names, root=root_path)]
    page = build(subject)
    page.queue(default_concurrency_limit=2, max_size=WAITING, api_open=False)
    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        root_path=root_path,
        inbrowser=browser,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        run_history=False,
        footer_links=[],
        show_error=False,
        state_session_capacity=SESSIONS,
        max_threads=_threads(),
        app_kwargs={
            "middleware": middleware,
            "exception_handlers": {RequestValidationError: misread},
            "docs_url": None,
            "redoc_url": None,
        },
        theme=theme(),
        css=asset("style.css"),
    )
    page.app.state_holder = Sessions()
    page.app.state_holder.set_blocks(page)
    page.scratch = scratch  # type: ignore[attr-defined]
    local = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    ready(urljoin(local, root_path))
    if wait:
        page.block_thread()
    return page


def _tidy() -> None:
    while True:
        time.sleep(TIDY)
        return_freed_memory()


class Sessions(StateHolder):
    """What Gradio remembers of each visitor, without a copy of the page as each one sees it.

    It is for links to a page in some state, which is in the address of this one, and is a
    hundred times what the controls need.
    """

    def __getitem__(self, session: str) -> SessionState:
        state = super().__getitem__(session)
        state.config_values.clear()
        return state


def theme() -> gr.themes.Base:
    """Calm greys and one blue, and the letters that the system has."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    ).set(
        # Dark enough for white letters upon it, and as letters upon white.
        color_accent="*primary_600",
        button_primary_background_fill="*primary_600",
        checkbox_background_color_selected="*primary_600",
        slider_color="*primary_600",
        # Quiet, and still 4.5 times as light or dark as what it stands on.
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked_root(root_path: str) -> str:
    """A path or URL without a slash at its end."""
    if not re.fullmatch(r"(https?://[\w.:\[\]-]+)?(/[\w.~%-]+)*/?", root_path) or ".." in root_path:
        raise ValueError(
            f"the root path is {root_path!r}: write it as /PATH or https://NAME/PATH, as the proxy "
            "shows it."
        )
    return root_path.rstrip("/")


def _threads() -> int:
    """How many answers are computed at the same time.

    Two may be films, for which no slider waits; beyond the cores, more at once only take longer and
    more memory.
    """
    return min(40, 2 + max(2, cpu_count()))


def _free_port(host: str, port: int | None) -> int:
    if not host:  # which would admit everybody
        raise ValueError("the host is empty: write --host 127.0.0.1, or 0.0.0.0 to admit others.")
    wanted = range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else [port]
    reason = ""
    for candidate in wanted:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, candidate))
                return int(probe.getsockname()[1])  # 0 lets the system choose
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
    where = f"{host}:{port}" if port is not None else f"{host} on ports {wanted[0]} to {wanted[-1]}"
    raise ValueError(f"{where} cannot be listened on ({reason}): choose another --host or --port.")

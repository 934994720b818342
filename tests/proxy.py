"""A reverse proxy for tests, as small as one can be."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

httpx = pytest.importorskip(
    "httpx", reason="needs the extra explorer: pip install diffeo[explorer]"
)
HOP = ("connection", "transfer-encoding", "content-encoding", "content-length")


@contextlib.contextmanager
def proxy(target: str, prefix: str, *, strips: bool, keeps_host: bool) -> Iterator[str]:
    """The address at which a proxy shows the page of `target`; all else there is 404.

    Args:
        target: the address behind it.
        prefix: the path under which it shows the page.
        strips: whether it removes the prefix before it asks.
        keeps_host: whether it passes on the name that the visitor asked for.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def relay(self) -> None:
            if not f"{self.path.partition('?')[0]}/".startswith(f"{prefix}/"):
                self.send_error(404)
                return
            path = self.path.removeprefix(prefix) or "/" if strips else self.path
            length = int(self.headers.get("Content-Length") or 0)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP}
            if not keeps_host:
                del headers["Host"]
            call = client.stream(
                self.command, target + path, headers=headers, content=self.rfile.read(length)
            )
            with call as answer:
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name.lower() not in HOP:
                        self.send_header(name, value)
                self.end_headers()
                for piece in answer.iter_bytes():
                    self.wfile.write(piece)
                    self.wfile.flush()

        do_GET = do_POST = relay  # noqa: N815 (names of http.server)

        def log_message(self, *_: object) -> None: ...

    with httpx.Client(timeout=60) as client:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}{prefix}"
        finally:
            server.shutdown()
            server.server_close()

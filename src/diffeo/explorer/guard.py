"""Middleware that admits the requests of the page itself, and refuses all others."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse

LARGEST = 48 * 2**20  # bytes of one message, in base64
PATIENCE = 60.0  # seconds until the next piece of a message has to come

# All that the page asks for. Gradio answers much more: files by their name, uploads that it keeps,
# pages of other hosts.
OPEN = frozenset(
    (
        "/",
        "/config",
        "/theme.css",
        "/favicon.ico",
        "/manifest.json",
        "/robots.txt",
        "/gradio_api/startup-events",
        "/gradio_api/run/predict",
        "/gradio_api/queue/join",
        "/gradio_api/queue/data",
    )
)
BELOW = ("/assets/", "/static/", "/gradio_api/heartbeat/")

MISREAD = "The page has no such control or visitor, or the message is damaged: load the page again."

# The browser itself refuses what would come from another host.
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "frame-ancestors 'self'; base-uri 'self'; form-action 'self'; object-src 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

Names = Collection[str]
Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Guard:
    """Answers 404 for all that is not named here, and refuses huge, slow and foreign messages.

    Args:
        app: the application behind it.
        names: hosts by whose name the page may be asked for; by default any.
        root: where a reverse proxy shows the page, as a path or a URL; "" without a proxy. The path
            may come along with a request or not, since some proxies remove it.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        names: Names = (),
        root: str = "",
    ) -> None:
        public = urlsplit(root)
        self.app = app
        self.prefix: str = public.path.rstrip("/")
        self.public: str = public.netloc
        self.names: set[str] = {*names, *filter(None, [public.hostname])} if names else set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket: the page opens none
            await send({"type": "websocket.close"})
            return
        path = scope["path"]
        if self.prefix and f"{path}/".startswith(f"{self.prefix}/"):
            path = path.removeprefix(self.prefix) or "/"
        headers = dict(scope["headers"])
        if refusal := self._unknown(headers) or _refusal(path, headers, self.public):
            await refusal(scope, receive, send)
            return
        scope = {**scope, "path": path, "root_path": ""}
        if self.prefix and path == "/":
            send = _based(self.prefix, send)
        body = _Body(scope, receive, send)
        try:
            await self.app(scope, body.receive, body.send)
        except Exception:
            # Handlers of the page answer for themselves: this comes from a message that names an
            # event or a session which is not there.
            await body.give_up()

    def _unknown(self, headers: dict[bytes, bytes]) -> PlainTextResponse | None:
        """The answer to a name of somebody else's that leads here, or None."""
        host = headers.get(b"host", b"").decode("latin-1")
        name = re.sub(r":\d*$", "", host).strip("[]")
        if not self.names or name in self.names:
            return None
        return PlainTextResponse(
            f"The page does not know the name {name[:80]}: behind a proxy, start it with "
            "--root-path https://NAME/PATH.",
            400,
        )


async def misread(request: Any, error: Exception) -> PlainTextResponse:
    """The answer to a message that is not what the page sends."""
    return PlainTextResponse(MISREAD, 422)


def _based(prefix: str, send: Send) -> Send:
    """Send a page whose links lead to a prefix, also if its own address does not end in /."""
    begun: list[Message] = []
    parts: list[bytes] = []

    async def send_based(message: Message) -> None:
        if message["type"] == "http.response.start":
            begun.append(message)
            return
        parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        page, start = b"".join(parts), b'href="' + prefix.encode() + b"/"
        page = page.replace(b'<base href="./', b"<base " + start).replace(
            b'href="/manifest', start + b"manifest"
        )
        length = (b"content-length", str(len(page)).encode())
        others = [pair for pair in begun[0]["headers"] if pair[0] != b"content-length"]
        await send({**begun[0], "headers": [*others, length]})
        await send({"type": "http.response.body", "body": page})

    return send_based


def _refusal(path: str, headers: dict[bytes, bytes], public: str) -> PlainTextResponse | None:
    """The answer to what is refused before any of it is read, or None."""
    # No name of the page's files has these; what else they lead to is not tried out.
    crooked = ".." in path or "\\" in path or "\0" in path
    if crooked or not (path in OPEN or path.startswith(BELOW)):
        return PlainTextResponse("There is nothing here.", 404)
    if not _own(headers, public):
        return PlainTextResponse("Only the page itself may ask this.", 403)
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > LARGEST:
        return _last("That is too large.", 413)
    return None


def _own(headers: dict[bytes, bytes], public: str) -> bool:
    """Whether no page of another site asks: a browser says whose page it shows.

    A page of another site can set neither of these headers.
    """
    origin = headers.get(b"origin")
    if origin is None:
        return True
    try:
        name = urlsplit(origin.decode("latin-1")).netloc
    except ValueError:  # a bracket that is never closed
        return False
    hosts = (headers.get(key, b"").decode("latin-1") for key in (b"host", b"x-forwarded-host"))
    # The last header no script can set; a proxy that asks by a name of its own passes it on.
    same = headers.get(b"sec-fetch-site") == b"same-origin"
    return same or name in {*hosts, public} - {""}


def _last(text: str, status: int) -> PlainTextResponse:
    """An answer after which the connection is closed, with what still comes by it."""
    return PlainTextResponse(text, status, {"connection": "close"})


class _Body:
    """A message as it comes in: cut off where it is too large or comes to a halt."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.received, self.whole, self.refused = 0, False, False
        self.begun = self.ended = False  # of the answer

    async def receive(self) -> Message:
        if self.whole:  # all that can still come is that the visitor leaves
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), PATIENCE)
        except TimeoutError:
            return await self._refuse("That came to a halt.", 408)
        self.received += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        if self.received > LARGEST:
            return await self._refuse("That is too large.", 413)
        return message

    async def _refuse(self, text: str, status: int) -> Message:
        await _last(text, status)(self.scope, self._receive, self.send)
        self.whole = self.refused = True
        # To those who wait for the rest, the visitor has left.
        return {"type": "http.disconnect"}

    async def give_up(self) -> None:
        """End an answer that came to nothing."""
        if not self.begun:
            await PlainTextResponse(MISREAD, 422)(self.scope, self._receive, self.send)
        elif not self.ended:
            await self.send({"type": "http.response.body"})

    async def send(self, message: Message) -> None:
        if self.refused:  # it has been answered
            return
        if message["type"] == "http.response.start":
            self.begun = True
            message["headers"] = [*message["headers"], *HEADERS]
        elif not message.get("more_body", False):
            self.ended = True
        await self._send(message)

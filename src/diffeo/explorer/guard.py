"""Middleware that admits the requests of the page itself, and refuses all others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
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

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Guard:
    """Answers 404 for all that is not named here, and refuses huge, slow and foreign messages.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket: the page opens none
            await send({"type": "websocket.close"})
            return
        if refusal := _refusal(scope["path"], dict(scope["headers"])):
            await refusal(scope, receive, send)
            return
        body = _Body(scope, receive, send)
        try:
            await self.app(scope, body.receive, body.send)
        except Exception:
            # Handlers of the page answer for themselves: this comes from a message that names an
            # event or a session which is not there.
            await body.give_up()


async def misread(request: Any, error: Exception) -> PlainTextResponse:
    """The answer to a message that is not what the page sends."""
    return PlainTextResponse(MISREAD, 422)


def _refusal(path: str, headers: dict[bytes, bytes]) -> PlainTextResponse | None:
    """The answer to what is refused before any of it is read, or None."""
    # No name of the page's files has these; what else they lead to is not tried out.
    crooked = ".." in path or "\\" in path or "\0" in path
    if crooked or not (path in OPEN or path.startswith(BELOW)):
        return PlainTextResponse("There is nothing here.", 404)
    if not _own(headers):
        return PlainTextResponse("Only the page itself may ask this.", 403)
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > LARGEST:
        return _last("That is too large.", 413)
    return None


def _own(headers: dict[bytes, bytes]) -> bool:
    """Whether no page of another site asks: a browser says whose page it shows."""
    origin = headers.get(b"origin")
    if origin is None:
        return True
    try:
        name = urlsplit(origin.decode("latin-1")).netloc
    except ValueError:  # a bracket that is never closed
        return False
    return name == headers.get(b"host", b"").decode("latin-1")


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

"""Those who ask the page of `faults.visitors` for what it must not give, or will not let go."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from diffeo.explorer.guard import LARGEST
from faults.outcomes import Outcome
from faults.page import AT_ONCE, JOIN, LISTEN, Page

HUGE, PIECE = 100 * 2**20, 64 * 1024
BUFFERS = 16 * 2**20  # bytes that the system takes on their way, whoever reads them
CROWD = 50
# How a path is appended, and how it is written.
DOORS = (
    "/gradio_api/file=",
    "/gradio_api/file/",
    "/gradio_api//file=",
    "/gradio_api/./file=",
    "/gradio_api/x/../file=",
    "/gradio_api/%66ile=",
    "/GRADIO_API/FILE=",
    "//gradio_api/file=",
    "/file=",
    "/file/",
    "/static/",
    "/assets/",
    "/svelte/",
    "/theme.css/",
    "/gradio_api/proxy=",
    "/gradio_api/proxy=file://",
    "/gradio_api/stream/",
    "/gradio_api/heartbeat/",
    "/gradio_api/custom_component/html/client/",
    "/",
)
UP = ("", "../" * 12, "%2e%2e/" * 12, "..%2f" * 12, "%252e%252e%252f" * 12, "..\\" * 12)
UP += ("..%5c" * 12, "....//" * 12, "%c0%ae%c0%ae/" * 12, "..;/" * 12, "%00/" + "../" * 12)
FOREIGN = ("http://evil.example", "https://127.0.0.1", "http://127.0.0.1:1", "null", "")
FOREIGN += ("http://localhost.evil.example", "http://127.0.0.1@evil.example", "file://")


def attempt(page: Page, folder: Path, message: dict[str, Any], sample: bool) -> Iterator[Outcome]:
    """What they try, one after the other; afterwards a visitor is still answered."""
    secret = folder / "secret.txt"
    secret.write_text("what nobody may read")
    # And one where Gradio would serve it from: among the files that belong to the page.
    kept = next(page.folder.glob("diffeo-explorer-*")) / "secret.txt"
    kept.write_text(secret.read_text())
    targets = (kept,) if sample else (kept, secret, Path("/etc/passwd"))
    yield asyncio.run(_paths(page, targets))
    yield asyncio.run(_named(page, secret))
    kept.unlink()
    yield asyncio.run(_huge(page))
    yield asyncio.run(_strangers(page))
    yield asyncio.run(_silent(page))
    yield asyncio.run(_leavers(page, message, 10 if sample else CROWD))
    files = page.files()
    yield Outcome("Files of visitors left on disk", 1, int(bool(files)), f"{len(files)} files")


# Paths --------------------------------------------------------------------------------------------


async def _paths(page: Page, targets: tuple[Path, ...]) -> Outcome:
    """Files outside, by every door and in every spelling."""
    lost, first, count = 0, "", 0
    for door, up, target in itertools.product(DOORS, UP, targets):
        for name in (str(target), str(target)[1:], str(target).replace("/", "%2f")):
            status, body = await _raw(page, f"GET {door}{up}{name} HTTP/1.1")
            count += 1
            if not 200 <= status < 500 or _secret(body):
                lost, first = lost + 1, first or f"; {door}{up}{name} gave {status}"
    return Outcome(
        "Paths outside asked for, absolute, with '..' and encoded", count, lost, f"none read{first}"
    )


async def _named(page: Page, secret: Path) -> Outcome:
    """The same file named inside a message, to each function that the page has."""
    file = {"path": str(secret), "name": "a.png", "meta": {"_type": "gradio.FileData"}}
    lost, functions = 0, [f for f in page.config["dependencies"] if f["backend_fn"]]
    async with httpx.AsyncClient(base_url=page.address, timeout=60) as client:
        for function in functions:
            message = {
                "fn_index": function["id"],
                "session_hash": "intruder",
                "data": [file] * len(function["inputs"]),
                "event_data": {"files": [file]},
            }
            if function["queue"]:
                await client.post(JOIN, json=message)
                answer = await client.get(LISTEN, params={"session_hash": "intruder"})
            else:
                answer = await client.post(AT_ONCE, json=message)
            lost += _secret(answer.content)
        config = (await client.get("/config")).text + (await client.get("/")).text
    # And what the page says of itself: no folder of the machine is in it.
    told = [
        path for path in (str(page.folder), str(Path.home()), "site-packages") if path in config
    ]
    return Outcome(
        "Files named inside messages, and folders looked for in the page's settings",
        len(functions) + 1,
        lost + bool(told),
        f"none read, none told{' but ' + told[0] if told else ''}",
    )


def _secret(body: bytes) -> bool:
    return b"nobody may read" in body or b"root:" in body


# Messages -----------------------------------------------------------------------------------------


async def _huge(page: Page) -> Outcome:
    """100 MB, with their length said before, and in pieces without it."""
    before, lost, seen = page.memory(), 0, []
    doors = (AT_ONCE, JOIN, "/gradio_api/upload", "/gradio_api/component_server")
    for door, said in itertools.product(doors, (True, False)):
        status, sent = await _push(page, door, said)
        allowed = BUFFERS + (0 if said or door not in (AT_ONCE, JOIN) else LARGEST)
        lost += status not in (404, 413) or sent > allowed
        seen.append(sent)
    most = max(seen[::2]), max(seen[1::2])
    return Outcome(
        "An upload of 100 MB",
        len(seen),
        lost,
        f"refused after at most {most[0] / 1e6:.0f} MB where its length is said and "
        f"{most[1] / 1e6:.0f} MB where not; the server grew by "
        f"{max(0, page.memory() - before) / 1e6:.0f} MB",
    )


async def _push(page: Page, door: str, said: bool) -> tuple[int, int]:
    """The status of the answer, and how many bytes were taken until it came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", page.port)
    length = f"Content-Length: {HUGE}" if said else "Transfer-Encoding: chunked"
    writer.write(_head(page, f"POST {door} HTTP/1.1", "Content-Type: application/json", length))
    piece = b"A" * PIECE
    if not said:
        piece = f"{PIECE:x}\r\n".encode() + piece + b"\r\n"
    answer, sent = asyncio.create_task(reader.readline()), 0
    with contextlib.suppress(ConnectionError):
        while sent < HUGE and not answer.done():
            writer.write(piece)
            await asyncio.wait_for(writer.drain(), 20)
            sent += PIECE
            await asyncio.sleep(0)
    with contextlib.suppress(ConnectionError, TimeoutError):
        words = (await asyncio.wait_for(answer, 20)).split()
        return int(words[1]) if len(words) > 1 else 0, sent
    return 0, sent


async def _strangers(page: Page) -> Outcome:
    """Pages of other sites, and other names for this machine."""
    body = json.dumps({"data": [0], "fn_index": page.function("redraw", "click")})
    post = (f"POST {AT_ONCE} HTTP/1.1", "Content-Type: application/json")
    post += (f"Content-Length: {len(body)}",)
    own = await _raw(page, *post, f"Origin: {page.address}", body=body)
    if own[0] != 200:
        return Outcome("Other sites' pages", 1, 1, f"the page itself was answered {own[0]}")
    tries = [(*post, f"Origin: {origin}") for origin in FOREIGN]
    tries += [("GET /config HTTP/1.1", f"Origin: {origin}") for origin in FOREIGN]
    answers = [await _raw(page, *lines, body=body * (lines[0][0] == "P")) for lines in tries]
    for host in ("evil.example", f"evil.example:{page.port}", "127.0.0.1.evil.example"):
        answers.append(await _raw(page, "GET / HTTP/1.1", host=host))
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    upgrade += ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",)
    answers += [await _raw(page, f"GET {door} HTTP/1.1", *upgrade) for door in ("/ws", JOIN)]
    lost = sum(not 400 <= status < 500 for status, _ in answers)
    kinds = sorted({status for status, _ in answers})
    return Outcome(
        "Other sites' pages, other hosts' names, websockets",
        len(answers),
        lost,
        f"all refused ({', '.join(map(str, kinds))})",
    )


# Connections --------------------------------------------------------------------------------------


async def _silent(page: Page) -> Outcome:
    """Connections that say half of something, and nothing more."""
    writers = []
    halves = (b"GET / HT", _head(page, "POST /x HTTP/1.1", "Content-Length: 1000"))
    halves += (
        _head(page, f"POST {AT_ONCE} HTTP/1.1", "Content-Length: 1000") + b"{",
        _head(page, f"POST {JOIN} HTTP/1.1", "Transfer-Encoding: chunked") + b"5\r\n{",
    )
    for number in range(CROWD):
        _, writer = await asyncio.open_connection("127.0.0.1", page.port)
        writer.write(halves[number % len(halves)])
        await writer.drain()
        writers.append(writer)
    answers = [await _answered(page) for _ in range(5)]
    for writer in writers:
        writer.close()
    return Outcome(
        f"A visitor beside {CROWD} connections that stopped half-way",
        len(answers),
        sum(second is None for second in answers),
        f"answered within {1000 * max(second or 0 for second in answers):.0f} ms",
    )


async def _leavers(page: Page, message: dict[str, Any], count: int) -> Outcome:
    """Visitors who are gone before the answer to their picture is there."""
    before = page.held()
    for number in range(count):
        call = {"data": [], "event_data": message, "session_hash": f"leaver{number}"}
        if number % 2:
            body = json.dumps(call | {"fn_index": page.function("own", "upload")})
            await _leave(page, AT_ONCE, body)
            continue
        body = json.dumps(call | {"fn_index": page.function("inspect-own", "upload")})
        await _leave(page, JOIN, body, 200)
        _, writer = await asyncio.open_connection("127.0.0.1", page.port)
        writer.write(_head(page, f"GET {LISTEN}?session_hash=leaver{number} HTTP/1.1"))
        await writer.drain()
        writer.transport.abort()
    start = time.monotonic()
    # What they ordered is still being made, or dropped.
    while page.held() > before + 5 and time.monotonic() < start + 30:
        await asyncio.sleep(0.2)
    second, left = await _answered(page), page.held() - before
    return Outcome(
        f"{count} visitors who left before the answer",
        count,
        max(0, left - 5) + (second is None),
        f"their connections were closed {time.monotonic() - start:.1f} s later, "
        "and the next visitor was answered",
    )


async def _leave(page: Page, door: str, body: str, until: int = 0) -> None:
    """Send a message, and go; or go as soon as the answer begins."""
    reader, writer = await asyncio.open_connection("127.0.0.1", page.port)
    head = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    writer.write(_head(page, f"POST {door} HTTP/1.1", *head) + body.encode())
    await writer.drain()
    if until:
        await asyncio.wait_for(reader.readline(), 20)
    writer.transport.abort()


async def _answered(page: Page) -> float | None:
    """Seconds until samples came, or None."""
    start = time.perf_counter()
    message = {
        "fn_index": page.function("seed", "input"),
        "data": [None, 3, 1, 0.8, [], True, "any"],
        "session_hash": "patient",
    }
    async with httpx.AsyncClient(base_url=page.address, timeout=20) as client:
        with contextlib.suppress(httpx.HTTPError, ValueError, LookupError):
            shown = (await client.post(AT_ONCE, json=message)).json()["data"]
            return time.perf_counter() - start if "<img" in shown[1] else None
    return None


def _head(page: Page, line: str, *lines: str, host: str = "") -> bytes:
    parts = [line, f"Host: {host or f'127.0.0.1:{page.port}'}", *lines]
    return "\r\n".join([*parts, "", ""]).encode()


async def _raw(
    page: Page, line: str, *lines: str, body: str = "", host: str = ""
) -> tuple[int, bytes]:
    """The status and the beginning of the answer to a request that no library has put in order."""
    reader, writer = await asyncio.open_connection("127.0.0.1", page.port)
    closing = () if any(part.startswith("Connection") for part in lines) else ("Connection: close",)
    writer.write(_head(page, line, *lines, *closing, host=host) + body.encode())
    answer = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        answer = await asyncio.wait_for(reader.read(200_000), 2)
    writer.close()
    words = answer.split(maxsplit=2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0, answer

"""A served page for `faults.visitors`: its process, and a visitor who does what a browser does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import httpx
import torch
from PIL import Image
from torch import Tensor

from diffeo.explorer import editing, inspecting, mixing, sampling
from diffeo.explorer.subject import Subject

TEMPERATURE, SIDE = 0.8, 3
SOURCE = re.compile(r'<img src="(data:image/png[^"]+)"')
# The server closes a connection that was idle for 5 s. A browser that meets this asks again.
KEPT = httpx.Limits(keepalive_expiry=3)
# By how it comes to the server: a control that answers at once, or an event that waits its turn.
AT_ONCE, JOIN, LISTEN = (
    f"/gradio_api/{name}" for name in ("run/predict", "queue/join", "queue/data")
)


class Page:
    """`diffeo explore` in a process of its own.

    Args:
        model: what is explored.
        folder: where it writes what is temporary.
    """

    def __init__(self, model: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.address = f"http://127.0.0.1:{self.port}"
        self.folder, self.log = folder / "temporary", folder / "log"
        self.folder.mkdir()
        command = [sys.executable, "-m", "diffeo.cli", "explore", model, "--no-browser"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                env=os.environ | {"TMPDIR": str(self.folder)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> None:
        """Until it answers."""
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                self.config = httpx.get(f"{self.address}/config").json()
                return
            if self.process.poll() is not None:
                raise RuntimeError(self.log.read_text())
            time.sleep(0.1)
        raise TimeoutError(f"{self.address} does not answer.")

    def close(self) -> None:
        """End it as Ctrl-C does."""
        self.process.send_signal(2)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.process.kill()
        self.process.wait()

    def function(self, name: str, event: str, nth: int = 0) -> int:
        """The number of what an event of a control calls; of equal names, that of the nth."""
        controls = {
            part["id"]: part["props"].get("elem_id") or part["props"].get("label")
            for part in self.config["components"]
        }
        return [
            function["id"]
            for function in self.config["dependencies"]
            for target, kind in function["targets"]
            if (controls.get(target) or "page", kind) == (name, event)
        ][nth]

    def memory(self) -> int:
        """Bytes that it holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.partition("VmRSS:")[2].split()[0])

    def held(self) -> int:
        """Files and connections that it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def files(self) -> list[Path]:
        """What it has left on disk."""
        return [path for path in self.folder.rglob("*") if path.is_file()]


class Expected:
    """A picture and seed of one visitor's own, and what the page has to say of them.

    Args:
        subject: the model.
        number: of the visitor.
        x: the picture `(1, C, H, W)`.
    """

    def __init__(self, subject: Subject, number: int, x: Tensor) -> None:
        self.name, self.seed, self.x = f"visitor-{number}.png", 1_000 + number, x
        self.label = str(number % 10)
        slot = mixing.slot(subject, x, None, self.name)
        self.caption = slot.caption
        (self.guess,) = editing.rest(subject, slot)
        self.other = str((int(self.guess) + 1) % 10)
        self.edited = editing.edit(subject, slot, [self.other])
        found = inspecting.find(subject, x, [self.name])
        self.bits = f"{-float(found.nats[0]) / subject.flow.nats_per_bpd:.3f}"
        seeds = [self.seed] * len(subject.flow.latent_shapes)
        values = [self.label]
        self.samples, _ = sampling.sample(subject, SIDE**2, seeds, TEMPERATURE, values)
        buffer = io.BytesIO()
        Image.fromarray(x[0, 0].numpy()).save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        self.message = {"files": [{"name": self.name, "data": data}]}


class Visitor:
    """One who opens the page, moves what can be moved, and brings a picture to each tab.

    Args:
        page: what is visited.
        own: what is brought, and what has to come back.
        pause: seconds between two things done, at most; half of that on average.
    """

    def __init__(self, page: Page, own: Expected, pause: float) -> None:
        self.page, self.own, self.pause = page, own, pause
        self.random = random.Random(own.seed)
        self.seconds: list[float] = []
        self.wrong: list[str] = []

    async def stay(self, until: float) -> None:
        """Visit the page again and again; each time it is a new session."""
        self.until = until
        while time.monotonic() < until:
            self.session = f"{self.random.getrandbits(52):x}"
            async with httpx.AsyncClient(
                base_url=self.page.address, timeout=60, limits=KEPT
            ) as self.client:
                alive = asyncio.create_task(self._keep_alive())
                try:
                    await self._round()
                except TimeoutError:
                    return
                except (httpx.HTTPError, ValueError, LookupError) as error:
                    self.wrong.append(f"{type(error).__name__} {error}"[:200])
                finally:
                    alive.cancel()
                    await asyncio.gather(alive, return_exceptions=True)

    async def _keep_alive(self) -> None:
        async with self.client.stream(
            "GET", f"/gradio_api/heartbeat/{self.session}", timeout=None
        ) as beats:
            async for _ in beats.aiter_lines():
                pass

    async def _round(self) -> None:
        await self._pause()
        (await self.client.get("/")).raise_for_status()
        await self._ask("page", "load", [None, 0, SIDE, TEMPERATURE, [], True, "any"])
        tabs = [self._sample, self._edit, self._interpolate, self._inspect]
        first = self.own.seed % len(tabs)  # not all at the same tab at the same time
        for act in tabs[first:] + tabs[:first]:
            await act()

    async def _pause(self) -> None:
        await asyncio.sleep(self.random.uniform(0, self.pause))
        if time.monotonic() > self.until:
            raise TimeoutError("the time is over.")

    # The tabs -----------------------------------------------------------------------------------

    async def _sample(self) -> None:
        for temperature in (0.6, 1.0):
            moved = [None, 0, SIDE, temperature, [], True, "any"]
            await self._ask("temperature", "input", moved)
        settings = [SIDE, TEMPERATURE, [], True, self.own.label]
        shown = await self._ask("seed", "input", [None, self.own.seed, *settings])
        self._same("samples", shown[1], self.own.samples)

    async def _edit(self) -> None:
        await self._ask("Edit", "select", [None], waits=True)
        shown = await self._ask("own", "upload", [], self.own.message)
        self._same("picture", shown[1], self.own.x)
        self._same("picture decoded", shown[2], self.own.x)
        self._says(shown[1], self.own.caption)
        # Of the picture in this session's memory: what another one brought would be seen here.
        shown = await self._ask("Label", "input", [None, self.own.other], nth=1)
        self._same("picture edited", shown[0], self.own.edited)
        shown = await self._ask("reset", "click", [None])
        self._same("picture reset", shown[1], self.own.x)

    async def _interpolate(self) -> None:
        place = ["two images", 50, 50, "spherical"]
        await self._ask("Interpolate", "select", [None, *place], waits=True)
        shown = await self._ask("own-A", "upload", [None, *place], self.own.message)
        self._same("end", shown[1], self.own.x)
        self._says(shown[1], self.own.name)
        for across in (30, 10, 0):
            place[1] = across
            shown = await self._ask("across", "input", [None, *place])
        self._same("start of the way", shown[0], self.own.x)

    async def _inspect(self) -> None:
        await self._ask("Inspect", "select", [None], waits=True)
        shown = await self._ask("inspect-own", "upload", [], self.own.message, waits=True)
        self._same("inspected picture", shown[1], self.own.x)
        for words in (self.own.name, self.own.bits):
            self._says(shown[1], words)

    # What a browser does ------------------------------------------------------------------------

    async def _ask(
        self,
        name: str,
        event: str,
        data: list[Any],
        brought: Any = None,
        *,
        waits: bool = False,
        nth: int = 0,
    ) -> list[Any]:
        """The answer to an event of a control; it counts how long that took."""
        await self._pause()
        message = {
            "data": data,
            "event_data": brought,
            "fn_index": self.page.function(name, event, nth),
            "session_hash": self.session,
        }
        start = time.perf_counter()
        output = await (self._in_turn(message) if waits else self._at_once(message))
        self.seconds.append(time.perf_counter() - start)
        if output[-1]:  # the sentence that says what went wrong
            raise ValueError(f"{name}: {output[-1]}")
        return output

    async def _at_once(self, message: dict[str, Any]) -> list[Any]:
        answer = await self.client.post(AT_ONCE, json=message)
        answer.raise_for_status()
        return answer.json()["data"]

    async def _in_turn(self, message: dict[str, Any]) -> list[Any]:
        answer = await self.client.post(JOIN, json=message)
        answer.raise_for_status()
        async with self.client.stream(
            "GET", LISTEN, params={"session_hash": self.session}
        ) as events:
            async for line in events.aiter_lines():
                said = json.loads(line.removeprefix("data: ") or "{}")
                if said.get("msg") == "process_completed":
                    if not said["success"]:
                        raise ValueError(f"an event failed: {said['output']}")
                    return said["output"]["data"]
        raise ValueError("an event came to no end")

    def _same(self, what: str, markup: str, expected: Tensor) -> None:
        shown = torch.stack(list(pictures(markup)))
        if not torch.equal(shown, expected[:, 0]):
            self.wrong.append(f"another {what} than that of {self.own.name}")

    def _says(self, markup: str, words: str) -> None:
        if escape(words) not in markup:
            self.wrong.append(f"{words} is not said")


def pictures(markup: str) -> Iterator[Tensor]:
    """Grey pictures `(H, W)` of a piece of the page."""
    for source in SOURCE.findall(markup):
        content = base64.b64decode(source.partition(",")[2])
        with Image.open(io.BytesIO(content)) as opened:
            yield torch.frombuffer(bytearray(opened.tobytes()), dtype=torch.uint8).view(
                opened.height, opened.width
            )

"""Many visitors of `diffeo explore` at once: each gets what is theirs alone, and soon."""

import asyncio
import base64
import contextlib
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from .promises import Observation, Promise
from .specimens import image

IMAGE = re.compile(r'<img src=\\?"(data:image/png[^"\\]+)')
LIMITS = httpx.Limits(keepalive_expiry=3)  # the server closes a connection after 5 s
# What each does: the event of a control, and whether they bring an image of their own. The answers
# to `select` show some image of the data.
SCRIPT = ("seed.input", "Edit.select", "own.upload", "reset.click", "Interpolate.select")
SCRIPT += ("own-A.upload", "across.input", "inspect-own.upload")


class Page:
    """`diffeo explore` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address, self.folder = f"http://127.0.0.1:{port}", folder / "temporary"
        self.folder.mkdir()
        words = f"-m diffeo.cli explore mnist --no-browser --port {port}".split()
        environment = os.environ | {"TMPDIR": f"{self.folder}"}
        with (folder / "log").open("wb") as log:
            command = [sys.executable, *words]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        limit, self.config = time.monotonic() + 120, {}
        while not self.config and time.monotonic() < limit:
            time.sleep(0.1)
            with contextlib.suppress(httpx.HTTPError):
                self.config = httpx.get(f"{self.address}/config").json()
        self.values, self.names, self.functions = {}, {}, {}
        for part in self.config["components"]:
            props, self.values[part["id"]] = part["props"], part["props"].get("value")
            self.names[part["id"]] = props.get("elem_id") or props.get("label")
        for function in self.config["dependencies"]:
            if not function["outputs"]:  # it only writes the address, in the browser
                continue
            for part, event in function["targets"]:
                self.functions.setdefault(f"{self.names.get(part)}.{event}", function)

    async def ask(self, client: Any, session: str, event: str, values: dict, own: Any) -> str:
        """The answer to an event, as a browser asks for it; controls have their first values."""
        function = self.functions[event]
        inputs = function["inputs"]
        data = [values.get(self.names[part], self.values[part]) for part in inputs]
        call = {"data": data, "event_data": own, "session_hash": session}
        path = "queue/join" if function["queue"] else "run/predict"
        answer = await client.post(f"/gradio_api/{path}", json=call | {"fn_index": function["id"]})
        answer.raise_for_status()
        if not function["queue"]:
            return answer.text
        where = {"session_hash": session}
        async with client.stream("GET", "/gradio_api/queue/data", params=where) as events:
            async for line in events.aiter_lines():
                if '"process_completed"' in line:
                    return line
        raise ValueError(f"{event} came to no end")


class Visitor:
    """One who brings an image of their own to each tab, and draws samples with a seed."""

    def __init__(self, page: Page, number: int) -> None:
        pixels = np.random.default_rng(number).integers(0, 256, (28, 28), dtype=np.uint8)
        data = base64.b64encode(image("PNG", pixels)).decode()
        self.page, self.number, self.file = page, number, f"visitor-{number}.png"
        self.own = {"files": [{"name": self.file, "data": data}]}
        self.values = {"seed": 1000 + number, "across": number % 10 * 10}
        self.alone: list[Any] = []  # what came when nobody else was there
        self.seconds: list[float] = []
        self.wrong: list[str] = []

    async def visit(self, session: str, pause: float = 0.0) -> list[Any]:
        """The last image of each answer, and whether it names the image that was brought."""
        found = []
        options = {"base_url": self.page.address, "timeout": 90, "limits": LIMITS}
        async with httpx.AsyncClient(**options) as client:
            (await client.get("/")).raise_for_status()
            for event in SCRIPT:
                await asyncio.sleep(random.uniform(0, pause))
                begun = time.perf_counter()
                own = self.own if event.endswith("upload") else None
                text = await self.page.ask(client, session, event, self.values, own)
                self.seconds.append(time.perf_counter() - begun)
                if not event.endswith("select"):
                    found.append((event, IMAGE.findall(text)[-1], self.file in text))
        return found

    async def stay(self, until: float) -> None:
        while time.monotonic() < until:
            try:
                if await self.visit(f"{self.number}-{time.monotonic_ns()}", 4.0) != self.alone:
                    self.wrong.append(f"{self.file} was answered otherwise than alone")
            except Exception as error:
                self.wrong.append(f"{self.file}: {type(error).__name__} {error}")


def crowd(attempt: tuple[Path, bool]) -> Observation:
    folder, sample = attempt
    page, memory = Page(folder), []
    visitors = [Visitor(page, number) for number in range(6 if sample else 50)]

    async def visit() -> None:
        for one in visitors:
            one.alone = await one.visit(f"{one.number}-alone")
            one.seconds.clear()
        end = time.monotonic() + (3 if sample else 100)
        tasks = [asyncio.create_task(one.stay(end)) for one in visitors]
        while not all(task.done() for task in tasks):
            memory.append(int(Path(f"/proc/{page.process.pid}/statm").read_text().split()[1]))
            await asyncio.sleep(0.5)

    try:
        asyncio.run(visit())
        left = [path for path in page.folder.rglob("*") if path.is_file()]
    finally:
        page.process.send_signal(2)
        page.process.wait(30)
    growth = max(memory[-len(memory) // 3 :]) / max(memory[: len(memory) // 3 + 1]) - 1
    wrong = [line for one in visitors for line in one.wrong]
    wrong += [f"{path} is left" for path in left]
    wrong += [f"the memory grew by {growth:.0%}"] if growth > 0.1 and not sample else []
    if len({str(one.alone) for one in visitors}) < len(visitors):
        wrong.append("two visitors were answered alike, though they asked otherwise")
    took = [second for one in visitors for second in one.seconds]
    slow = statistics.quantiles(took, n=20)[-1]
    label = f"median {statistics.median(took):.1f} s, 95 % within {slow:.1f} s; the memory of the "
    return Observation({f"{label}server grew by {growth:.0%}; answers": len(took)}, wrong)


ATTEMPT = "50 visitors of the explorer at once, each with an image and a seed of their own"
HOLDS = "each is answered as if alone; the memory stays, and no file is left"
PROMISES = [Promise(ATTEMPT, HOLDS, lambda folder, sample: [(folder, sample)], crowd)]

"""Crowds, intruders and the absent-minded at the page of `diffeo explore`."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from diffeo.explorer.subject import Subject
from diffeo.run import Run
from faults import intruders
from faults.outcomes import Outcome
from faults.page import Expected, Page, Visitor

MODEL = "mnist"
GROWTH = 0.10  # of the server's memory after the first visits


def attempt(folder: Path, sample: bool) -> Iterator[Outcome]:
    """A page of a small model, visited and attacked."""
    page = Page(MODEL, folder)
    try:
        people = own(10 if sample else 50)
        page.wait()
        yield from crowd(page, people, sample)
        yield from intruders.attempt(page, folder, people[0].message, sample)
    finally:
        page.close()


def own(count: int) -> list[Expected]:
    """What each visitor brings: no two have the same picture, seed or name."""
    torch.set_num_threads(1)
    run = Run(MODEL)
    subject = Subject(run)
    context = torch.eye(10)[torch.arange(count) % 10]
    x = run.sample(count, context=context, seed=7)
    return [Expected(subject, number, x[number : number + 1]) for number in range(count)]


def crowd(page: Page, people: list[Expected], sample: bool) -> Iterator[Outcome]:
    """All at once, each in sessions of its own."""
    seconds, warm, pause = (5.0, 2.0, 0.4) if sample else (120.0, 20.0, 8.0)
    visitors = [Visitor(page, one, pause) for one in people]
    memory: list[tuple[float, int]] = []

    async def visit() -> None:
        start = time.monotonic()
        tasks = [asyncio.create_task(one.stay(start + seconds)) for one in visitors]
        while not all(task.done() for task in tasks):
            memory.append((time.monotonic() - start, page.memory()))
            await asyncio.sleep(0.5)
        await asyncio.gather(*tasks)

    asyncio.run(visit())
    took = sorted(second for one in visitors for second in one.seconds)
    wrong = [line for one in visitors for line in one.wrong]
    yield Outcome(
        f"{len(people)} visitors at once for {seconds:.0f} s, each with its own picture and seed",
        len(took),
        len(wrong),
        f"median {1000 * statistics.median(took):.0f} ms, 95 % within "
        f"{1000 * took[int(0.95 * len(took))]:.0f} ms" + _first(wrong),
    )
    if sample:
        return
    before = statistics.median(held for at, held in memory if warm - 2 < at < warm + 2)
    after = statistics.median(held for at, held in memory if at > seconds - 4)
    growth = after / before - 1
    yield Outcome(
        "The memory of the server meanwhile",
        1,
        int(growth > GROWTH),
        f"{before / 1e6:.0f} MB after {warm:.0f} s, {after / 1e6:.0f} MB at the end "
        f"({100 * growth:+.1f} %)",
    )


def _first(wrong: list[str]) -> str:
    return f"; {wrong[0]}" if wrong else ""

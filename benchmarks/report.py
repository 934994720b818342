"""What a benchmark found: a table of times, a table of ratios, JSON, and a plot of the ratios."""

from __future__ import annotations

import datetime
import json
import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from joblib import cpu_count
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.harness import Rounds, Settings
from diffeo.figures import DATA, GREY, INK, LINE, MODEL, save
from diffeo.figures.style import house_style, panel, plain, tick

PACKAGES = ("diffeo", "torch", "normflows", "zuko", "nflows", "FrEIA", "accelerate")
Sense = Literal[">=", "<="]


@dataclass(frozen=True)
class Measured:
    """What one side did.

    Args:
        group: what it is compared within, as "width 512".
        side: who, as "normflows".
        rounds: a value of each round.
        unit: what the values are in.
    """

    group: str
    side: str
    rounds: Rounds
    unit: str

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def best(self) -> float:
        return max(self.rounds) if self.unit.endswith("/s") else min(self.rounds)


@dataclass(frozen=True)
class Ratio:
    """A quotient, and the bar that it is held against.

    Args:
        what: of what.
        rounds: the quotient of each round.
        best: that of the best of either side.
        bar: None where nothing is asked.
        sense: whether at least, or at most, the bar is wanted of the median.
        unit: "x" of a true ratio.
    """

    what: str
    rounds: Rounds
    best: float
    bar: float | None = None
    sense: Sense = ">="
    unit: str = "x"

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the bar."""
        if self.bar is None:
            return None
        return self.median >= self.bar if self.sense == ">=" else self.median <= self.bar


def rates(group: str, side: str, seconds: Rounds, each: int, unit: str = "images/s") -> Measured:
    """How many of something a second, of times in which `each` were done."""
    return Measured(group, side, [each / s for s in seconds], unit)


def milliseconds(group: str, side: str, seconds: Rounds) -> Measured:
    """Times, in ms."""
    return Measured(group, side, [1e3 * s for s in seconds], "ms")


def over(
    what: str,
    top: Sequence[float],
    bottom: Sequence[float],
    bar: float | None = None,
    sense: Sense = ">=",
    scale: float = 1.0,
) -> Ratio:
    """The times `top` over the times `bottom`, round by round.

    To compare speeds, put the times of the slower one on top; `scale` multiplies them.
    """
    rounds = [scale * t / b for t, b in zip(top, bottom, strict=True)]
    return Ratio(what, rounds, scale * min(top) / min(bottom), bar, sense)


@dataclass
class Report:
    """What a benchmark found.

    Args:
        name: of the benchmark.
        title: one line on it.
        settings: how it was measured.
        measured: what each side did.
        ratios: and how they compare.
        notes: what a reader should know besides.
        figure: a plot in place of that of the ratios.
    """

    name: str
    title: str
    settings: Settings
    measured: list[Measured] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figure: Figure | None = None

    def print(self, console: Console) -> None:
        """Print both tables."""
        table = Table("", "", "median", "best", title=self.title, title_justify="left")
        for group, rows in groupby(self.measured, key=lambda row: row.group):
            for i, row in enumerate(rows):
                numbers = (f"{short(row.median)} {row.unit}", f"{short(row.best)} {row.unit}")
                table.add_row("" if i else group, row.side, *numbers)
            table.add_section()
        for column in table.columns[2:]:
            column.justify = "right"
        console.print(table)
        if self.ratios:
            table = Table("", "median", "rounds", "of the best", "bar", "")
            table.columns[0].no_wrap = True
            for ratio in self.ratios:
                bar = "" if ratio.bar is None else f"{ratio.sense} {short(ratio.bar)}"
                verdict = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[ratio.met]
                spread = f"{short(min(ratio.rounds))} to {short(max(ratio.rounds))}"
                middle = f"[bold]{short(ratio.median)} {ratio.unit}[/]"
                table.add_row(ratio.what, middle, spread, short(ratio.best), bar, verdict)
            console.print(table)
        for note in self.notes:
            console.print(note, highlight=False)

    def write(self, folder: Path) -> None:
        """Write NAME.json and NAME.png into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.as_dict(), indent=1, allow_nan=False, ensure_ascii=False)
        (folder / f"{self.name}.json").write_text(text + "\n", encoding="utf-8")
        figure = self.figure or (ratio_plot(self.title, self.ratios) if self.ratios else None)
        if figure is not None:
            save_small(figure, folder / f"{self.name}.png")

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            "name": self.name,
            "title": self.title,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(self.settings.device),
            "settings": asdict(self.settings),
            "measured": [asdict(m) | {"median": m.median, "best": m.best} for m in self.measured],
            "ratios": [asdict(r) | {"median": r.median, "met": r.met} for r in self.ratios],
            "notes": self.notes,
        }


def save_small(figure: Figure, path: Path) -> None:
    """A plot as a PNG of few colours, since it may be long."""
    save(figure, path)
    with Image.open(path) as image:
        image.convert("RGB").quantize(64).save(path, optimize=True)


def machine(device: str) -> dict[str, Any]:
    """What the figures depend on besides."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    found: dict[str, Any] = {
        "processor": next(names, platform.processor()),
        "cores": cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": dict(_versions()),
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    return found


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def short(value: float) -> str:
    """A number with three digits that count."""
    if not value or not math.isfinite(value) or abs(value) < 1e-4:
        return f"{value:.2g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


@house_style()
def ratio_plot(title: str, ratios: Sequence[Ratio]) -> Figure:
    """Each ratio as a line: its rounds as dots, their median, and the bar with its good side."""
    row, width = 0.26, 3.5
    left = 0.2 + 0.066 * max(len(ratio.what) for ratio in ratios)
    height = row * len(ratios)
    figure = Figure(figsize=(left + width + 0.75, height + 0.95))
    axes = panel(figure, left, 0.5, width, height)
    axes.set_xscale("log")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.axvline(1, color=LINE, lw=0.8, zorder=0)
    for y, ratio in enumerate(ratios):
        axes.plot(ratio.rounds, [y] * len(ratio.rounds), "o", ms=3, mew=0, color=DATA, alpha=0.35)
        color = MODEL if ratio.met is False else DATA
        axes.plot(ratio.median, y, "o", ms=6.5, color=color, mew=0)
        if ratio.bar is not None:
            axes.plot([ratio.bar] * 2, [y - 0.4, y + 0.4], color=INK, lw=1.4)
            arrow, side = ("→", 6) if ratio.sense == ">=" else ("←", -6)
            offset = {"xytext": (side, 4.5), "textcoords": "offset points", "fontsize": 8}
            axes.annotate(arrow, (ratio.bar, y), ha="center", va="center", **offset)
        label = f"{short(ratio.median)} {ratio.unit}"
        place = (1.02, y)
        axes.annotate(label, place, xycoords=("axes fraction", "data"), va="center", fontsize=8)
    values = [v for r in ratios for v in (*r.rounds, *([r.bar] if r.bar else ()), 1.0)]
    low, high = min(values) / 1.15, max(values) * 1.15
    steps = (1, 2, 5) if high / low > 6 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7)
    marks = [m * 10.0**e for e in range(-6, 7) for m in steps]
    marks = [m for m in marks if low <= m <= high]
    if high / low > 100:
        marks = [m for m in marks if math.log10(m) % 1 < 1e-9]
    axes.set_xlim(low, high)
    axes.set_xticks(marks, [tick(m) for m in marks])
    axes.minorticks_off()
    axes.set_ylim(len(ratios) - 0.4, -0.6)
    axes.set_yticks(range(len(ratios)), [plain(r.what) for r in ratios], color=INK)
    axes.tick_params(axis="y", length=0)
    axes.set_title(plain(title), x=-left / width + 0.04)
    axes.set_xlabel("ratio; dots: rounds; line: the bar, its arrow to the good side", color=GREY)
    return figure

"""Curves of the race as a table, seconds until the best rival's final quality, and as a plot."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from diffeo.figures import GREY, MODEL
from diffeo.figures.style import house_style, panel, plain, tick

OURS, NEAR, BAR = "diffeo", 0.01, 0.5
COLOURS = ["#286cab", "#8854bb", "#64ad53", "#c78c00", "#00a7e0", "#7a8190", "#d96fa4"]
DASHES = ["-", (0, (4, 1.5)), (0, (1, 1))]


def ours(contestant: str) -> bool:
    """Whether one of them is ours."""
    return contestant.split()[0] == OURS


def gain(points: pd.DataFrame) -> pd.Series:
    """Qualities, of which more is better."""
    return points["quality"].where(points["unit"] == "nats", -points["quality"])


def reached(points: pd.DataFrame, goal: float) -> float:
    """The median over the rounds of the seconds until a goal; infinite where it is not reached."""
    good = points[gain(points) >= goal].groupby("round")["seconds"].min()
    return float(good.reindex(points["round"].unique()).fillna(math.inf).median())


def final(points: pd.DataFrame) -> float:
    """The median over the rounds of the last quality, of which more is better."""
    return float(gain(points).groupby(points["round"]).last().median())


@dataclass(frozen=True)
class Line:
    """Ours against the best rival on a data set, all as they are printed."""

    data: str
    rival: str
    quality: str
    theirs: float
    method: str
    ours: float
    own: str

    @property
    def ratio(self) -> float:
        """Our seconds over theirs."""
        return self.ours / self.theirs


def lines(curves: pd.DataFrame) -> Iterator[Line]:
    """One for each of ours on each data set where there is a rival."""
    for data, points in curves.groupby("data", sort=False):
        each = dict(iter(points.groupby("contestant", sort=False)))
        rivals = {name: final(p) for name, p in each.items() if not ours(name)}
        rivals = {name: value for name, value in rivals.items() if math.isfinite(value)}
        if not rivals:
            continue
        best = max(rivals, key=lambda name: rivals[name])
        goal, unit = rivals[best] - NEAR, points["unit"].iloc[0]
        for name in filter(ours, each):
            sign = 1 if unit == "nats" else -1
            yield Line(
                str(data),
                best,
                f"{sign * rivals[best]:.3f} {unit}",
                reached(each[best], goal),
                name,
                reached(each[name], goal),
                f"{sign * final(each[name]):.3f} {unit}",
            )


def markdown(curves: pd.DataFrame) -> str:
    """A line for each of ours on each data set."""
    found = [
        "| data | best rival | its quality | its seconds "
        "| ours | its quality | its seconds | ratio | at most half |",
        "|---" * 9 + "|",
    ]
    for line in lines(curves):
        seconds = "never" if math.isinf(line.ours) else f"{line.ours:.1f}"
        ratio = "" if math.isinf(line.ours) else f"{line.ratio:.2f}"
        found.append(
            f"| {line.data} | {line.rival} | {line.quality} | {line.theirs:.1f} "
            f"| {line.method} | {line.own} | {seconds} | {ratio} "
            f"| {'yes' if line.ratio <= BAR else 'no'} |"
        )
    return "\n".join(found)


@house_style()
def plot(curves: pd.DataFrame) -> Figure:
    """A panel for each data set, a curve for each contestant; a dot where there is one answer."""
    names = list(dict.fromkeys(curves["contestant"]))
    libraries = list(dict.fromkeys(name.split()[0] for name in names if not ours(name)))
    styles = {}
    for name in names:
        library = name.split()[0]
        same = [other for other in names if other.split()[0] == library]
        colour = MODEL if ours(name) else COLOURS[libraries.index(library) % len(COLOURS)]
        styles[name] = {"color": colour, "ls": DASHES[same.index(name) % 3]}
        styles[name] |= {"lw": 2.2 if ours(name) else 1.2, "zorder": 3 if ours(name) else 2}
    groups = list(curves.groupby("data", sort=False))
    across, width, height = min(4, len(groups)), 2.3, 1.9
    down = math.ceil(len(groups) / across)
    size = 0.2 + across * (width + 0.6), 0.75 + down * (height + 0.75)
    figure = Figure(figsize=size)
    for i, (data, points) in enumerate(groups):
        left = 0.65 + i % across * (width + 0.6)
        axes = panel(
            figure, left, size[1] - (i // across + 1) * (height + 0.7) + 0.35, width, height
        )
        draw(axes, str(data), points[points["round"] == points["round"].min()], styles)
    keys = [Line2D([], [], label=name, **style) for name, style in styles.items()]
    figure.legend(handles=keys, loc="lower center", ncols=max(2, int(size[0] / 1.5)), fontsize=7.5)
    return figure


def draw(axes: Axes, data: str, points: pd.DataFrame, styles: dict[str, dict[str, object]]) -> None:
    """The curves of one data set."""
    unit = points["unit"].iloc[0]
    for name, curve in points.groupby("contestant", sort=False):
        dot = {"marker": "o", "ms": 4.5, "mew": 0} if len(curve) == 1 else {}
        axes.plot(curve["seconds"], curve["quality"], **dot, **styles[str(name)])
    sign = 1 if unit == "nats" else -1
    ends = sign * points.groupby("contestant")["quality"].last()
    mine = ends[[ours(str(name)) for name in ends.index]]
    best, worst = ends.max(), min((ends.median(), *mine))
    room = max(best - worst, 0.1)
    # Early points, and those of the worst, may be far out.
    axes.set_ylim(*sorted((sign * (worst - room), sign * (best + 0.1 * room))))
    axes.set_xscale("log")
    wide = points["seconds"].max() > 50 * points["seconds"].min()
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axes.xaxis.set_major_formatter(tick)
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(plain(data))
    axes.set_xlabel("seconds", color=GREY)
    axes.set_ylabel(f"held-out {unit}", color=GREY)

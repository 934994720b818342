"""Charts as SVG: they take the page's colours, light or dark, and fit a phone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from diffeo.figures.style import tick

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """A rectangle of data inside a chart, both in their own units.

    Args:
        left, right, low, high: its limits in data.
        x, y, width, height: where it is in the chart.
    """

    left: float
    right: float
    low: float
    high: float
    x: float
    y: float
    width: float
    height: float

    def across(self, value: float) -> float:
        """Where a value of the horizontal axis is."""
        return self.x + (value - self.left) / (self.right - self.left) * self.width

    def down(self, value: float) -> float:
        """Where a value of the vertical axis is."""
        return self.y + (self.high - value) / (self.high - self.low) * self.height

    def axes(
        self,
        x_label: str = "",
        y_label: str = "",
        ticks: int = 4,
        *,
        text: Callable[[float], str] = tick,
        y_text: Callable[[float], str] = tick,
    ) -> str:
        """Ticks with numbers along the bottom and, if it has a label, the left."""
        parts = []
        bottom = self.y + self.height
        for value in _ticks(self.left, self.right, ticks):
            at = self.across(value)
            parts.append(
                f'<line class="tick" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom:.1f}" '
                f'y2="{bottom + 4:.1f}"/><text class="number" x="{at:.1f}" '
                f'y="{bottom + 17:.1f}" text-anchor="middle">{escape(text(value))}</text>'
            )
        if y_label:
            for value in _ticks(self.low, self.high, ticks):
                at = self.down(value)
                parts.append(
                    f'<line class="tick" x1="{self.x - 4:.1f}" x2="{self.x:.1f}" '
                    f'y1="{at:.1f}" y2="{at:.1f}"/><text class="number" '
                    f'x="{self.x - 7:.1f}" y="{at + 4:.1f}" text-anchor="end">'
                    f"{escape(y_text(value))}</text>"
                )
            parts.append(
                f'<text class="label" x="{self.x:.1f}" y="{self.y - 8:.1f}">'
                f"{escape(y_label)}</text>"
            )
        middle = self.x + self.width
        parts.append(
            f'<text class="label" x="{middle:.1f}" y="{bottom + 34:.1f}" '
            f'text-anchor="end">{escape(x_label)}</text>'
        )
        parts.append(
            f'<line class="axis" x1="{self.x}" x2="{self.x + self.width}" '
            f'y1="{bottom}" y2="{bottom}"/>'
        )
        return "".join(parts)


def svg(width: float, height: float, body: str, alt: str, look: str = "chart") -> str:
    """A chart of some size, that shrinks with the page."""
    return (
        f'<svg class="{look}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(alt, quote=True)}">{body}</svg>'
    )


def histogram(
    values: Numbers,
    label: str,
    alt: str,
    *,
    title: str = "",
    marks: Sequence[tuple[float, str]] = (),
    others: Numbers | None = None,
    curve: Callable[[Numbers], Numbers] | None = None,
    reach: tuple[float, float] | None = None,
    look: str = "chart",
) -> str:
    """How values are distributed, as densities, with some of them marked.

    Args:
        values: `(n,)`, finite.
        label: of the axis.
        alt: the chart in words.
        title: above it.
        marks: values with a short name each; those beyond the limits stand at the edge.
        others: more values, whose distribution is drawn as a line over that of the first.
        curve: a density to draw over it.
        reach: the limits; by default those of nearly all values, and of the marks near them.
        look: its class.
    """
    seen = (
        [value for value, _ in marks]
        if others is None or not len(others)
        else [float(end) for end in np.quantile(others, [0.02, 0.98])]
    )
    left, right = reach or _limits(values, seen)
    bins = int(min(60, max(8, len(values) ** 0.5)))
    counts, edges = np.histogram(values, bins, range=(left, right))
    heights = counts / (max(len(values), 1) * np.diff(edges))
    zs = np.linspace(left, right, 121)
    line = None if curve is None else curve(zs)
    second = np.zeros(0)
    if others is not None:
        counts, _ = np.histogram(others, bins, range=(left, right))
        second = counts / (max(len(others), 1) * np.diff(edges))
    top = 1.1 * max(
        float(second.max(initial=0)),
        float(heights.max(initial=0)),
        0.0 if line is None else float(line.max()),
    )
    frame = Frame(left, right, 0, top or 1.0, 12, 30, 376, 120)
    parts = [f'<text class="title" x="12" y="18">{escape(title)}</text>'] if title else []
    for height, start, end in zip(heights, edges[:-1], edges[1:], strict=True):
        if height:
            x, y = frame.across(start), frame.down(height)
            parts.append(
                f'<rect class="bar" x="{x:.2f}" y="{y:.2f}" '
                f'width="{frame.across(end) - x:.2f}" '
                f'height="{frame.y + frame.height - y:.2f}"/>'
            )
    if line is not None:
        points = " ".join(
            f"{frame.across(z):.1f},{frame.down(h):.1f}" for z, h in zip(zs, line, strict=True)
        )
        parts.append(f'<polyline class="curve" points="{points}"/>')
    if len(second):
        steps = []
        for height, start, end in zip(second, edges[:-1], edges[1:], strict=True):
            y = frame.down(height)
            steps += [f"{frame.across(start):.1f},{y:.1f}", f"{frame.across(end):.1f},{y:.1f}"]
        parts.append(f'<polyline class="others" points="{" ".join(steps)}"/>')
    parts.append(frame.axes(label))
    for row, (value, name) in enumerate(sorted(marks)):
        at = frame.across(min(max(value, left), right))
        beyond = "" if left <= value <= right else ("← " if value < left else "→ ")
        anchor = "end" if at > 300 else "start"
        shift = -5 if anchor == "end" else 5
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="30" y2="150"/>')
        if name:
            parts.append(
                f'<text class="mark" x="{at + shift:.1f}" y="{41 + 13 * (row % 3)}" '
                f'text-anchor="{anchor}">'
                f"{beyond}{escape(name)}</text>"
            )
    return svg(400, 190, "".join(parts), alt, look)


def _limits(values: Numbers, marks: Sequence[float]) -> tuple[float, float]:
    low, high = (float(end) for end in np.quantile(values, [0.005, 0.995]))
    span = high - low or max(1.0, abs(high))
    near = [mark for mark in marks if low - 2 * span <= mark <= high + 2 * span]
    low, high = min([low, *near]), max([high, *near])
    return low - 0.06 * span, high + 0.06 * span


def _ticks(low: float, high: float, count: int) -> list[float]:
    values = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(value) for value in values if low <= value <= high]

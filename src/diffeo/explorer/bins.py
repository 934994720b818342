"""The values of a column of a mixed table in bins, and charts of how much lies in each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape

import numpy as np

from diffeo.answers.spread import Spread
from diffeo.data.tables.frames import write_number
from diffeo.data.tables.grids import Floats
from diffeo.explorer import charts
from diffeo.figures.style import tick
from diffeo.schema import CategoryColumn, Column, DateColumn, NumberColumn

MOST = 12  # bars with a name
BARS = 40  # of a histogram
LINE, NAME, BAR = 19.0, 124.0, 165.0  # height of a bar with a name, and widths of both


@dataclass(frozen=True, eq=False)
class Bins:
    """Bins of a column: its values one by one where they are few, and else intervals.

    Args:
        column: the column.
        ends: of the intervals in rising order `(bins + 1,)`, each without its lower end.
        places: the values of a category that have a bar of their own, in their order.
    """

    column: Column
    ends: Floats
    places: tuple[int, ...] = ()

    @classmethod
    def of(cls, column: Column, values: Floats) -> Bins:
        """Those for values `(n,)` that are usual; NaN is none."""
        values = values[~np.isnan(values)]
        if isinstance(column, CategoryColumn):
            counts = np.bincount(values.astype(int), minlength=column.count)
            most = MOST if column.count <= MOST else MOST - 1
            places = np.sort(np.argsort(-counts, kind="stable")[:most])
            return cls(column, np.zeros(0), tuple(int(place) for place in places))
        free = values[~np.isin(values, column.atoms)]
        values = free if len(free) else values
        if not len(values):
            values = np.array([column.origin])
        if column.step and (values.max() - values.min()) / column.step < MOST - 0.5:
            count = round(float(values.max() - values.min()) / column.step) + 1
            start = float(values.min()) - column.step / 2
            return cls(column, _steps(start, column.step, count))
        low, high = (float(end) for end in np.quantile(values, [0.005, 0.995]))
        width = (high - low) / BARS or max(abs(high), 1.0) / BARS
        if column.step:
            width = column.step * max(1.0, math.ceil(width / column.step - 1e-9))
            first = math.floor((low - column.origin) / column.step + 1e-6)
            low = column.origin + (first - 0.5) * column.step
        count = max(1, math.ceil((high - low) / width + 1e-9))
        ends = _steps(low, width, count)
        if not column.step:  # so that the least value belongs to the first interval
            ends[0] -= 1e-6 * width
        return cls(column, ends)

    @cached_property
    def names(self) -> list[str]:
        """Of the bars; of none if it is a histogram."""
        if isinstance(self.column, CategoryColumn):
            every = value_names(self.column)
            more = len(every) - len(self.places)
            return [every[place] for place in self.places] + [f"{more:,} others"] * (more > 0)
        middles = (self.ends[1:] + self.ends[:-1]) / 2
        if self.column.step and len(middles) <= MOST:
            step = float(self.ends[1] - self.ends[0])
            if step < 1.5 * self.column.step:
                return [number_text(self.column, middle) for middle in middles.tolist()]
        return []

    def shares(self, values: Floats) -> Floats:
        """The share of values `(n,)` in each bin, among those that are not empty."""
        values = values[~np.isnan(values)]
        count = max(len(values), 1)
        if isinstance(self.column, CategoryColumn):
            each = np.bincount(values.astype(int), minlength=self.column.count)
            return self._grouped(each / count)
        free = values[~np.isin(values, self.column.atoms)]
        return np.diff(np.searchsorted(np.sort(free), self.ends, side="right")) / count

    def shares_of(self, spread: Spread) -> Floats:
        """The probability of each bin, given that the cell is not empty."""
        if isinstance(self.column, CategoryColumn):
            return self._grouped(spread.mass[0].cpu().numpy())
        below = np.array([spread.cdf(float(end))[0] for end in self.ends])
        for atom in self.column.atoms:
            below -= atom_share(spread, atom) * (self.ends >= atom)
        return np.diff(below).clip(0)

    def _grouped(self, each: Floats) -> Floats:
        own = each[list(self.places)]
        return np.append(own, each.sum() - own.sum()) if len(self.names) > len(own) else own

    def chart(
        self,
        filled: Floats | None,
        line: Floats | None,
        alt: str,
        *,
        title: str = "",
        mark: float | None = None,
    ) -> str:
        """Shares as bars, and others as an outline over them.

        Args:
            filled: of each bin, or None.
            line: the same.
            alt: the chart in words.
            title: above it; by default the name of the column.
            mark: a value of the column that is pointed at.
        """
        draw = self._bars if self.names else self._histogram
        return draw(filled, line, alt, title or self.column.name, mark)

    def _bars(
        self, filled: Floats | None, line: Floats | None, alt: str, title: str, mark: float | None
    ) -> str:
        every = [part for part in (filled, line) if part is not None]
        top = max((float(part.max(initial=0)) for part in every), default=0.0) or 1.0
        marked = -1 if mark is None else self._place(mark)
        parts = [_title(title)]
        for i, name in enumerate(self.names):
            y = 28 + i * LINE
            look = "label mark" if i == marked else "label"
            arrow = "→ " if i == marked else ""
            parts.append(
                f'<text class="{look}" x="{NAME}" y="{y + 12:.1f}" text-anchor="end">'
                f"{arrow}{escape(shortened(name))}</text>"
            )
            for look, shares in (("bar", filled), ("outline", line)):
                if shares is not None and shares[i] > 0:
                    parts.append(
                        f'<rect class="{look}" x="{NAME + 8}" y="{y:.1f}" height="{LINE - 4}" '
                        f'width="{BAR * shares[i] / top:.1f}"/>'
                    )
            text = " / ".join(percent(float(part[i])) for part in every)
            longest = max((BAR * part[i] / top for part in every), default=0.0)
            parts.append(
                f'<text class="number" x="{NAME + 13 + longest:.1f}" y="{y + 12:.1f}">{text}</text>'
            )
        return charts.svg(400, 34 + len(self.names) * LINE, "".join(parts), alt)

    def _histogram(
        self, filled: Floats | None, line: Floats | None, alt: str, title: str, mark: float | None
    ) -> str:
        left, right = float(self.ends[0]), float(self.ends[-1])
        top = max(float(p.max(initial=0)) for p in (filled, line) if p is not None) or 1.0
        frame = charts.Frame(left, right, 0, 1.08 * top, 12, 28, 376, 90)
        parts, bottom, steps = [_title(title)], frame.y + frame.height, []
        for i, (start, end) in enumerate(zip(self.ends[:-1], self.ends[1:], strict=True)):
            x, until = frame.across(start), frame.across(end)
            if filled is not None and filled[i] > 0:
                y = frame.down(filled[i])
                parts.append(
                    f'<rect class="bar" x="{x:.2f}" y="{y:.2f}" width="{until - x:.2f}" '
                    f'height="{bottom - y:.2f}"/>'
                )
            if line is not None:
                steps += [f"{edge:.1f},{frame.down(line[i]):.1f}" for edge in (x, until)]
        if steps:
            parts.append(f'<polyline class="others" points="{" ".join(steps)}"/>')
        parts.append(frame.axes(text=axis_text(self.column)))
        if mark is not None:
            at = frame.across(min(max(mark, left), right))
            anchor, shift = ("end", -5) if at > 250 else ("start", 5)
            text = escape(number_text(self.column, mark))  # type: ignore[arg-type]
            parts.append(
                f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{frame.y}" y2="{bottom}"/>'
                f'<text class="mark" x="{at + shift:.1f}" y="{frame.y + 12}" '
                f'text-anchor="{anchor}">{text}</text>'
            )
        return charts.svg(400, bottom + 24, "".join(parts), alt)

    def _place(self, value: float) -> int:
        """Of the bar of a value, -1 for none."""
        if math.isnan(value):
            return -1
        if isinstance(self.column, CategoryColumn):
            others = len(self.names) - 1 if len(self.names) > len(self.places) else -1
            return self.places.index(int(value)) if int(value) in self.places else others
        found = int(np.searchsorted(self.ends, value)) - 1
        return found if 0 <= found < len(self.names) else -1


def value_names(column: CategoryColumn) -> list[str]:
    """The values of a category as text."""
    return [str(value) for value in column.values] + ["other"] * column.other


def atom_share(spread: Spread, atom: float) -> float:
    """The probability of one value of a column that has a mass of its own."""
    return float(spread.mass[0][(spread.x[0] == atom) & spread.jumps[0]].sum())


def axis_text(column: Column) -> Callable[[float], str]:
    """How numbers on an axis are written: dates as such."""
    if isinstance(column, DateColumn):
        return lambda value: write_number(column, float(round(value)))
    return tick


def number_text(column: NumberColumn, value: float, width: float = 0.0) -> str:
    """A number of a column as text, to a five hundredth of a width; a date in its form."""
    if isinstance(column, DateColumn):
        return write_number(column, float(round(value)))
    if width > 0 and math.isfinite(value):
        digits = max(0, min(9, 2 - math.floor(math.log10(width))))
        if abs(value) < 1e9:
            text = f"{value:,.{digits}f}" if abs(value) >= 10_000 else f"{value:.{digits}f}"
            return text.replace("-", "\N{MINUS SIGN}")
    return tick(value)


def percent(share: float) -> str:
    """A share as text, in few letters."""
    shown = 100 * share
    digits = 0 if shown >= 10 or shown == 0 else 1
    return f"{shown:.{digits}f} %" if shown == 0 or shown >= 0.05 else "< 0.1 %"


def shortened(text: str, most: int = 17) -> str:
    """A name in so many letters at most."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def words(names: Sequence[str], shares: Floats, most: int = 3) -> str:
    """The largest shares with their names: "red 60 %, blue 40 %"."""
    order = np.argsort(-shares, kind="stable")[:most]
    return ", ".join(f"{names[i]} {percent(float(shares[i]))}" for i in order)


def _steps(start: float, width: float, count: int) -> Floats:
    """The ends of so many intervals of one width."""
    return np.asarray(start + width * np.arange(count + 1), dtype=np.float64)


def _title(text: str) -> str:
    return f'<text class="title" x="12" y="16">{escape(shortened(text, 50))}</text>'

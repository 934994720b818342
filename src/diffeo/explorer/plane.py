"""Models of two columns: the density, the path of one point through the layers, and of many."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from matplotlib.colors import to_hex
from torch import Tensor

from diffeo.bases import Normal
from diffeo.evaluation.likelihood import log_probs
from diffeo.explorer import charts, images
from diffeo.explorer.subject import Subject, first, generator, table_of
from diffeo.explorer.trajectory import (
    Trajectory,
    decode_by_layer,
    encode_by_layer,
    layer_name,
    layers,
)
from diffeo.figures.style import DENSITY, WHEEL, Window, latent_reach, square_window, tick, to_numpy

CELLS = 200  # of the density, along a side
SHOWN = 1_500  # points of the data
FLOWING = 700  # points of the film
SIDE, LEFT, TOP = 420.0, 52.0, 26.0  # of a square panel, in units of the chart


@dataclass(frozen=True, eq=False)
class Plane:
    """A model of two columns, at one context.

    Args:
        subject: the model.
        context: `(1, width)`, or None.
    """

    subject: Subject
    context: Tensor | None = None

    @cached_property
    def data(self) -> Tensor:
        """Points to show `(n, 2)`: of the data, or samples in their place."""
        table = table_of(self.subject)
        if table is not None:
            return first(table.train, SHOWN)[0]
        return self.subject.run.sample(SHOWN, context=self.context, seed=0)

    @cached_property
    def window(self) -> Window:
        """The limits of data space."""
        return square_window(to_numpy(self.data))

    @cached_property
    def frame(self) -> charts.Frame:
        """The panel of data space."""
        (left, right), (low, high) = self.window
        return charts.Frame(left, right, low, high, LEFT, TOP, SIDE, SIDE)

    @cached_property
    def heat(self) -> str:
        """The density over the window, as an image."""
        (left, right), (low, high) = self.window
        middles = (np.arange(CELLS) + 0.5) / CELLS
        xs, ys = left + middles * (right - left), high - middles * (high - low)
        grid = torch.tensor(np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2))
        grid = grid.to(self.data.dtype)
        context = None if self.context is None else self.context.expand(len(grid), -1)
        log_prob = torch.cat(list(log_probs(self.subject.flow, [(grid, context)])))
        density = log_prob.double().exp().nan_to_num(0.0, 0.0, 0.0).numpy().reshape(CELLS, CELLS)
        # One spike must not turn the rest of the map white.
        top = float(np.quantile(density, 0.999)) or float(density.max()) or 1.0
        colours = DENSITY(np.clip(density / top, 0, 1), bytes=True)
        return images.png_of(np.asarray(colours, dtype=np.uint8)[..., :3])

    def density(self, trajectory: Trajectory | None = None) -> str:
        """The density with the data upon it, and the point that was picked."""
        frame, columns = self.frame, self.subject.run.columns
        parts = [
            f'<image class="paper" href="{self.heat}" x="{frame.x}" y="{frame.y}" '
            f'width="{frame.width}" height="{frame.height}" preserveAspectRatio="none"/>'
        ]
        parts.append(f'<g class="dots">{_circles(frame, self.data, 1)}</g>')
        parts.append(frame.axes(columns[0], columns[1]))
        if trajectory is not None:
            x, y = trajectory.points[0, 0].tolist()
            parts.append(_cross(frame, x, y))
        return charts.svg(
            LEFT + SIDE + 12,
            TOP + SIDE + 42,
            "".join(parts),
            f"The density of {columns[0]} and {columns[1]}; darker is denser.",
            "chart plane",
        )

    def pick(self, x: float, y: float) -> Trajectory:
        """The path of one point through every layer.

        Raises:
            ValueError: if it is not finite, or so far away that the model computes no density.
        """
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError("that is no point: give two finite numbers.")
        point = torch.tensor([[x, y]]).to(self.data.dtype)
        path = encode_by_layer(self.subject.flow, point, self.context)
        if not bool(path.points.isfinite().all() and path.log_prob.isfinite().all()):
            raise ValueError(
                f"({x:g}, {y:g}) is too far from the data, so that the model computes no density "
                "there: choose a nearer point."
            )
        return path

    def scatter(self, samples: Tensor) -> str:
        """Samples over the data, as points."""
        frame, columns = self.frame, self.subject.run.columns
        data = _circles(frame, self.data, 1.2) if table_of(self.subject) is not None else ""
        parts = [
            f'<g class="dots">{data}</g>',
            f'<g class="sample">{_circles(frame, samples, 2)}</g>',
            frame.axes(columns[0], columns[1]),
        ]
        alt = f"{len(samples):,} samples of {columns[0]} and {columns[1]}, over the data."
        return charts.svg(LEFT + SIDE + 12, TOP + SIDE + 42, "".join(parts), alt, "chart plane")

    def outside(self, points: Tensor) -> int:
        """How many points `(n, 2)` do not lie in the panel of data space."""
        (left, right), (low, high) = self.window
        x, y = points.unbind(1)
        return int((~((x > left) & (x < right) & (y > low) & (y < high))).sum())

    def at(self, across: Any, down: Any) -> tuple[float, float]:
        """The point at some shares of the panel, from its upper left corner, each 0 to 1.

        Raises:
            ValueError: if that is outside.
        """
        for share in (across, down):
            if not isinstance(share, int | float) or not 0 <= share <= 1:
                raise ValueError("that is outside of the plane: point inside of it.")
        (left, right), (low, high) = self.window
        x, y = left + across * (right - left), high - down * (high - low)
        digits = 3 - math.floor(math.log10(max(right - left, high - low)))
        return round(x, digits), round(y, digits)

    def path(self, trajectory: Trajectory) -> str:
        """A path drawn: a numbered dot after each layer, over circles of the noise."""
        points = to_numpy(trajectory.points[:, 0])
        farthest = 1.15 * float(np.abs(points[1:]).max())
        reach = max(latent_reach(self.subject.flow.base), farthest)
        frame = charts.Frame(-reach, reach, -reach, reach, LEFT, TOP, SIDE, SIDE)
        parts = []
        if isinstance(self.subject.flow.base, Normal):
            for radius in (1, 2, 3):
                parts.append(
                    f'<circle class="ring" cx="{frame.across(0):.1f}" '
                    f'cy="{frame.down(0):.1f}" '
                    f'r="{radius / (2 * reach) * SIDE:.1f}"/>'
                )
        places = [(frame.across(x), frame.down(y)) for x, y in points[1:]]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="path" points="{line}"/>')
        last = len(places) - 1
        for i, (x, y) in enumerate(places):
            look = "end" if i == last else "stop"
            parts.append(
                f'<circle class="{look}" cx="{x:.1f}" cy="{y:.1f}" r="9"/>'
                f'<text class="stop" x="{x:.1f}" y="{y + 3.5:.1f}" '
                f'text-anchor="middle">{i + 1}</text>'
            )
        parts.append(frame.axes("first number", "second number"))
        return charts.svg(
            LEFT + SIDE + 12,
            TOP + SIDE + 42,
            "".join(parts),
            f"The point after each of {len(places)} layers, the last one among the noise.",
            "chart plane",
        )

    def steps(self, trajectory: Trajectory) -> str:
        """A path in numbers: the point after each layer, and what the layer adds to log p."""
        body = [["", "data", *_place(trajectory.points[0, 0]), ""]]
        for i, name in enumerate(trajectory.names):
            added = f"{float(trajectory.log_dets[i, 0]):+.3f}".replace("-", "−")
            body.append([str(i + 1), name, *_place(trajectory.points[i + 1, 0]), added])
        total = float(trajectory.log_prob[0])
        base = total - float(trajectory.log_dets[:, 0].sum())
        body.append(["", "log-density of the noise", "", "", f"{base:+.3f}".replace("-", "−")])
        body.append(["", "log p(x), nats", "", "", f"{total:+.3f}".replace("-", "−")])
        head = ["", "after", "first", "second", "log|det|"]
        return images.rows(head, body, "The point after every layer")

    def film(self, seed: int) -> dict[str, Any]:
        """Points from noise to data, for the page to move.

        Each station has limits of its own, since data may be in thousands where noise is in ones:
        those of the noise as long as its points lie within them.

        Returns:
            `stations`, for each the points as shares of the panel, `[[x0, y0, x1, y1, ...], ...]`,
            to three decimals; `names` of what each comes out of; `colours` of the points; `labels`,
            the limits of each station in words.
        """
        flow = self.subject.flow
        z = flow.noise(FLOWING, generator(seed)).detach().cpu()
        context = None if self.context is None else self.context.expand(FLOWING, -1)
        stations = to_numpy(decode_by_layer(flow, z, context))
        reach = latent_reach(flow.base)
        plain = (-reach, reach), (-reach, reach)
        names = [
            "noise",
            *(f"undone: {layer_name(layer)}" for layer in reversed(list(layers(flow.bijection)))),
        ]
        if flow.dequantizer is not None:
            names.append("rounded to its grid")
        shares, labels = [], []
        for i, points in enumerate(stations):
            finite = points[np.isfinite(points).all(1)]
            if not len(finite):
                raise ValueError(f"no point is finite after {names[i]}: train for longer.")
            window = plain if _fits(finite, reach) else square_window(finite)
            if i == len(stations) - 1:
                window, names[i] = self.window, f"data ({names[i]})"
            (left, right), (low, high) = window
            x = (points[:, 0] - left) / (right - left)
            y = (high - points[:, 1]) / (high - low)
            near = np.clip(np.nan_to_num(np.stack([x, y], axis=1), nan=-9.0), -9, 9)
            shares.append(np.round(near, 3).ravel().tolist())
            labels.append(f"{tick(left)} to {tick(right)} across, {tick(low)} to {tick(high)} up")
        turn = np.arctan2(z[:, 1].numpy(), z[:, 0].numpy()) / (2 * np.pi) % 1
        colours = [to_hex(colour) for colour in WHEEL(turn)]
        return {"stations": shares, "names": names, "colours": colours, "labels": labels}


def _fits(points: Any, reach: float) -> bool:
    """Whether nearly all of these finite points lie in the noise's limits, and fill a third."""
    far = float(np.quantile(np.abs(points), 0.98))
    return reach / 3 < far < 1.2 * reach


def _place(point: Tensor) -> list[str]:
    return [f"{value:.4g}".replace("-", "−") for value in point.tolist()]


def _circles(frame: charts.Frame, points: Tensor, radius: float) -> str:
    """Those of some points that lie within the frame."""
    return "".join(
        f'<circle cx="{frame.across(x):.1f}" cy="{frame.down(y):.1f}" r="{radius}"/>'
        for x, y in points.tolist()
        if frame.left < x < frame.right and frame.low < y < frame.high
    )


def _cross(frame: charts.Frame, x: float, y: float) -> str:
    across, down = frame.across(x), frame.down(y)
    return (
        f'<g class="cross"><line x1="{across:.1f}" x2="{across:.1f}" y1="{frame.y}" '
        f'y2="{frame.y + frame.height}"/><line x1="{frame.x}" x2="{frame.x + frame.width}" '
        f'y1="{down:.1f}" y2="{down:.1f}"/><circle cx="{across:.1f}" cy="{down:.1f}" r="6"/>'
        "</g>"
    )

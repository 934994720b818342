"""Edit images by their attributes, and measure whether the edits do what was asked.

`shapes` is a Glow that ships with diffeo. It has learned drawn shapes of 24 x 24 pixels, given
their attributes: shape, colour, size, place and others (Kingma & Dhariwal 2018). An image is edited
by its condition: its noise, decoded under another context, is the same image with another
attribute, as far as the model has learned to separate the two.

The images to edit are drawn here, with a seed that training has not seen, so that their attributes
are known. Three edits: move the shape to a place, recolour it, and turn the background dark. Place,
colour and brightness are measured by their pixels alone, and compared with what was asked. A model
that ignored its context, or an edit to the attributes as they are, would change nothing.

    python examples/edit_shapes.py --out edits.png

needs diffeo alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import diffeo
from diffeo.context import Category
from diffeo.data import draw_shapes
from diffeo.figures.style import house_style, save
from diffeo.latent import recondition

SIZE, SEED = 24, 20_240
PLACES = (0.4, 0.6)  # that shapes are moved to, in turn
COLOURS = ("red", "green", "blue")


def context_of(flow: diffeo.Flow, columns: dict[str, Any]) -> Tensor:
    """Attributes as the flow takes them, `(n, columns)`: ones for the values of categories."""
    parts = []
    for variable in flow.context.variables:
        values = np.asarray(columns[variable.name])
        wanted = variable.values if isinstance(variable, Category) else None
        parts += [values.astype(float)] if wanted is None else [values == one for one in wanted]
    return torch.from_numpy(np.stack(parts, axis=1).astype(np.float32))


def places(images: Tensor) -> Tensor:
    """The centre (x, y) of what is colourful, from 0 to 1, of images: `(n, 2)`."""
    colourful = images.float().amax(1) - images.float().amin(1)
    colourful = (colourful - 40).clamp(0, 60)  # the background is a tinted grey
    axis = (torch.arange(SIZE) + 0.5) / SIZE
    mass = colourful.sum((1, 2)).clamp(min=1e-9)
    return torch.stack([colourful.sum(1) @ axis, colourful.sum(2) @ axis], 1) / mass[:, None]


def colours(images: Tensor) -> np.ndarray:
    """Which of red, green and blue is the strongest where an image is most colourful, `(n,)`."""
    x = images.float()
    colourful = (x.amax(1) - x.amin(1)).flatten(1)
    most = colourful >= colourful.quantile(0.95, dim=1, keepdim=True)
    strengths = (x.flatten(2) * most[:, None]).sum(2)
    return np.array(COLOURS)[strengths.argmax(1)]


def dark(images: Tensor) -> Tensor:
    """Whether the corners of an image are dark, `(n,)`."""
    corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].float()
    return corners.mean((1, 2)) < 128


@dataclass(frozen=True)
class Answer:
    """Images before and after each edit, and how well the edits did what was asked.

    Args:
        images: by the name of the edit, `(n, 3, 24, 24)`.
        exact: the share of images that come back bit for bit under their own context.
        moved: the correlation of the measured change of x with the one asked for.
        place_error: the mean distance of the measured x from the one asked for, in pixels.
        ruler_error: the same of drawn images, which is the error of the measurement.
        other_y: the mean change of y, in pixels, where x was edited.
        recoloured, darkened: the share of images that show what was asked.
        same_colour: the share whose colour stays where they were moved.
    """

    images: dict[str, Tensor]
    exact: float
    moved: float
    place_error: float
    ruler_error: float
    other_y: float
    recoloured: float
    darkened: float
    same_colour: float

    def checks(self) -> dict[str, bool]:
        """What has to hold."""
        return {
            "images come back bit for bit under their own context": self.exact == 1,
            "x moves as asked: correlation above 0.95": self.moved > 0.95,
            "x is off by less than a pixel": self.place_error < 1,
            "y stays, to half a pixel": self.other_y < 0.5,
            "95 % have the colour that was asked for": self.recoloured >= 0.95,
            "95 % have the background that was asked for": self.darkened >= 0.95,
            "95 % keep their colour when moved": self.same_colour >= 0.95,
        }


def solve(rows: int, seed: int = SEED, change: bool = True) -> Answer:
    """Edit as many drawn images; with `change=False` to the attributes that they have."""
    flow = diffeo.load("shapes")
    pixels, known = draw_shapes(rows, SIZE, seed)
    images, context = torch.from_numpy(pixels), context_of(flow, known)
    index, turn = np.array([COLOURS.index(c) for c in known["colour"]]), np.arange(rows)
    asked: dict[str, dict[str, Any]] = {
        "x": {"x": np.array(PLACES)[turn % 2]},
        "colour": {"colour": np.array(COLOURS)[(index + 1) % 3]},
        "dark": {"dark": ~known["dark"]},
    }
    found = {"drawn": images, "same": recondition(flow, images, context, context)}
    for name, attribute in asked.items():
        other = context_of(flow, known | attribute) if change else context
        found[name] = recondition(flow, images, context, other)
    before, after = places(images), places(found["x"])
    wanted = torch.from_numpy(asked["x"]["x"]).float()
    step, asked_step = after[:, 0] - before[:, 0], wanted - torch.from_numpy(known["x"]).float()
    moved = torch.corrcoef(torch.stack((step, asked_step)))[0, 1].nan_to_num()
    same = (found["same"] == images).flatten(1).all(1)
    ruler = (before[:, 0] - torch.from_numpy(known["x"])).abs().mean()
    return Answer(
        found,
        float(same.float().mean()),
        float(moved),
        SIZE * float((after[:, 0] - wanted).abs().mean()),
        SIZE * float(ruler),
        SIZE * float((after[:, 1] - before[:, 1]).abs().mean()),
        float((colours(found["colour"]) == asked["colour"]["colour"]).mean()),
        float((dark(found["dark"]).numpy() == asked["dark"]["dark"]).mean()),
        float((colours(found["x"]) == known["colour"]).mean()),
    )


@house_style()
def draw(answer: Answer, path: Path, columns: int = 10) -> None:
    """Some images, and each edit of them."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    names = {"drawn": "drawn", "x": "moved", "colour": "recoloured", "dark": "background"}
    for axes, (key, name) in zip(figure.subplots(4, 1), names.items(), strict=True):
        row = answer.images[key][:columns].permute(2, 0, 3, 1).reshape(SIZE, columns * SIZE, 3)
        axes.imshow(row.numpy(), interpolation="nearest", aspect="equal")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Edit, measure, and say what came out; 1 if a check fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=300, help="images to edit")
    parser.add_argument("--seed", type=int, default=SEED, help="of the drawn images")
    parser.add_argument("--out", type=Path, help="draw some edits into this image")
    options = parser.parse_args(arguments)
    answer = solve(options.rows, options.seed)
    print(f"come back bit for bit        {answer.exact:.3f}")
    print(f"x, asked and measured change {answer.moved:.3f} correlation")
    print(f"x, measured less asked       {answer.place_error:.2f} pixels", end=", ")
    print(f"of drawn images {answer.ruler_error:.2f}")
    print(f"y, where x was edited        {answer.other_y:.2f} pixels")
    print(f"colour as asked              {answer.recoloured:.3f}")
    print(f"background as asked          {answer.darkened:.3f}")
    print(f"colour stays where moved     {answer.same_colour:.3f}")
    checks = answer.checks()
    for name, holds in checks.items():
        print(f"{'holds' if holds else 'FAILS'}: {name}")
    if options.out:
        draw(answer, options.out)
    return int(not all(checks.values()))


if __name__ == "__main__":
    raise SystemExit(main())

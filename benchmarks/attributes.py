"""Whether samples have the attributes that they were asked for, as a classifier sees it.

A run of `shapes` that is conditional on attributes draws one sample under the context of each of
some test images. The convolutional network of `python -m benchmarks editing` reads the attributes
of these samples, and those of the test images themselves, which says how far it is to be trusted:

- of classes and truth values: the share that is read as asked;
- of numbers: the correlation of what is read with what was asked. The rotation of circles cannot be
  seen and is left out.

    python -m benchmarks attributes RUN [--images 2000] [--seconds 120]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.editing import CLASSES, GROUPS, NUMBERS, Reading, trained
from diffeo.data import Images
from diffeo.run import Run

TEMPERATURES = (1.0, 0.7)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, read, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks attributes", description=__doc__.splitlines()[0]
    )
    parser.add_argument("run")
    parser.add_argument("--images", type=int, default=2_000, help="contexts of test images")
    parser.add_argument("--seconds", type=float, default=120.0, help="to train the classifier for")
    options = parser.parse_args(arguments)
    run = Run(options.run)
    images = run.data()
    assert isinstance(images, Images)
    reader = trained(images, options.seconds)
    rows = torch.arange(min(options.images, len(images.test)))
    x, context = images.test.take(rows)
    assert context is not None
    assert images.test.attributes is not None
    asked = reader.truth(images.test.attributes[rows])
    found = {"test images": x}
    for temperature in TEMPERATURES:
        drawn = run.sample(len(rows), context=context, temperature=temperature, seed=0)
        found[f"samples, temperature {temperature:g}"] = drawn
    table = Table("attribute", "figure", *found, title=f"read as asked, {len(rows):,} images")
    columns = [agreement(reader.read(part), asked) for part in found.values()]
    for group, *values in zip(GROUPS, *columns, strict=True):
        figure = "correlation" if group in NUMBERS else "share"
        table.add_row(group, figure, *(f"{value:.3f}" for value in values))
    Console().print(table)


def agreement(read: Reading, asked: Reading) -> list[float]:
    """Of each group, the share that is read as asked, or a correlation."""
    visible = asked["shape"] != CLASSES["shape"].index("circle")
    values = []
    for group in GROUPS:
        one, other = read[group], asked[group]
        if group == "rotation":
            one, other = one[visible], other[visible]
        values.append(correlation(one, other) if group in NUMBERS else share(one, other))
    return values


def share(one: Tensor, other: Tensor) -> float:
    """How many are equal."""
    return float((one == other).float().mean())


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's."""
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])

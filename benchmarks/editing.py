"""Whether an edit changes what it should and nothing else, as a classifier sees it.

A run of `shapes`, whose images have known attributes, is edited at strength 1 along each of
them, on test images that lack it: those of another class, those that are not filled or not dark,
those in the lower half of a number. A convolutional network, trained here on the same training
images, reads all attributes of an image before and after.

- *changes*: the class or truth value is read as the wanted one; a number is read at least half of
  the step higher (the step of strength 1 is two standard deviations of the number).
- each other attribute *stays*: the same class or truth value is read as before; a number has moved
  by less than half of its step. The rotation of circles, and of what becomes one, cannot be seen
  and is left out.

    python -m benchmarks editing RUN [--kinds mean,partial] [--images 500] [--seconds 120]

A conditional run is edited by its condition too. --write NAME writes benchmarks/results/NAME.csv.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from diffeo import latent
from diffeo.data import Images
from diffeo.run import Run

CLASSES = {"shape": ("circle", "square", "triangle"), "colour": ("blue", "green", "red")}
TRUTHS, NUMBERS = ("filled", "dark"), ("stroke", "size", "x", "y", "rotation")
GROUPS = (*CLASSES, *TRUTHS, *NUMBERS)
RESULTS = Path(__file__).parent / "results"
BATCH = 128

Reading = dict[str, Tensor]  # of each group: a class, a truth value, or a number in half steps


class Reader(nn.Module):
    """Reads the attributes of images."""

    def __init__(self, images: Images) -> None:
        super().__init__()
        self.names = images.attribute_names
        assert images.train.attributes is not None
        numbers = images.train.attributes[:, self.columns(*NUMBERS)]
        self.mean, self.std = numbers.mean(0), numbers.std(0)
        side = images.shape[1] // 4
        layers: list[nn.Module] = []
        for before, after, stride in ((3, 32, 1), (32, 64, 2), (64, 64, 1), (64, 96, 2)):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False)]
            layers += [nn.BatchNorm2d(after), nn.ReLU()]
        outputs = sum(map(len, CLASSES.values())) + len(TRUTHS) + len(NUMBERS)
        head = [nn.Flatten(), nn.Linear(96 * side**2, 128), nn.ReLU(), nn.Linear(128, outputs)]
        self.layers = nn.Sequential(*layers, *head)

    def columns(self, *names: str) -> list[int]:
        """Where attributes are."""
        return [self.names.index(name) for name in names]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Scores of each choice of classes, of the truth values, and standardized numbers."""
        x = (x.float() / 255 - 0.5).contiguous(memory_format=torch.channels_last)
        sizes = [*map(len, CLASSES.values()), len(TRUTHS), len(NUMBERS)]
        return list(self.layers(x).split(sizes, dim=1))

    def loss(self, x: Tensor, attributes: Tensor) -> Tensor:
        """Cross-entropies, and squared errors of numbers."""
        *classes, truths, numbers = self(x)
        total = F.binary_cross_entropy_with_logits(truths, attributes[:, self.columns(*TRUTHS)])
        for (choice, values), scores in zip(CLASSES.items(), classes, strict=True):
            columns = self.columns(*(f"{choice}={value}" for value in values))
            total = total + F.cross_entropy(scores, attributes[:, columns].argmax(1))
        wanted = (attributes[:, self.columns(*NUMBERS)] - self.mean) / self.std
        seen = torch.ones_like(wanted)
        seen[:, NUMBERS.index("rotation")] = 1 - attributes[:, self.names.index("shape=circle")]
        return total + (seen * (numbers - wanted).square()).mean()

    @torch.no_grad()
    def read(self, x: Tensor) -> Reading:
        """The attributes of images."""
        parts = [torch.cat(part) for part in zip(*map(self, x.split(500)), strict=True)]
        *classes, truths, numbers = parts
        reading = {name: scores.argmax(1) for name, scores in zip(CLASSES, classes, strict=True)}
        reading |= {name: truths[:, i] > 0 for i, name in enumerate(TRUTHS)}
        return reading | {name: numbers[:, i] for i, name in enumerate(NUMBERS)}

    def truth(self, attributes: Tensor) -> Reading:
        """The same of what is known."""
        known = {
            choice: attributes[:, self.columns(*(f"{choice}={v}" for v in values))].argmax(1)
            for choice, values in CLASSES.items()
        }
        known |= {name: attributes[:, self.names.index(name)] > 0.5 for name in TRUTHS}
        numbers = (attributes[:, self.columns(*NUMBERS)] - self.mean) / self.std
        return known | {name: numbers[:, i] for i, name in enumerate(NUMBERS)}


def same(group: str, one: Tensor, other: Tensor) -> Tensor:
    """Whether two readings agree: half a step of a number is one standard deviation."""
    return (one - other).abs() < 1 if group in NUMBERS else one == other


def trained(images: Images, seconds: float) -> Reader:
    """A reader that has learned from the training images for so long."""
    torch.manual_seed(0)
    reader = Reader(images).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(reader.parameters(), fused=True)
    photos = images.train
    assert photos.attributes is not None
    start, done = time.perf_counter(), 0.0
    while done < 1:
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - done) + 1e-6
        rows = torch.randint(len(photos), (BATCH,))
        loss = reader.loss(photos.batch(rows), photos.attributes[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done = (time.perf_counter() - start) / seconds
    return reader.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    """Edit, read, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks editing", description=__doc__.splitlines()[0]
    )
    parser.add_argument("run")
    parser.add_argument("--kinds", default="mean", help="of directions: mean,partial,discriminant")
    parser.add_argument("--images", type=int, default=500, help="test images to edit")
    parser.add_argument("--rows", type=int, default=8_000, help="images to find directions from")
    parser.add_argument("--seconds", type=float, default=120.0, help="to train the classifier for")
    parser.add_argument("--write", metavar="NAME", help="of a table in benchmarks/results")
    options = parser.parse_args(arguments)
    run, console = Run(options.run), Console()
    images = run.data()
    assert isinstance(images, Images)
    reader = trained(images, options.seconds)
    test = torch.arange(min(options.images, len(images.test)))
    x, context = images.test.take(test)
    assert images.test.attributes is not None
    attributes = images.test.attributes[test]
    before, truth = reader.read(x), reader.truth(attributes)
    visible = truth["shape"] != CLASSES["shape"].index("circle")
    table = Table("", "of", *GROUPS, title=f"how often the reader is right, {len(x)} test images")
    right = {g: same(g, before[g], truth[g]) for g in GROUPS}
    right["rotation"] = right["rotation"][visible]
    table.add_row("", "", *(f"{100 * right[g].float().mean():.1f}" for g in GROUPS))
    console.print(table)
    found: list[list[object]] = []
    kinds = [kind for kind in options.kinds.split(",") if kind]
    for kind in (["condition"] if context is not None else []) + kinds:
        edit = editor(run, images, kind, options.rows)
        table = Table(
            "attribute", "of", "changes", *GROUPS, title=f"kind {kind}: changes, stays, %"
        )
        for name in images.attribute_names:
            group, _, value = name.partition("=")
            if group in NUMBERS:
                lacks = truth[group] < 0
            else:
                lacks = attributes[:, images.attribute_names.index(name)] < 0.5
            if group == "rotation":
                lacks &= visible
            after = reader.read(edit(x[lacks], None if context is None else context[lacks], name))
            old = {g: before[g][lacks] for g in GROUPS}
            if group in NUMBERS:
                changes = after[group] - old[group] >= 1
            elif group in CLASSES:
                changes = after[group] == CLASSES[group].index(value)
            else:
                changes = after[group]
            stays = {g: same(g, after[g], old[g]) for g in GROUPS if g != group}
            if name == "shape=circle":
                del stays["rotation"]
            elif group != "rotation":
                stays["rotation"] = stays["rotation"][visible[lacks]]
            shares = [100 * changes.float().mean().item()]
            shares += [
                100 * stays[g].float().mean().item() if g in stays else float("nan") for g in GROUPS
            ]
            cells = ["" if share != share else f"{share:.1f}" for share in shares]
            table.add_row(name, str(int(lacks.sum())), *cells)
            found.append([kind, name, int(lacks.sum()), *cells])
        console.print(table)
    if options.write:
        with (RESULTS / f"{options.write}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["kind", "attribute", "images", "changes", *GROUPS])
            writer.writerows(found)


def editor(run: Run, images: Images, kind: str, most: int):
    """`(images, context, attribute) -> images`, at strength 1."""
    flow, names = run.flow, images.attribute_names
    if kind == "condition":
        assert images.train.context is not None
        conditions = latent.Conditions.of(flow.context, images.train.context)

        def recondition(x: Tensor, context: Tensor, name: str) -> Tensor:
            return latent.recondition(flow, x, context, conditions.moved(context, {name: 1.0}))

        return recondition
    rows = torch.arange(min(most, len(images.train))).split(flow.chunk)
    assert images.train.attributes is not None

    def events():
        for part in track(rows, "encoding"):
            x, context = images.train.take(part)
            yield x, images.train.attributes[part], context

    directions = latent.find_directions(flow, events(), names, kind)

    def edit(x: Tensor, context: Tensor | None, name: str) -> Tensor:
        return latent.edit(flow, x, directions, {name: 1.0}, context)

    return edit

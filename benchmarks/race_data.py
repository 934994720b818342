"""The data sets of the race: rows or images to learn from, to validate with, and to score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from benchmarks.mixed import parts
from benchmarks.mixed_tables import MixedTable, mixed
from benchmarks.real import FILES, numeric, split
from diffeo.data import DataOptions, ImageOptions, load_images, load_table

MIXED = ("wage", "nyc-weather", "restaurant_inspections")
IMAGES = {"MNIST": "mnist", "CIFAR-10 (JPEG)": "cifar10-jpeg"}
# The seconds that a learner has.
BUDGETS = {"moons": 30.0, "power-plant": 45.0, "protein": 45.0}
BUDGETS |= dict.fromkeys(MIXED, 45.0) | dict.fromkeys(IMAGES, 200.0)
MOST_VAL, MOST_TEST, IMAGES_VAL, IMAGES_TEST = 5_000, 10_000, 128, 1_000
Kind = Literal["moons", "numbers", "mixed", "images"]


@dataclass(frozen=True)
class Race:
    """What all contestants learn and are scored on.

    Args:
        name: of the data set.
        train, val, test: standardized rows (numpy), frames, or images (torch).
        table: of a mixed one, what its columns are.
        splits: of images, all that `diffeo train` takes.
    """

    name: str
    train: Any
    val: Any
    test: Any
    table: MixedTable | None = None
    splits: Any = None


def kind_of(name: str) -> Kind:
    """What there is to learn."""
    if name == "moons":
        return name
    return "images" if name in IMAGES else "mixed" if name in MIXED else "numbers"


def file_of(name: str, folder: Path) -> Path | None:
    """Where the data are; None of those that are drawn."""
    if name == "moons":
        return None
    return folder / IMAGES.get(name, FILES.get(name, f"tables/{name}.csv"))


def unit_of(name: str) -> str:
    """That of the quality."""
    return "bits/dim" if name in IMAGES else "nats"


def load(name: str, folder: Path) -> Race:
    """A data set.

    Raises:
        ValueError: if its files are missing.
    """
    kind = kind_of(name)
    if kind == "images":
        images = load_images(ImageOptions(str(file_of(name, folder))))
        held = images.val.all(IMAGES_VAL), images.test.all(IMAGES_TEST)
        return Race(name, images.train.all(), *held, splits=images)
    if kind == "mixed":
        table = mixed(name, folder)
        train, test = parts(table, table.jittered, 0)
        rest, val = held_out(train)
        return Race(name, rest, val, test, table=table)
    if kind == "moons":
        moons = load_table(DataOptions("moons"))
        rows = [part.x.double().numpy() for part in (moons.train, moons.val, moons.test)]
        rows[1:] = rows[1][:MOST_VAL], rows[2][:MOST_TEST]
    else:
        jittered = numeric(name, folder).jittered
        places, last = split(len(jittered), 0)
        rows = [*held_out(jittered[places]), jittered[last]]
    mean, scale = rows[0].mean(0), rows[0].std(0)
    return Race(name, *((part - mean) / scale for part in rows))


def held_out(rows: Any) -> tuple[Any, Any]:
    """Nine tenths to learn from, and a tenth to validate with."""
    order, count = np.random.default_rng(1).permutation(len(rows)), len(rows) // 10
    if isinstance(rows, pd.DataFrame):
        return rows.iloc[order[count:]], rows.iloc[order[:count]]
    return rows[order[count:]], rows[order[:count]]


def joined(race: Race) -> Any:
    """All rows but those of the test, for learners that choose what to leave out by themselves."""
    if isinstance(race.train, pd.DataFrame):
        return pd.concat((race.train, race.val), ignore_index=True)
    return np.concatenate((race.train, race.val))


def tensors(race: Race) -> list[torch.Tensor]:
    """Rows to learn from, to validate with and to score, float32."""
    return [torch.as_tensor(x, dtype=torch.float32) for x in (race.train, race.val, race.test)]

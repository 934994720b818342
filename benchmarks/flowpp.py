"""Flow++: mixture couplings against affine ones, and what attention and learned noise add.

All sides are a `FlowPlusPlus` and train for the same time of one core: batches of 32, Adam with a
warm-up and a cosine, clipped gradients, averaged weights (`benchmarks.timed`). Scores are those of
all test images by one noisy copy of each, an upper bound of the bits/dim of the images themselves;
`gain_of_8` is by how much the bound of 8 copies is lower, of the first 1,000 images.

    python -m benchmarks flowpp --data FOLDER [FOLDER ...] [--seconds 840] [--sides SIDE ...]
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffeo
from benchmarks.timed import Setting, TorchLearner, fit
from diffeo.bijections import Affine, MixtureAffine, VariationalDequantize
from diffeo.data import ImageOptions, load_images
from diffeo.utils.machine import keep_freed_memory

FIRST, HELD_OUT, BATCH, COPIES, SOME = 512, 256, 32, 8, 1_000
MIXTURE: dict[str, Any] = {"univariate": MixtureAffine(8)}
SIDES: dict[str, dict[str, Any]] = {
    "affine": {"univariate": Affine(2.0)},
    "affine, twice as many": {"univariate": Affine(2.0), "couplings": (8, 4, 6)},
    "mixture of 8": MIXTURE,
    "mixture of 4": {"univariate": MixtureAffine(4)},
    "mixture of 8, attention": MIXTURE | {"heads": 4},
    "mixture of 8, learned noise": MIXTURE | {"dequantizer": VariationalDequantize()},
}
HEADER = ("data", "side", "lr", "weights", "seconds", "steps", "test_bpd", "stderr", "gain_of_8")


class ImageLearner(TorchLearner):
    """A flow of images, by its bits/dim."""

    def __init__(self, flow: diffeo.Flow, train: Tensor, val: Tensor) -> None:
        flow.initialize(train[:FIRST])
        super().__init__(flow.train(), lambda flow, x: -flow.bits_per_dim(x), train, val)

    @torch.no_grad()
    def bits(self, x: Tensor, copies: int = 1) -> Tensor:
        """Bits/dim of each image by the result, of so many noisy copies of it."""
        flow, parts = self.best.eval(), []
        for part in x.split(250):
            scores = torch.stack([flow.log_prob(part) for _ in range(copies)])
            parts.append(math.log(copies) - scores.logsumexp(0))
        return torch.cat(parts).double() / flow.nats_per_bpd


def trained(train: Tensor, side: str, lr: float, seconds: float) -> tuple[ImageLearner, int]:
    """A side after so many seconds of the processor, and the steps that it took."""
    torch.manual_seed(0)
    flow = diffeo.FlowPlusPlus(tuple(train.shape[1:]), **SIDES[side])
    learner = ImageLearner(flow, train[:-HELD_OUT], train[-HELD_OUT:])
    setting = Setting(0, (), lr, BATCH, {})
    return learner, fit(learner, len(train) - HELD_OUT, setting, seconds)[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and score each side, and print and write what they reach."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks flowpp", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", nargs="+", required=True, help="folders of parquet files")
    parser.add_argument("--seconds", type=float, default=840.0)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--out", type=Path, help="a CSV file, to which rows are added")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    for source in options.data:
        images = load_images(ImageOptions(source))
        train, test = images.train.all(), images.test.all()
        for side in options.sides:
            learner, steps = trained(train, side, options.lr, options.seconds)
            bits = learner.bits(test)
            weights = sum(p.numel() for p in learner.flow.parameters())
            row = [Path(source).name, side, options.lr, weights, options.seconds, steps]
            row += [float(bits.mean()), float(bits.std() / math.sqrt(len(bits)))]
            row += [float((bits[:SOME] - learner.bits(test[:SOME], COPIES)).mean())]
            print(*row, flush=True)
            if options.out:
                new = not options.out.exists()
                with options.out.open("a", newline="", encoding="utf-8") as file:
                    csv.writer(file, lineterminator="\n").writerows([HEADER, row][not new :])

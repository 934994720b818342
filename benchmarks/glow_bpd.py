"""Glow against the Glow of normflows: the same data, width, depth, optimizer, and time.

Both learn CIFAR-10 (JPEG), images of 3 x 32 x 32: 3 levels of 8 steps, coupling networks of width
128, affine, LU-parametrized 1x1 convolutions, float32, Adam at 1e-3 after 100 steps of warm-up,
batches of 32 in the same order. They take turns of 20 seconds in one process until each has had
its time (of steps alone), so that a busy machine slows both. Then each is scored on all test
images, one noisy copy of each, in eval mode; bits/dim are per 8-bit channel of a pixel. JPEG
smooths images: these figures compare with each other, and not with those of CIFAR-10.

    pip install -e ".[bench]"
    python -m benchmarks glow-bpd --data CIFAR [--seconds 420] [--threads 2]
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Generator, Tensor, nn

import diffeo
from benchmarks import peers
from diffeo.data import ImageOptions, ImageSplit, load_images

LEVELS, STEPS, WIDTH, BATCH, LR, WARMUP = 3, 8, 128, 32, 1e-3, 100
TURN, FIRST = 20.0, 512  # seconds; images that initialise from data
RESULTS = Path(__file__).parent / "results" / "glow-cifar10-jpeg.csv"
Loss = Callable[[Tensor], Tensor]  # images -> bits/dim of each


def ours(shape: tuple[int, int, int], first: Tensor) -> tuple[nn.Module, Loss]:
    """The Glow of diffeo, initialised."""
    flow = diffeo.Glow(shape, LEVELS, STEPS, WIDTH)
    flow.initialize(first)
    return flow.train(), flow.bits_per_dim


def theirs(
    shape: tuple[int, int, int], first: Tensor, levels: int = LEVELS
) -> tuple[nn.Module, Loss]:
    """The Glow of normflows, as its own example builds it, initialised."""
    model = peers.normflows_model(shape, levels, STEPS, WIDTH)
    log_prob, dims = peers.pixel_log_prob(model), math.prod(shape)

    def bits_per_dim(x: Tensor) -> Tensor:
        return -log_prob(x) / (dims * math.log(2))

    with torch.no_grad():
        bits_per_dim(first)
    return model, bits_per_dim


class Trainee:
    """A model on its way, and how long it has been."""

    def __init__(self, name: str, model: nn.Module, loss: Loss, images: ImageSplit) -> None:
        self.name, self.model, self.loss, self.images = name, model, loss, images
        self.optimizer = torch.optim.Adam(model.parameters(), LR)
        self.warmup = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / WARMUP)
        )
        self.order = Generator().manual_seed(0)
        self.steps, self.seconds = 0, 0.0

    def learn(self, seconds: float) -> None:
        """Train for so long."""
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            rows = torch.randint(len(self.images), (BATCH,), generator=self.order)
            loss = self.loss(self.images.batch(rows)).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.warmup.step()
            self.steps += 1
        self.seconds += time.perf_counter() - start

    def score(self, test: ImageSplit) -> tuple[float, float]:
        """Mean bits/dim of the test images and its standard error."""
        self.model.eval()
        batches = (test.batch(rows) for rows in torch.arange(len(test)).split(250))
        with torch.no_grad():
            bits = torch.cat([self.loss(x) for x in batches]).double()
        return float(bits.mean()), float(bits.std() / math.sqrt(len(bits)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both in turns, and print and write what they reach."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks glow-bpd", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", required=True, help="folder of CIFAR-10's parquet files")
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    images = load_images(ImageOptions(options.data))
    first = images.train.all(FIRST)
    trainees = []
    for name, make in (("diffeo", ours), (f"normflows {version('normflows')}", theirs)):
        torch.manual_seed(0)
        trainees.append(Trainee(name, *make(images.shape, first), images.train))
    while trainees[-1].seconds < options.seconds:
        for trainee in trainees:
            trainee.learn(min(TURN, options.seconds - trainee.seconds))
    table = Table("model", "weights", "steps", "images/s", "test bits/dim", "± s.e.")
    rows = []
    for trainee in trainees:
        mean, error = trainee.score(images.test)
        weights = sum(p.numel() for p in trainee.model.parameters())
        rate = trainee.steps * BATCH / trainee.seconds
        rows.append([trainee.name, weights, trainee.steps, round(rate, 1), mean, error])
        table.add_row(
            trainee.name,
            f"{weights:,}",
            f"{trainee.steps:,}",
            f"{rate:.0f}",
            f"{mean:.4f}",
            f"{error:.4f}",
        )
    Console().print(table)
    if options.seconds >= 420:
        with RESULTS.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["model", "weights", "steps", "images_per_s", "test_bpd", "stderr"])
            writer.writerows(rows)

"""Flow++: mixture couplings against affine ones, and what attention and learned noise add.

All sides are a `FlowPlusPlus` and train for the same time of one core: batches of 64, Adam with a
warm-up and a cosine, clipped gradients, averaged weights (`benchmarks.timed`). Each has the settings
that were best for it in trainings of a third of the time, by images held out from training (see
docs/results.md). Scores are those of all test images, one noisy copy of each, an upper bound of the
bits/dim of the images themselves; of 8 copies the bound is lower.

    python -m benchmarks flowpp --data FOLDER [FOLDER ...] [--seconds 840] [--sides mixture affine]
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffeo
from benchmarks.timed import Setting, TorchLearner, fit
from diffeo.bijections import Affine, MixtureAffine
from diffeo.data import ImageOptions, load_images
from diffeo.networks import GatedResNet

RESULTS = Path(__file__).parent / "results" / "flowpp.csv"
FIRST, HELD_OUT, BATCH = 512, 256, 64
HEADER = ("data", "side", "weights", "seconds", "steps", "test_bpd", "stderr", "bpd_of_8")


class ImageLearner(TorchLearner):
    """A flow of images, by its bits/dim."""

    def __init__(self, flow: diffeo.Flow, train: Tensor, val: Tensor) -> None:
        flow.initialize(train[:FIRST])
        super().__init__(flow.train(), lambda flow, x: -flow.bits_per_dim(x), train, val)

    @torch.no_grad()
    def bits(self, x: Tensor, samples: int = 1) -> Tensor:
        """Bits/dim of each image by the result, of so many noisy copies."""
        flow, parts = self.best.eval(), []
        for part in x.split(250):
            copies = torch.stack([flow.log_prob(part) for _ in range(samples)])
            parts.append(math.log(samples) - copies.logsumexp(0))
        return torch.cat(parts).double() / flow.nats_per_bpd


def make(shape: tuple[int, int, int], blocks: int, width: int, options: dict[str, Any]):
    """The flow of a side."""
    options = dict(options)
    net = partial(GatedResNet, blocks=blocks, heads=options.pop("heads", 0))
    return diffeo.FlowPlusPlus(shape, hidden_channels=width, network=net, **options)

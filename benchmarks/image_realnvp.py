"""ImageRealNVP against its bare coupling networks: what the flow around them costs.

The bare networks are a plain re-statement in PyTorch of the network of each coupling, of the same
widths and on inputs of the same size, each run once on random numbers: no flow, no log-determinant,
no bijection between them. A training step is forward, backward and Adam on a batch of 16; of the
bare networks the loss is the sum of the outputs' squares. The bare networks run in PyTorch's
default layout and in channels-last, and ratios are to the faster of the two; in the last rows, of
the two checkerboards, to the compact one.

All cases of a table take turns in one process (A B C, A B C, ...), so that a busy machine slows
all of them: the medians and the ratio of each turn mean something there, single times do not. The
peak memory is the growth of the largest resident set (VmHWM of /proc/self/status) over three steps
of a fresh process, with gradients and the optimizer's state in it.

    python benchmarks/image_realnvp.py [--repeats 15] [--threads 2]
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import diffeo

BATCH, SHAPE, SCALES, CHANNELS, BLOCKS = 16, (3, 32, 32), 2, 64, 8
RESULTS = Path(__file__).parent / "results" / "image_realnvp.csv"
# (inputs, outputs, hidden channels, height and width, how many) of the couplings' networks.
NETWORKS = {
    "compact": [(6, 12, 64, 16, 3), (6, 12, 128, 16, 3), (12, 24, 128, 8, 4)],
    "masked": [(4, 6, 64, 32, 3), (6, 12, 128, 16, 3), (7, 12, 128, 16, 4)],
}

# Case, step or sample, seconds, ratio and its quartiles.
Row = tuple[str, str, float, float, float, float]


class Plain(nn.Module):
    """The network of section 4.1 of Dinh et al. 2017, as one would write it down."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.entry = nn.Sequential(*active(2 * inputs), conv(2 * inputs, width, 3))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *active(width), conv(width, width, 3), *active(width), conv(width, width, 3)
            )
            for _ in range(BLOCKS)
        )
        self.skips = nn.ModuleList(conv(width, width, 1) for _ in range(BLOCKS + 1))
        self.exit = nn.Sequential(*active(width), nn.Conv2d(width, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The output `(batch, outputs, H, W)` for x `(batch, inputs, H, W)`."""
        h = self.entry(torch.cat((x, -x), dim=1))
        total = self.skips[0](h)
        for block, skip in zip(self.blocks, self.skips[1:], strict=True):
            h = h + block(h)
            total = total + skip(h)
        return self.exit(total)


def active(channels: int) -> tuple[nn.Module, nn.Module]:
    """Batch normalization and ReLU."""
    return nn.BatchNorm2d(channels, eps=1e-4, affine=False), nn.ReLU()


def conv(inputs: int, outputs: int, size: int) -> nn.Module:
    """A weight-normalised convolution that keeps height and width."""
    return weight_norm(nn.Conv2d(inputs, outputs, size, padding=size // 2))


class Case:
    """Something to time: a flow, or bare networks.

    Args:
        kind: "flow", or "bare".
        checkerboard: "compact" or "masked".
        variant: of a flow "float32" or "bfloat16", the precision of its networks; of bare networks
            "default" or "channels-last", their layout.
    """

    def __init__(self, kind: str, checkerboard: str, variant: str) -> None:
        torch.manual_seed(0)
        self.name = f"{kind}, {checkerboard}, {variant}"
        self.inputs: list[Tensor] = []
        self.model: nn.Module
        if kind == "flow":
            self.model = diffeo.ImageRealNVP(
                SHAPE, SCALES, CHANNELS, BLOCKS, checkerboard=checkerboard
            )
            self.pixels = torch.randint(0, 256, (BATCH, *SHAPE), dtype=torch.uint8)
            for part in self.model.modules():
                if variant == "bfloat16" and isinstance(part, diffeo.bijections.Coupling):
                    part.precision = torch.bfloat16
            self._loss, self._sample = self._nll, lambda: self.model.sample(BATCH)
        else:
            layout = torch.channels_last if variant == "channels-last" else torch.contiguous_format
            self.model = nn.ModuleList()
            for inputs, outputs, width, size, count in NETWORKS[checkerboard]:
                for _ in range(count):
                    self.model.append(Plain(inputs, outputs, width))
                    x = torch.randn(BATCH, inputs, size, size)
                    self.inputs.append(x.to(memory_format=layout))
            self.model.to(memory_format=layout)
            self._loss, self._sample = self._squares, self._squares
        self.adam = torch.optim.Adam(self.model.parameters(), fused=True)

    def _nll(self) -> Tensor:
        return -self.model.log_prob(self.pixels).mean()

    def _squares(self) -> Tensor:
        outputs = [net(x) for net, x in zip(self.model, self.inputs, strict=True)]
        return torch.stack([y.square().sum() for y in outputs]).sum()

    def step(self) -> None:
        """One training step."""
        self.model.train()
        self.adam.zero_grad()
        self._loss().backward()
        self.adam.step()

    @torch.no_grad()
    def sample(self) -> None:
        """Sixteen samples; of bare networks what they compute for it."""
        self.model.eval()
        self._sample()


def take_turns(calls: list[Callable[[], None]], repeats: int) -> list[list[float]]:
    """Seconds of each call in each round; a first round does not count."""
    seconds: list[list[float]] = [[] for _ in calls]
    for i in range(repeats + 1):
        for call, row in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            if i:
                row.append(time.perf_counter() - start)
    return seconds


def growth(case: str, threads: int) -> float:
    """Peak memory growth in MB of a case, measured by this file in a fresh process."""
    command = [sys.executable, __file__, "--memory-of", case, "--threads", str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_growth(case: Case) -> float:
    """The growth of the largest resident set over three steps, in MB."""
    before = largest_resident_set()
    for _ in range(3):
        case.step()
    return largest_resident_set() - before


def largest_resident_set() -> float:
    """Of this process so far, in MB; `ru_maxrss` would start at the parent's."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def compare(cases: list[Case], what: str, repeats: int, references: int) -> list[Row]:
    """Seconds of each case, and its ratio to the faster of the first so many, round by round."""
    seconds = take_turns([getattr(case, what) for case in cases], repeats)
    reference = min(seconds[:references], key=median)
    rows = []
    for case, times in zip(cases, seconds, strict=True):
        ratios = [ours / theirs for ours, theirs in zip(times, reference, strict=True)]
        low, _, high = quantiles(ratios, n=4)
        rows.append((case.name, what, median(times), median(ratios), low, high))
    return rows


def main() -> None:
    """Print a table of times, ratios and memory, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-of", help="Only print the memory of this case.")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(measure_growth(Case(*arguments.memory_of.split(", "))))
        return
    rows: list[tuple[Row, float | None]] = []
    for checkerboard in NETWORKS:
        cases = [
            Case("bare", checkerboard, "default"),
            Case("bare", checkerboard, "channels-last"),
            Case("flow", checkerboard, "float32"),
            Case("flow", checkerboard, "bfloat16"),
        ]
        for row in compare(cases, "step", arguments.repeats, 2):
            rows.append((row, growth(row[0], arguments.threads)))
        rows += [(row, None) for row in compare(cases, "sample", arguments.repeats, 2)]
    cases = [Case("flow", checkerboard, "float32") for checkerboard in NETWORKS]
    rows += [(row, None) for row in compare(cases, "step", arguments.repeats, 1)]
    table = Table("case", "what", "seconds", "ratio", "quartiles", "growth, MB")
    for (name, what, seconds, ratio, low, high), memory in rows:
        spread, grown = f"{low:.3f}-{high:.3f}", "" if memory is None else f"{memory:.0f}"
        table.add_row(name, what, f"{seconds:.3f}", f"{ratio:.3f}", spread, grown)
    Console(width=100).print(table)
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "what", "seconds", "ratio", "low", "high", "growth_mb"])
        writer.writerows((*row, memory) for row, memory in rows)


if __name__ == "__main__":
    main()

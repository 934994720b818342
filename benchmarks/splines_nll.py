"""Our autoregressive flows against zuko's NSF and MAF on tables, for the same seconds of training.

All see the same rows, spread over the cells of their grids as in `python -m benchmarks numeric`,
standardized by the training rows, a tenth to choose by and a fifth to test on. All are trained by
`benchmarks.timed`; of five settings of each flow the one with the best validation stands. Printed
are the mean log-likelihoods of the test rows in nats, standardized, and the difference to ours with
the standard error of paired rows.

    python -m benchmarks splines-nll [--tables power-plant ...] [--seconds 60] [--out FILE.csv]
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import diffeo
from benchmarks.real import DATA, numeric, split
from benchmarks.timed import Setting, TorchLearner, fit, zuko_flow, zuko_log_prob
from diffeo.bijections import Affine, MixtureCDF, RationalQuadraticSpline

TABLES = ("power-plant", "protein")

# The same range of learning rates for all.
OURS = [
    Setting(5, (128, 128), 4e-3, 512, {"univariate": RationalQuadraticSpline(8, 3.0)}),
    Setting(5, (128, 128), 2e-3, 256, {"univariate": RationalQuadraticSpline(8, 3.0)}),
    Setting(1, (128, 128), 1.6e-2, 512, {"univariate": MixtureCDF(8)}),
    Setting(5, (128, 128), 8e-3, 512, {"univariate": Affine(3.0)}),
    Setting(3, (128, 128), 1.6e-2, 256, {"univariate": Affine(3.0)}),
]
ZUKO_NSF = [
    Setting(3, (64, 64), 1e-3, 256, {"bins": 8}),  # its own defaults
    Setting(3, (128, 128), 4e-3, 512, {"bins": 8}),
    Setting(3, (128, 128), 8e-3, 512, {"bins": 8}),
    Setting(3, (128, 128), 1.6e-2, 256, {"bins": 8}),
    Setting(3, (256, 256), 2e-3, 256, {"bins": 16}),
]
ZUKO_MAF = [
    Setting(5, (128, 128), 4e-3, 512, {}),
    Setting(5, (128, 128), 8e-3, 512, {}),
    Setting(5, (128, 128), 1.6e-2, 512, {}),
    Setting(3, (128, 128), 8e-3, 512, {}),
    Setting(3, (128, 128), 1.6e-2, 256, {}),
]


def our_flow(x: Tensor, setting: Setting) -> nn.Module:
    """A masked autoregressive flow of ours, started from the training rows."""
    return diffeo.NSF(x.shape[1], setting.layers, setting.hidden, **setting.options).initialize(x)


def our_log_prob(flow: nn.Module, x: Tensor) -> Tensor:
    """Log-densities of standardized rows."""
    values: Tensor = flow.log_prob(x)
    return values


Make = Callable[[Tensor, Setting], nn.Module]
LogProb = Callable[[nn.Module, Tensor], Tensor]


def zuko(name: str) -> Make:
    """Makes flows of that name of zuko."""
    return lambda x, setting: zuko_flow(name, x.shape[1], setting)


METHODS: dict[str, tuple[Make, LogProb, list[Setting]]] = {
    "diffeo": (our_flow, our_log_prob, OURS),
    "zuko NSF": (zuko("NSF"), zuko_log_prob, ZUKO_NSF),
    "zuko MAF": (zuko("MAF"), zuko_log_prob, ZUKO_MAF),
}


def compare(name: str, seconds: float, folder: Path) -> list[dict[str, object]]:
    """A line for each setting of each method; of each method's best, against ours, printed."""
    x = numeric(name, folder).jittered
    rest, test = split(len(x), 0)
    val, train = np.split(x[rest], [len(x) // 10])
    mean, std = train.mean(0), train.std(0)
    parts = [(part - mean) / std for part in (train, val, x[test])]
    tensors = [torch.tensor(part, dtype=torch.float32) for part in parts[:2]]
    lines: list[dict[str, object]] = []
    chosen: dict[str, np.ndarray] = {}
    for method, (make, log_prob, settings) in METHODS.items():
        highest = -math.inf
        for setting in settings:
            torch.manual_seed(0)
            learner = TorchLearner(make(tensors[0], setting), log_prob, *tensors)
            best, steps = fit(learner, len(train), setting, seconds)
            value = learner.score(parts[2])
            if best > highest:
                highest, chosen[method] = best, value
            line = {"table": name, "method": method, "setting": str(setting)}
            line |= {"val": round(best, 4), "test": round(float(value.mean()), 4), "steps": steps}
            lines.append(line | {"seconds": seconds})
            print(*lines[-1].values(), sep="  ", flush=True)
    for method, value in chosen.items():
        ahead = chosen["diffeo"] - value
        print(
            f"{name}: {method} {value.mean():.4f} nats; diffeo is ahead by {ahead.mean():.4f} "
            f"± {ahead.std() / len(ahead) ** 0.5:.4f}",
            flush=True,
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of results, and write them where asked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks splines-nll", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--tables", nargs="*", default=TABLES)
    parser.add_argument("--folder", type=Path, default=DATA, help="where the CSV files are")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lines = [
        line for name in options.tables for line in compare(name, options.seconds, options.folder)
    ]
    if options.out:
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)

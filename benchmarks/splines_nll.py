"""Our autoregressive flows against zuko's NSF and MAF on tables, for the same seconds of training.

All see the same rows: rounded columns spread over their steps and each row once, as in
`python -m benchmarks densities`, standardized by the training rows, a tenth to choose by and a
fifth to test on. All are trained by the same loop: Adam, a warm-up and a cosine over the seconds,
clipped gradients, averaged weights; those with the best validation stand, and of five settings of
each flow the one with the best validation. Printed are the mean log-likelihoods of the test rows in
nats, standardized, and the difference to ours with the standard error of paired rows.

    python -m benchmarks splines-nll [--tables power-plant ...] [--seconds 60] [--out FILE.csv]
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import diffeo
from benchmarks.densities import UCI, load
from diffeo.bijections import Affine, MixtureCDF, RationalQuadraticSpline

TABLES = ("power-plant", "protein-tertiary-structure")


class Setting(NamedTuple):
    """One way to train one flow."""

    layers: int
    hidden: tuple[int, ...]
    lr: float
    batch: int
    options: dict[str, Any]


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


def zuko_flow(name: str, x: Tensor, setting: Setting) -> nn.Module:
    """The flow of that name of zuko."""
    import zuko

    flow: nn.Module = getattr(zuko.flows, name)(
        x.shape[1], transforms=setting.layers, hidden_features=setting.hidden, **setting.options
    )
    return flow


def log_prob(flow: nn.Module, x: Tensor) -> Tensor:
    """Log-densities of standardized rows."""
    density = flow if isinstance(flow, diffeo.Flow) else flow()
    values: Tensor = density.log_prob(x)
    return values


METHODS: dict[str, tuple[Callable[[Tensor, Setting], nn.Module], list[Setting]]] = {
    "diffeo": (our_flow, OURS),
    "zuko NSF": (partial(zuko_flow, "NSF"), ZUKO_NSF),
    "zuko MAF": (partial(zuko_flow, "MAF"), ZUKO_MAF),
}


def fit(
    flow: nn.Module, setting: Setting, train: Tensor, val: Tensor, seconds: float
) -> tuple[float, nn.Module, int]:
    """The best mean log-likelihood of the validation rows, the flow that has it, and the steps."""
    average = AveragedModel(flow, multi_avg_fn=get_ema_multi_avg_fn(0.995))
    optimizer = torch.optim.Adam(flow.parameters(), lr=setting.lr, fused=True)
    best, best_flow, looks, steps, share = -math.inf, copy.deepcopy(flow), 0, 0, 0.0
    start = time.perf_counter()
    while share < 1:
        order = torch.randperm(len(train))
        for rows in order.split(setting.batch)[: len(train) // setting.batch]:
            share = min(1.0, (time.perf_counter() - start) / seconds)
            factor = share / 0.1 if share < 0.1 else 0.5 * (1 + math.cos(math.pi * share))
            optimizer.param_groups[0]["lr"] = setting.lr * factor
            optimizer.zero_grad()
            (-log_prob(flow, train[rows]).mean()).backward()
            nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
            optimizer.step()
            average.update_parameters(flow)
            steps += 1
            if share * 50 >= looks + 1:  # fifty looks, which cost next to nothing
                looks = int(share * 50)
                with torch.no_grad():
                    value = float(log_prob(average.module, val).mean())
                if value > best:
                    best, best_flow = value, copy.deepcopy(average.module)
            if share == 1:
                break
    return best, best_flow, steps


def compare(name: str, seconds: float, folder: Path) -> list[dict[str, object]]:
    """A line for each setting of each method; of each method's best, against ours, printed."""
    x = np.random.default_rng(0).permutation(load(name, folder))
    test, val, train = np.split(x, [len(x) // 5, 3 * len(x) // 10])
    mean, std = train.mean(0), train.std(0)
    parts = [torch.tensor((part - mean) / std, dtype=torch.float32) for part in (train, val, test)]
    lines: list[dict[str, object]] = []
    chosen: dict[str, np.ndarray] = {}
    for method, (make, settings) in METHODS.items():
        highest = -math.inf
        for setting in settings:
            torch.manual_seed(0)
            best, flow, steps = fit(make(parts[0], setting), setting, *parts[:2], seconds)
            with torch.no_grad():
                value = log_prob(flow, parts[2]).double().numpy()
            if best > highest:
                highest, chosen[method] = best, value
            line = {"table": name, "method": method, "setting": describe(setting)}
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


def describe(setting: Setting) -> str:
    """A setting in a few words."""
    options = " ".join(f"{name} {value!r}" for name, value in setting.options.items())
    text = f"{setting.layers} x {setting.hidden} lr {setting.lr:g} batch {setting.batch} {options}"
    return text.strip()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of results, and write them where asked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks splines-nll", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--tables", nargs="*", default=TABLES)
    parser.add_argument("--folder", type=Path, default=UCI, help="where the CSV files are")
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

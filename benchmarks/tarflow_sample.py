"""Samples of TarFlow: plain, with keys and values remembered, and many tokens at once.

A TarFlow learns images for a while, and then draws some. "plain" runs each block's network over all
tokens so far, for one token after another. "cached" is what `sample` does: keys and values are
remembered, so that each token costs one evaluation of one token. "group G, tolerance T" solves for
G tokens at once by fixed-point iteration until nothing changes by more than T (Jacobi iteration if
G is all of them, Gauss-Seidel-Jacobi if less). Errors are those of pixels against "cached", in grey
levels, before they are rounded: root mean square, and the largest. All methods take turns, from the
same noise; times are the best of so many rounds.

    python -m benchmarks tarflow-sample [--data FOLDER] [--seconds 240] [--images 1 16]

Without a folder, such as that of MNIST, it learns scikit-learn's digits, pixel by pixel.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from diffeo.bijections import TokenAutoregressive
from diffeo.data import DataOptions, load_data
from diffeo.flow import eval_mode
from diffeo.models import TarFlow

RESULTS = Path(__file__).parent / "results"
FIELDS = ("data", "tokens", "test_bpd", "images", "method", "seconds", "over_plain", "over_cached")
FIELDS += ("passes", "rms_error", "largest_error")


def learn(flow: TarFlow, images: Tensor, seconds: float) -> int:
    """Adam for so long, with a rate that rises and falls: the number of steps."""
    adam = torch.optim.Adam(flow.parameters(), lr=1e-3)
    noise, start, steps = torch.Generator().manual_seed(0), time.perf_counter(), 0
    flow.train()
    while (done := (time.perf_counter() - start) / seconds) < 1:
        for group in adam.param_groups:
            group["lr"] = 1e-3 * min(1.0, 20 * done + 1e-2, 2 * (1 - done))
        x = images[torch.randint(len(images), (64,), generator=noise)]
        adam.zero_grad()
        flow.bits_per_dim(x, generator=noise).mean().backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        adam.step()
        steps += 1
    return steps


def plain(flow: TarFlow, z: Tensor) -> Tensor:
    """Grey levels of noise, by running each network over the tokens before each token."""
    links = list(flow.bijection)
    for link in reversed(links):
        if not isinstance(link, TokenAutoregressive):
            z, _ = link.inverse(z)
            continue
        y = z.flip(2) if link.flip else z
        outputs = link.univariate.parameters_each * y.shape[1]
        x, _ = link.univariate.inverse(y[:, :, :1], y.new_zeros(len(y), outputs, 1))
        for t in range(1, y.shape[2]):
            parameters = link.conditioner.following(x, 0)[:, :, -1:]
            token, _ = link.univariate.inverse(y[:, :, t : t + 1], parameters)
            x = torch.cat((x, token), dim=2)
        z = x.flip(2) if link.flip else x
    return z


def methods(flow: TarFlow, tokens: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """What is compared, by name."""

    def grouped(group: int, tolerance: float) -> Callable[[Tensor], Tensor]:
        return lambda z: flow.set_sampling(group, tolerance).invert(z)[0]

    found = {"plain": lambda z: plain(flow, z), "cached": grouped(1, 0.0)}
    for group in (8, tokens):
        for tolerance in (0.0, 1e-3, 1e-2, 1e-1):
            found[f"group {group}, tolerance {tolerance:g}"] = grouped(group, tolerance)
    return found


def compare(flow: TarFlow, count: int, rounds: int) -> list[dict[str, object]]:
    """A line of figures for each method, of so many images at a time."""
    blocks = [part for part in flow.modules() if isinstance(part, TokenAutoregressive)]
    tokens = len(blocks[0].conditioner.positions)
    z = flow.noise(count, torch.Generator().manual_seed(1))
    times: dict[str, float] = {}
    found, passes = {}, {}
    with eval_mode(flow):
        for _ in range(rounds):
            for name, method in methods(flow, tokens).items():
                start = time.perf_counter()
                found[name] = method(z)
                seconds = time.perf_counter() - start
                times[name] = min(times.get(name, seconds), seconds)
                passes[name] = sum(block.passes for block in blocks) / len(blocks)
    lines = []
    for name, seconds in times.items():
        error = (found[name] - found["cached"]).double()
        line = {"tokens": tokens, "images": count, "method": name, "seconds": f"{seconds:.4f}"}
        line |= {"over_plain": f"{times['plain'] / seconds:.1f}"}
        line |= {"over_cached": f"{times['cached'] / seconds:.2f}"}
        line |= {"passes": "" if name == "plain" else f"{passes[name]:.1f}"}
        line |= {"rms_error": f"{error.square().mean().sqrt():.2g}"}
        lines.append(line | {"largest_error": f"{error.abs().max():.2g}"})
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Learn, compare, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks tarflow-sample")
    parser.add_argument("--data", default="digits", help="digits, or a folder of images")
    parser.add_argument("--seconds", type=float, default=240.0, help="of learning; 240")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 16], help="at a time; 1 16")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each method; 3")
    parser.add_argument("--threads", type=int, default=1, help="1")
    parser.add_argument("--out", type=Path, default=RESULTS / "tarflow-sample.csv")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    data = load_data(DataOptions(options.data))
    torch.manual_seed(0)
    patch = 1 if data.shape[1] < 16 else None
    flow = TarFlow(data.shape, patch=patch)
    images, _ = data.train.take(torch.arange(len(data.train)))
    steps = learn(flow, images, options.seconds)
    test, _ = data.test.take(torch.arange(min(1_000, len(data.test))))
    with eval_mode(flow):
        noise = torch.Generator().manual_seed(0)
        bpd = torch.cat([flow.bits_per_dim(x, generator=noise) for x in test.split(100)]).mean()
    print(f"{data.name}: {steps} steps, {bpd:.3f} bits/dim of test images")
    lines = []
    for count in options.images:
        for line in compare(flow, count, options.rounds):
            lines.append({"data": data.name, "test_bpd": f"{bpd:.3f}", **line})
            print("  ".join(str(lines[-1][field]) for field in FIELDS), flush=True)
    known = []
    if options.out.is_file():
        with options.out.open(newline="", encoding="utf-8") as file:
            known = [line for line in csv.DictReader(file) if line["data"] != data.name]
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows([*known, *lines])

"""What it costs in bits/dim to keep each kind of a Glow's weights in bfloat16.

    python -m benchmarks.rounding RUN --images 1000

The same images of the run's test split with the same noise, before and after rounding.
"""

from __future__ import annotations

import argparse
import re

import torch
from torch import Tensor

from diffeo.evaluation.likelihood import log_probs
from diffeo.flow import Flow
from diffeo.pretrained.hub import _kernels
from diffeo.run import Run

KINDS = {  # the first that matches the name of a weight
    "kernels of networks": r"conditioner\.(first|second|last\.weight|weight)$",
    "scales and biases of networks": r"conditioner",
    "triangles of 1x1 convolutions": r"conv\.(lower|upper)$",
    "diagonals of 1x1 convolutions": r"conv\.(log_s|sign)$",
    "actnorms between couplings": r"norm\.",
    "the rest": "",
}


def kind_of(name: str) -> str:
    """What kind of weight it is."""
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, name))


def main() -> None:
    """Print a line for each kind, for all, and for what `save_pretrained` rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--images", type=int, default=1_000)
    options = parser.parse_args()
    run = Run(options.run)
    flow = run.flow
    split = run.data().test.take(torch.arange(options.images))
    state = {name: value.clone() for name, value in flow.state_dict().items()}
    floating = [name for name, value in state.items() if value.is_floating_point()]
    groups = {kind: [n for n in floating if kind_of(n) == kind] for kind in KINDS}
    groups |= {"all of these": floating, "what is rounded": _kernels(flow)}
    whole = _bits(flow, split)
    print(f"{'as they are':30s} {'':>9s}  {whole.mean():.5f} bits/dim")
    for kind, names in groups.items():
        rounded = {name: state[name].bfloat16().to(state[name]) for name in names}
        flow.load_state_dict(state | rounded)
        change = _bits(flow, split) - whole
        error = change.std() / len(change) ** 0.5
        count = sum(state[name].numel() for name in names)
        print(f"{kind:30s} {count:9,d}  {change.mean():+.6f} ± {error:.6f}")


def _bits(flow: Flow, split: tuple[Tensor, Tensor | None]) -> Tensor:
    x, context = split
    starts = range(0, len(x), 100)
    parts = [(x[i : i + 100], None if context is None else context[i : i + 100]) for i in starts]
    return torch.cat(list(log_probs(flow, parts))).double() / -flow.nats_per_bpd


if __name__ == "__main__":
    main()

"""The steps of `diffeo train` on moons, written down plainly: no observers, no run folder.

The same rows, batches, model, optimizer, schedule, clipping, running average of the weights and
validation after each epoch; the best average is kept and written once. It prints what it reached.

    python -m benchmarks.plain_loop FOLDER [--rows 100000] [--epochs N]
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from diffeo.data import DataOptions, load_table
from diffeo.data.datasets import Batches, mix
from diffeo.run.learning import DRAWN

STEPS, BATCH, LR, WARMUP, CLIP, EMA, SEED = 2_800, 1_024, 8e-3, 0.1, 5.0, 0.995, 0


def train(rows: int | None, epochs: int | None, folder: Path) -> dict[str, Any]:
    """Train, and say how long the loop took, how many steps it did, and the best validation NLL."""
    table = load_table(DataOptions("moons", rows=rows))
    torch.manual_seed(SEED)
    flow = DRAWN(table.features)
    flow.initialize(table.train.x)
    start = time.perf_counter()
    batches = Batches(table.train, BATCH, seed=SEED)
    epochs = epochs or math.ceil(STEPS / len(batches))
    total = epochs * len(batches)
    patience = min(max(10, epochs // 4), 100)
    weights = list(flow.parameters())
    groups = [[w for w in weights if (w.ndim > 1) == matrix] for matrix in (True, False)]
    adam = torch.optim.Adam([{"params": group} for group in groups], LR, fused=True)

    def factor(step: int) -> float:
        done = step / total
        if done < WARMUP:
            return max(done / WARMUP, 1e-3)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - WARMUP) / (1 - WARMUP))))

    schedule = torch.optim.lr_scheduler.LambdaLR(adam, factor)
    averaged = copy.deepcopy(flow).requires_grad_(False).eval()
    averages = list(averaged.parameters())
    best, stored, since, steps = math.inf, copy.deepcopy(averaged.state_dict()), 0, 0
    for epoch in range(epochs):
        torch.manual_seed(mix(SEED, epoch, 0))
        batches.set_epoch(epoch)
        flow.train()
        for x, context in batches:
            loss = -flow.log_prob(x, context).mean()
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, CLIP)
            adam.step()
            schedule.step()
            steps += 1
            with torch.no_grad():
                torch._foreach_lerp_(averages, weights, 1 - min(EMA, steps / (steps + 10)))
        with torch.no_grad():
            parts = [averaged.log_prob(x, c).sum() for x, c in Batches(table.val, flow.chunk)]
            nll = -float(torch.stack(parts).sum()) / len(table.val)
        since += 1
        if nll < best:
            best, stored, since = nll, copy.deepcopy(averaged.state_dict()), 0
        if since >= patience:
            break
    seconds = time.perf_counter() - start
    torch.save(stored, folder / "model.pt")
    return {"seconds": seconds, "steps": steps, "val_nll": best}


def main() -> None:
    """Train once, and print the outcome as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--epochs", type=int)
    options = parser.parse_args()
    print(json.dumps(train(options.rows, options.epochs, options.folder)))


if __name__ == "__main__":
    main()

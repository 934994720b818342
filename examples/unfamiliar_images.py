"""Which images are unfamiliar? What the likelihood finds, what it does not, and what helps.

A small Glow learns scikit-learn's digits of 8 x 8 pixels. Then images of other kinds are scored
against digits that it has not seen, by

- `log_prob`, the likelihood;
- `typicality`, how usual the likelihood is (Nalisnick et al. 2019);
- `complexity`, the likelihood against the length of a lossless file (Serrà et al. 2020);
- LocalOutlierFactor on the bare pixels, which is no flow.

The truth is known, since the unfamiliar images are made here. The figure is the chance that a digit
scores above such an image (AUROC, with the standard error of DeLong et al. 1988): 1/2 is chance,
and below it the score prefers what is unfamiliar. Digits against other digits have to give 1/2.

    python examples/unfamiliar_images.py --out unfamiliar.png

needs diffeo alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor

import diffeo
from diffeo.evaluation.scores import KINDS, Reference, scores
from diffeo.figures.style import DATA, GREY, INK, LATENT, MODEL, house_style, save

Array = NDArray[Any]
OTHER = "neighbours"
COLORS = dict(zip((*KINDS, OTHER), (MODEL, LATENT, DATA, GREY), strict=True))
TRAINING, HELD_OUT = 1_000, 250


def digits(seed: int) -> Tensor:
    """All 1,797 digits in a random order, `(n, 1, 8, 8)`, uint8."""
    pixels = (load_digits().images * 255 // 16).astype(np.uint8)
    return torch.from_numpy(np.random.default_rng(seed).permutation(pixels)[:, None])


def unfamiliar(x: Tensor, seed: int) -> dict[str, Tensor]:
    """Images of other kinds, as many as there are digits x."""
    source = torch.Generator().manual_seed(seed)
    greys = torch.randint(256, (len(x), 1, 1, 1), generator=source, dtype=torch.uint8)
    return {
        "black": torch.zeros_like(x),
        "one grey": greys.expand_as(x).contiguous(),
        "noise": torch.randint(256, x.shape, generator=source, dtype=torch.uint8),
        "inverted": 255 - x,
        "faint digits": x // 4,
        "turned 90°": x.rot90(1, (2, 3)).contiguous(),
        "turned 180°": x.flip(2, 3).contiguous(),
    }


def learn(images: Tensor, steps: int, seed: int = 0) -> diffeo.Glow:
    """A small Glow that has learned images."""
    torch.manual_seed(seed)
    flow = diffeo.Glow(image_shape=(1, 8, 8), levels=2, steps=4, hidden_channels=32)
    flow.initialize(images)
    optimizer = torch.optim.Adam(flow.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for _ in range(steps):
        loss = -flow.log_prob(images[torch.randint(len(images), (128,))]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 50.0)
        optimizer.step()
        schedule.step()
    return flow.eval()


def auroc(familiar: Array, odd: Array) -> tuple[float, float]:
    """The chance that a familiar score is above an odd one, and its standard error."""
    above = (familiar[:, None] > odd) + 0.5 * (familiar[:, None] == odd)
    variance = above.mean(1).var(ddof=1) / len(familiar) + above.mean(0).var(ddof=1) / len(odd)
    return float(above.mean()), float(np.sqrt(variance))


@dataclass(frozen=True)
class Answer:
    """AUROC and standard error by the kind of images and the score, and one image of each kind."""

    found: dict[str, dict[str, tuple[float, float]]]
    images: dict[str, Tensor]

    def checks(self) -> dict[str, bool]:
        """What has to hold, with 4 standard errors."""

        def least(kind: str, score: str) -> float:
            value, error = self.found[kind][score]
            return value - 4 * error

        def most(kind: str, score: str) -> float:
            value, error = self.found[kind][score]
            return value + 4 * error

        chance = [least("digits", s) < 0.5 < most("digits", s) for s in COLORS]
        return {
            "other digits: chance": all(chance),
            "noise: found by all": min(least("noise", s) for s in COLORS) > 0.95,
            "black: preferred by the likelihood": most("black", "log_prob") < 0.5,
            "black: found by both corrections": min(
                least("black", s) for s in ("typicality", "complexity")
            )
            > 0.95,
            "turned 180°: neighbours find more than any score of the flow": least(
                "turned 180°", OTHER
            )
            > max(self.found["turned 180°"][s][0] for s in KINDS),
        }


def solve(steps: int, seed: int = 0) -> Answer:
    """Learn digits, and score other digits and images of other kinds."""
    training, held_out, test, more = digits(seed).split([TRAINING, HELD_OUT, 273, 274])
    flow = learn(training, steps, seed)
    reference = Reference.measure(flow, [(held_out, None)])
    factor = LocalOutlierFactor(novelty=True).fit(training.flatten(1).numpy())

    def scored(x: Tensor) -> dict[str, Array]:
        pairs = {kind: scores(flow, [(x, None)], kind, reference) for kind in KINDS}
        values = {kind: torch.cat([s for _, s in pair]).numpy() for kind, pair in pairs.items()}
        return values | {OTHER: factor.score_samples(x.flatten(1).numpy())}

    images = {"digits": more} | unfamiliar(test, seed)
    familiar = scored(test)
    found = {}
    for kind, x in images.items():
        odd = scored(x)
        found[kind] = {score: auroc(familiar[score], odd[score]) for score in COLORS}
    return Answer(found, {kind: x[1, 0] for kind, x in images.items()})


@house_style()
def draw(answer: Answer, path: Path) -> None:
    """An image of each kind, and how well each score finds it."""
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    grid = figure.add_gridspec(2, len(answer.images), height_ratios=(1, 3.2))
    for place, (kind, image) in enumerate(answer.images.items()):
        axes = figure.add_subplot(grid[0, place])
        axes.imshow(image.numpy(), cmap="gray", vmin=0, vmax=255)
        axes.set(xticks=[], yticks=[])
        axes.set_title(kind, loc="center", fontsize=8)
    axes = figure.add_subplot(grid[1, :])
    for shift, (score, color) in enumerate(COLORS.items()):
        values, errors = np.array([row[score] for row in answer.found.values()]).T
        at = np.arange(len(values)) + 0.2 * (shift - 1.5)
        axes.bar(at, values, 0.19, yerr=errors, color=color, ecolor=INK, label=score)
    axes.axhline(0.5, color=INK, lw=0.8, ls="--")
    axes.set(xticks=[], ylabel="AUROC", xlim=(-0.5, len(answer.images) - 0.5), ylim=(0, 1.25))
    axes.legend(ncols=4, loc="upper center")
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn, score, and say what came out; 1 if a check fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300, help="of learning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="draw the comparison into this image")
    options = parser.parse_args(arguments)
    answer = solve(options.steps, options.seed)
    print(f"{'AUROC':16}" + "".join(f"{score:>16}" for score in COLORS))
    for kind, row in answer.found.items():
        print(f"{kind:16}" + "".join(f"{v:10.3f} ± {e:.3f}" for v, e in row.values()))
    checks = answer.checks()
    for name, holds in checks.items():
        print(f"{'holds' if holds else 'FAILS'}: {name}")
    if options.out:
        draw(answer, options.out)
    return int(not all(checks.values()))


if __name__ == "__main__":
    raise SystemExit(main())

"""How long and how strongly a flow of a table is trained, by its numbers of rows and columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Self

from diffeo.training.options import OptimizerOptions

# Fewer rows are given a smaller flow.
FEW = 2_000
# In the first step.
MOST_NOISE = 0.5


@dataclass(frozen=True)
class Settings:
    """What `FlowDensity` is told, with each "auto" resolved.

    Args:
        layers: number of couplings.
        hidden: width of both hidden layers of each network.
        noise: standard deviation of the noise on whitened training rows, at the end.
        steps: most steps.
        batch_size: rows of a step.
        patience: stop after so many steps without a higher held-out likelihood.
        held_out: how many rows are held out.
        verbose: how much is printed.
        optimizer: how the weights are learned.

    Raises:
        ValueError: at a value that cannot be.
    """

    layers: int
    hidden: int
    noise: float
    steps: int
    batch_size: int
    patience: int
    held_out: int
    verbose: int
    optimizer: OptimizerOptions

    @classmethod
    def of(cls, told: Any, rows: int) -> Self:
        """What an estimator was told, for so many rows."""
        few = rows < FEW
        steps = _count(told, "max_iter", round(10 * rows**0.6))
        fraction = _number(told, "validation_fraction", 0.2 if few else 0.1, below=1.0)
        return cls(
            layers=_count(told, "layers", 4 if few else 8),
            hidden=_count(told, "hidden", 64),
            noise=_number(told, "noise", _last_noise(rows), below=1.0, zero=True),
            steps=steps,
            batch_size=_count(told, "batch_size", 512),
            patience=_count(told, "n_iter_no_change", max(1, steps // 3)),
            held_out=min(rows - 1, max(1, round(fraction * rows))),
            verbose=int(told.verbose),
            optimizer=OptimizerOptions(lr=_number(told, "learning_rate", 5e-3), ema=0.99),
        )

    def noise_at(self, step: int) -> float:
        """That of a step: it falls to the last one by a line."""
        return self.noise + max(0.0, MOST_NOISE - self.noise) * max(0.0, 1 - step / self.steps)

    @property
    def lr(self) -> float:
        """Largest learning rate."""
        return self.optimizer.lr or 0.0

    @property
    def every(self) -> int:
        """Steps between two looks at the held-out rows."""
        return max(1, min(50, self.steps // 20))


def _last_noise(rows: int) -> float:
    """As much as at first up to 400 rows, where detail is chance; for 10,000 next to none."""
    return MOST_NOISE * min(1.0, (400 / rows) ** 1.5)


def _count(told: Any, name: str, auto: int) -> int:
    value = getattr(told, name)
    if isinstance(value, str) and value == "auto":
        return auto
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}: choose a whole number from 1 on.")
    return int(value)


def _number(
    told: Any, name: str, auto: float, below: float = math.inf, zero: bool = False
) -> float:
    """A number above 0, or from 0 on, and below another."""
    value = getattr(told, name)
    if isinstance(value, str) and value == "auto":
        return auto
    right = isinstance(value, Real) and not isinstance(value, bool)
    if not right or not (0 < value < below or (zero and value == 0)):
        least = "from 0 on" if zero else "above 0"
        most = "" if below == math.inf else f" and below {below:g}"
        raise ValueError(f"{name} is {value!r}: choose a finite number {least}{most}.")
    return float(value)

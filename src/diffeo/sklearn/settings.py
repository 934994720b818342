"""Settings of an estimator: what "auto" means, from the numbers of rows and columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Self

from diffeo.training.options import OptimizerOptions, TrainerOptions

# Tables with fewer rows get a smaller flow.
FEW_ROWS = 2_000
# In the first step.
MAX_NOISE = 0.5


@dataclass(frozen=True)
class Settings:
    """The parameters of a `FlowDensity`, with each "auto" resolved."""

    layers: int
    hidden: int
    noise: float  # in the last step
    steps: int
    patience: int  # stop after this many steps without a higher held-out likelihood
    held_out: int  # how many rows
    verbose: int
    optimizer: OptimizerOptions
    trainer: TrainerOptions

    @classmethod
    def of(cls, estimator: Any, rows: int) -> Self:
        """The settings of an estimator that is fitted to so many rows.

        Raises:
            ValueError: if a parameter is out of its range.
        """
        few = rows < FEW_ROWS
        # All noise up to 400 rows, whose detail is chance; next to none for 10,000.
        noise = MAX_NOISE * min(1.0, (400 / rows) ** 1.5)
        steps = _count(estimator, "max_iter", round(10 * rows**0.6))
        fraction = _number(estimator, "validation_fraction", 0.2 if few else 0.1, below=1.0)
        return cls(
            layers=_count(estimator, "layers", 4 if few else 8),
            hidden=_count(estimator, "hidden", 64),
            noise=_number(estimator, "noise", noise, below=1.0, zero=True),
            steps=steps,
            patience=_count(estimator, "n_iter_no_change", max(1, steps // 3)),
            held_out=min(rows - 1, max(1, round(fraction * rows))),
            verbose=int(estimator.verbose),
            optimizer=OptimizerOptions(_number(estimator, "learning_rate", 5e-3), ema=0.99),
            trainer=TrainerOptions(
                batch_size=_count(estimator, "batch_size", 512), device=estimator.device
            ),
        )

    def noise_at(self, done: float) -> float:
        """The noise after the share `done` of the steps: it falls linearly to the last one."""
        return self.noise + max(0.0, MAX_NOISE - self.noise) * max(0.0, 1 - done)

    @property
    def every(self) -> int:
        """Steps between two validations."""
        return max(1, min(50, self.steps // 20))


def _number(
    estimator: Any, name: str, auto: float, below: float = math.inf, zero: bool = False
) -> float:
    value = getattr(estimator, name)
    if isinstance(value, str) and value == "auto":
        return auto
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not (0 < value < below or (zero and value == 0)):
        least = "from 0 on" if zero else "above 0"
        most = "" if below == math.inf else f" and below {below:g}"
        raise ValueError(f"{name} is {value!r}: choose a finite number {least}{most}.")
    return float(value)


def _count(estimator: Any, name: str, auto: int) -> int:
    value = _number(estimator, name, auto)
    if value != int(value):
        raise ValueError(f"{name} is {value!r}: choose a whole number from 1 on.")
    return int(value)

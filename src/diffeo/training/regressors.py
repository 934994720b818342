"""Find the columns that others nearly determine, and learn to expect their values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor

from diffeo.mixed.marginals import Marginals
from diffeo.mixed.regressors import Regressors
from diffeo.mixed.rows import Layout
from diffeo.training.adam import Adam
from diffeo.training.options import OptimizerOptions

BATCH, LR, WARMUP = 1_024, 1e-2, 0.1
TRIAL, STEPS = 400, 2_000  # steps: of all columns, and of those for which there is hope
HOPE, NEAR = 0.15, 0.02  # mean absolute errors on other rows, over the mean deviation
MATTERS = 0.01  # how much larger that error gets without an input that matters
FEW_VALUES = 256  # of a column: so few have masses of their own, which networks learn
HELD_OUT = 5_000  # rows, at most


class Learner:
    """Learns regressions of columns of numbers from some rows, and judges them by the others.

    Each minimizes the mean absolute error, since some rows may follow no rule.

    Args:
        layout: of the columns.
        marginals: of the numbers.
        table: the rows `(n, columns)`.
        learns: which of them are learned from `(n,)`.
        first: how many columns come first and are conditions.
        weights: how much each row counts.
        seed: of first weights and batches.
    """

    def __init__(
        self,
        layout: Layout,
        marginals: Marginals,
        table: Tensor,
        learns: Tensor,
        first: int = 0,
        weights: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        self.layout = layout
        self.first = first
        self.seed = seed
        self.weights: Tensor | None = None if weights is None else weights.float()
        self.learned: Tensor = learns.nonzero()[:, 0]
        self.judges: Tensor = (~learns).nonzero()[:, 0][:HELD_OUT]
        scales = Regressors(layout.columns, range(first))
        self.scales: Regressors = scales
        scaled = scales.standardized(marginals, table[self.learned])
        for c, column in enumerate(scaled.T):
            known = column[~column.isnan()]
            if len(known) > 1 and known.std() > 0:
                scales.center[c], scales.spread[c] = known.mean(), known.std()
                ends = (torch.stack(known.aminmax()) - scales.center[c]) / scales.spread[c]
                scales.least[c], scales.most[c] = ends
        self.features: Tensor = scales.features(marginals, table)
        self.values: Tensor = scales.standardized(marginals, table).float()

    def find(self) -> Regressors:
        """Regressions of the columns that some of those before them nearly determine."""
        order = self.layout.order
        found = []
        for at, (number, c) in enumerate(order):
            if number and at >= max(1, self.first) and self._varied(c):
                before = self.layout.table_order[:at]
                trial = self._learned(c, before, TRIAL)
                error = self.error(trial)
                if error < HOPE:
                    inputs = [i for i in before if self.error(trial, i) > error + MATTERS]
                    one = self._learned(c, inputs, STEPS)
                    if self.error(one) < NEAR:
                        found.append(one)
        chosen = self._made([one.targets[0] for one in found], [one.inputs[0] for one in found])
        for network, one in zip(chosen.networks, found, strict=True):
            network.load_state_dict(one.networks[0].state_dict())
        return chosen.double().requires_grad_(False)

    def _varied(self, c: int) -> bool:
        """Whether a column has more values than networks learn one by one."""
        values = self.values[self.learned, c]
        return len(values[~values.isnan()].unique()) > FEW_VALUES

    def _made(self, targets: list[int], inputs: list[tuple[int, ...]]) -> Regressors:
        made = Regressors(self.layout.columns, range(self.first), targets, inputs)
        for name, buffer in self.scales.named_buffers():
            made.get_buffer(name).copy_(buffer)
        return made

    def _learned(self, c: int, inputs: list[int], steps: int) -> Regressors:
        """A regression of one column on others, by Adam."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)  # which first weights are drawn from
            made = self._made([c], [tuple(inputs)])
        target = self.values[:, c]
        rows = self.learned[~target[self.learned].isnan()]
        if not len(rows) or not inputs:
            return made
        curve: Any = made.networks[0]
        curve.start(self.features[rows][:, made.seen[0]], target[rows])
        adam = Adam(made, OptimizerOptions(warmup=WARMUP), LR)
        source = Generator().manual_seed(self.seed)
        for step in range(steps):
            some = rows[torch.randint(len(rows), (BATCH,), generator=source)]
            error = (made.predict(0, self.features[some]) - target[some]).abs()
            if self.weights is not None:
                error = error * self.weights[some]
            adam.weights.start()
            error.mean().backward()  # type: ignore[no-untyped-call]
            adam.step(step / steps)
        adam.release()
        return made

    @torch.no_grad()
    def error(self, regressors: Regressors, shuffled: int | None = None) -> float:
        """The mean absolute error on other rows, over the mean deviation from the median.

        Infinite where that is 0.

        Args:
            regressors: with one target.
            shuffled: an input, by its place in the table, whose values go to other rows.
        """
        target = self.values[self.judges, regressors.targets[0]]
        known = ~target.isnan()
        rows, target = self.judges[known], target[known]
        if not len(rows):
            return math.inf
        features = self.features[rows]
        if shuffled is not None:
            own = [i for i, owner in enumerate(self.layout.owners) if owner == shuffled]
            features[:, own] = features[:, own].roll(1, 0)
        error = (regressors.predict(0, features) - target).abs().mean()
        deviation = (target - target.median()).abs().mean()
        return float(error / deviation) if deviation > 0 else math.inf

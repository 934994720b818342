"""The rivals of the race: flows of other libraries, random forests and copulas.

All flows are trained by `benchmarks.timed`: a warm-up, a cosine that ends with the budget, Adam,
clipped gradients, averaged weights, and the weights with the best validation stand. Learning rates
are chosen by validation before the race, whose clock does not run then.

Flows know only numbers. To them a category of a mixed table is its place k + u, with u uniform, and
a gap a number of 0 or 1 + u, with standard normal noise in place of what is missing. What they are
scored by bounds the log-probability of a row from below, and the mean over 16 draws of the noise
inside of the logarithm makes the bound tight (Burda et al. 2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks import glow_bpd, peers, table_steps
from benchmarks.copula import CategoryMargin, GaussianCopula
from benchmarks.forests import Forest
from benchmarks.race_curve import SHARES, Curve
from benchmarks.race_data import Race, joined, tensors
from benchmarks.timed import Learner, Rows, Setting, TorchLearner, fit, zuko_flow, zuko_log_prob

RATES, IMAGE_RATES = (1e-3, 4e-3, 1.6e-2), (5e-4, 1e-3, 3e-3)
TRIAL, PATIENCE, DRAWS, FIRST = 1 / 8, 10, 16, 512
HIDDEN, BINS, BOUND, BATCH, IMAGES_BATCH = 128, 8, 5.0, 512, 32
LogProb = Callable[[nn.Module, Tensor], Tensor]
Make = Callable[[Race, Setting], Learner]


# Flows of rows ----------------------------------------------------------------------------------


def log_prob_of(flow: nn.Module, x: Tensor) -> Tensor:
    """Log-densities by a flow of nflows, normflows or torchflows."""
    values: Tensor = flow.log_prob(x)
    return values


def zuko_learner(name: str, race: Race, setting: Setting) -> Learner:
    """A flow of zuko."""
    x, val, _ = tensors(race)
    return TorchLearner(zuko_flow(name, x.shape[1], setting), zuko_log_prob, x, val)


def flowjax_learner(race: Race, setting: Setting) -> Learner:
    """A flow of flowjax."""
    from benchmarks.flowjax_learner import FlowjaxLearner

    return FlowjaxLearner(setting, race.train, race.val)


def torch_learner(make: Callable[[int], nn.Module], race: Race, setting: Setting) -> Learner:
    """A flow of the others, for so many columns."""
    x, val, _ = tensors(race)
    flow = make(x.shape[1])
    with torch.no_grad():
        flow.log_prob(x[:FIRST])  # some start from data
    return TorchLearner(flow, log_prob_of, x, val)


def nflows(name: str, features: int) -> nn.Module:
    """The flow of that name of nflows."""
    return table_steps.nflows(name, features, 1, HIDDEN).model


def normflows_realnvp(features: int) -> nn.Module:
    """Affine couplings of normflows."""
    return peers.normflows_table(features, 1, HIDDEN).model


def normflows_nsf(features: int) -> nn.Module:
    """Autoregressive splines of normflows with linear maps between them, as in its examples."""
    import normflows

    flows: list[nn.Module] = []
    for _ in range(3):
        spline = normflows.flows.AutoregressiveRationalQuadraticSpline
        flows.append(spline(features, 2, HIDDEN, num_bins=BINS, tail_bound=BOUND))
        flows.append(normflows.flows.LULinearPermute(features))
    return normflows.NormalizingFlow(normflows.distributions.DiagGaussian(features), flows)


def torchflows_nsf(features: int) -> nn.Module:
    """Masked autoregressive splines of torchflows."""
    from torchflows.bijections.finite.autoregressive import architectures
    from torchflows.flows import Flow

    networks = {"n_layers": 3, "n_hidden": HIDDEN}
    made = architectures.MaskedAutoregressiveRQNSF(
        features, n_layers=3, conditioner_kwargs=networks
    )
    return Flow(made)


# Flows of mixed rows ----------------------------------------------------------------------------


class Dequantized:
    """Frames as numbers, and lower bounds of their log-probabilities by a flow of numbers."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.numbers = [c for c in frame if pd.api.types.is_float_dtype(frame[c])]
        self.gaps = [c for c in self.numbers if frame[c].isna().any()]
        self.margins = {c: CategoryMargin(frame[c]) for c in frame if c not in self.numbers}
        values = self._numbers(frame)
        self.mean, self.std = np.nanmean(values, 0), np.nanstd(values, 0)
        self.log_scale = torch.as_tensor(np.log(self.std), dtype=torch.float32)
        self.noise = torch.as_tensor(1 / self.std, dtype=torch.float32)
        self.noise[: len(self.numbers)] = 0.0

    def _numbers(self, frame: pd.DataFrame) -> Rows:
        places = []
        for column, margin in self.margins.items():
            place = {level: i for i, level in enumerate(margin.levels)}
            places.append(frame[column].map(place).to_numpy(dtype=float))
        columns = [frame[c].to_numpy(dtype=float) for c in self.numbers]
        gaps = [frame[c].isna().to_numpy(dtype=float) for c in self.gaps]
        return np.column_stack((*columns, *places, *gaps))

    def rows(self, frame: pd.DataFrame) -> Tensor:
        """Standardized numbers, NaN where there is a gap."""
        return torch.as_tensor((self._numbers(frame) - self.mean) / self.std, dtype=torch.float32)

    def log_prob(self, flow: nn.Module, rows: Tensor) -> Tensor:
        """A bound of each row, by one draw."""
        missing, normal = rows.isnan(), torch.randn_like(rows)
        x = torch.where(missing, normal, rows + self.noise * torch.rand_like(rows))
        drawn = -0.5 * (normal.square() + math.log(2 * math.pi))
        each = torch.where(missing, drawn, self.log_scale)
        return zuko_log_prob(flow, x) - each.sum(1)


class MixedLearner(TorchLearner):
    """A flow of zuko on the numbers of a mixed table."""

    def __init__(self, race: Race, setting: Setting) -> None:
        self.encoding = encoding = Dequantized(joined(race))
        flow = zuko_flow("NSF", len(encoding.mean), setting)
        super().__init__(
            flow, encoding.log_prob, encoding.rows(race.train), encoding.rows(race.val)
        )

    def score(self, x: pd.DataFrame) -> Rows:
        """Bounds of the log-probability of rows by the result."""
        with torch.no_grad():
            rows = self.encoding.rows(x)
            draws = torch.stack([self.log_prob(self.best, rows) for _ in range(DRAWS)])
        return (draws.double().logsumexp(0) - math.log(DRAWS)).numpy()


# Flows of images --------------------------------------------------------------------------------


class ImageLearner(TorchLearner):
    """A flow of images, by its bits/dim with a minus."""

    def __init__(self, make: Callable[[Race], nn.Module], race: Race, setting: Setting) -> None:
        dims = race.train[0].numel()

        def log_prob(flow: nn.Module, x: Tensor) -> Tensor:
            return peers.pixel_log_prob(flow)(x) / (dims * math.log(2))

        super().__init__(make(race), log_prob, race.train, race.val)

    @torch.no_grad()
    def score(self, x: Tensor) -> Rows:
        """Bits/dim of images by the result."""
        flow = self.best.eval()
        return -torch.cat([self.log_prob(flow, part) for part in x.split(100)]).double().numpy()


def normflows_glow(race: Race) -> nn.Module:
    """The Glow of `python -m benchmarks glow-bpd`, with as many levels as the size allows."""
    shape = tuple(race.train.shape[1:])
    levels = glow_bpd.LEVELS if shape[-1] % 2**glow_bpd.LEVELS == 0 else glow_bpd.LEVELS - 1
    return glow_bpd.theirs(shape, race.train[:FIRST], levels)[0]


def torchflows_realnvp(race: Race) -> nn.Module:
    """The RealNVP of images of torchflows, with its defaults."""
    from torchflows.bijections.finite.multiscale.architectures import MultiscaleRealNVP
    from torchflows.flows import Flow

    flow = Flow(MultiscaleRealNVP(race.train.shape[1:]))
    with torch.no_grad():
        peers.pixel_log_prob(flow)(race.train[:FIRST])  # it starts from data
    return flow


# All --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FlowRival:
    """A flow that is trained.

    Args:
        make: of a data set and a setting.
        setting: with no learning rate yet.
        rates: of which the one with the best validation is taken.
    """

    make: Make
    setting: Setting
    rates: Sequence[float] = RATES

    def choose(self, race: Race, budget: float) -> Setting:
        """The setting that an eighth of the budget makes best, by the validation rows."""
        values = {}
        for setting in (self.setting._replace(lr=lr) for lr in self.rates):
            torch.manual_seed(0)
            try:
                learner = self.make(race, setting)
                values[setting.lr] = fit(learner, len(race.train), setting, TRIAL * budget)[0]
            except Exception as error:  # whatever libraries raise where weights are not finite
                print(f"{race.name}: {setting}: {type(error).__name__}: {error}")
        return self.setting._replace(lr=max(values, key=lambda lr: values[lr]))

    def run(self, race: Race, curve: Curve, setting: Setting) -> None:
        """Train for the budget."""
        torch.manual_seed(0)
        learner = self.make(race, setting)

        def add() -> None:
            curve.add(lambda: float(np.mean(learner.score(race.test))))

        def seen() -> None:
            if curve.due:
                add()

        rest = max(1e-3, curve.budget - curve.clock())  # after what was compiled
        options: Any = {"clock": curve.clock, "shares": SHARES, "seen": seen}
        fit(learner, len(race.train), setting, rest, patience=PATIENCE, **options)
        add()


def forest(race: Race, curve: Curve) -> str:
    """The adversarial random forest, which has no answer before its end."""
    learned = Forest(joined(race))
    curve.add(lambda: float(learned.log_prob(race.test).mean()))
    return f"{len(learned.weights)} leaves"


def copula(race: Race, curve: Curve) -> str:
    """The Gaussian copula, likewise."""
    learned = GaussianCopula(joined(race))
    curve.add(lambda: float(learned.log_prob(race.test).mean()))
    return "200 draws"


def rows_setting(layers: int, batch: int = BATCH, **options: Any) -> Setting:
    """Two hidden layers for each map."""
    return Setting(layers, (HIDDEN, HIDDEN), math.nan, batch, options)


ROWS = {
    "zuko NSF": FlowRival(partial(zuko_learner, "NSF"), rows_setting(3, bins=BINS)),
    "zuko MAF": FlowRival(partial(zuko_learner, "MAF"), rows_setting(3)),
    "nflows NSF": FlowRival(partial(torch_learner, partial(nflows, "NSF")), rows_setting(5)),
    "nflows MAF": FlowRival(partial(torch_learner, partial(nflows, "MAF")), rows_setting(5)),
    "normflows NSF": FlowRival(partial(torch_learner, normflows_nsf), rows_setting(3)),
    "normflows RealNVP": FlowRival(partial(torch_learner, normflows_realnvp), rows_setting(8)),
    "flowjax NSF": FlowRival(flowjax_learner, rows_setting(4, knots=BINS)),
    "flowjax MAF": FlowRival(flowjax_learner, rows_setting(8)),
    "torchflows NSF": FlowRival(partial(torch_learner, torchflows_nsf), rows_setting(3)),
}
MIXED = {
    "zuko NSF": FlowRival(MixedLearner, rows_setting(3, bins=BINS)),
    "arfpy ARF": forest,
    "Gaussian copula": copula,
}
IMAGES = {
    name: FlowRival(
        partial(ImageLearner, make), Setting(0, (), math.nan, IMAGES_BATCH, {}), IMAGE_RATES
    )
    for name, make in (
        ("normflows Glow", normflows_glow),
        ("torchflows RealNVP", torchflows_realnvp),
    )
}

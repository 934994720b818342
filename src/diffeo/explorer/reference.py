"""The share of log-likelihoods that lie below one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffeo.evaluation import scores
from diffeo.flow import Flow


@dataclass(frozen=True, eq=False)
class Reference:
    """Log-likelihoods to compare with.

    Args:
        nats: they, in rising order `(n,)`; those stored with a model are quantiles at equal steps.
        source: whose they are, in words: "2,048 held-out images".
        usual: what typicality is measured against: the held-out data of the model, or these.
    """

    nats: NDArray[np.float64]
    source: str
    usual: scores.Reference

    @classmethod
    def of(cls, flow: Flow, log_prob: Tensor, source: str, *, class_known: bool) -> Reference:
        """Those of some events; what is not finite is left out.

        Args:
            flow: the model.
            log_prob: theirs `(n,)`.
            source: whose they are.
            class_known: whether they were scored with their classes.
        """
        values = log_prob.double().numpy()
        values = np.sort(values[np.isfinite(values)])
        usual = stored_reference(flow, class_known)
        if usual is None:
            quantiles = tuple(np.quantile(values, scores.PERCENTS).tolist())
            usual = scores.Reference(len(values), float(values.mean()), quantiles)
        return cls(values, source, usual)

    @classmethod
    def from_stored(cls, usual: scores.Reference, unit: str) -> Reference:
        """Those of held-out data that are stored with a model; the unit is "images" or "rows"."""
        return cls(np.sort(np.array(usual.quantiles)), f"{usual.events:,} held-out {unit}", usual)

    def share_below(self, nats: float) -> float:
        """The share of the reference that is less likely, from 0 to 1; equal ones count half.

        It is NaN for NaN.
        """
        if math.isnan(nats):
            return math.nan
        below = np.searchsorted(self.nats, nats, side="left")
        upto = np.searchsorted(self.nats, nats, side="right")
        return float(below + upto) / 2 / max(len(self.nats), 1)


def stored_reference(flow: Flow, class_known: bool) -> scores.Reference | None:
    """The reference that is stored with a model, for events of known or unknown class; or None."""
    if "scores" not in flow.metadata:
        return None
    usual = scores.Reference.of(flow)
    return usual if class_known or usual.unlabelled is None else usual.unlabelled

"""Where one log-likelihood falls among many."""

from __future__ import annotations

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
        nats: they, in rising order `(n,)`; those that a model keeps are quantiles at equal steps.
        source: whose they are, for the page.
        usual: what typicality is seen against: held-out data, as the model keeps them, or these.
    """

    nats: NDArray[np.float64]
    source: str
    usual: scores.Reference

    @classmethod
    def of(cls, flow: Flow, log_prob: Tensor, source: str, *, told: bool) -> Reference:
        """Those of some events; what is not finite is left out.

        Args:
            flow: the model.
            log_prob: theirs `(n,)`.
            source: whose they are.
            told: whether their classes were.
        """
        values = log_prob.double().numpy()
        values = np.sort(values[np.isfinite(values)])
        usual = kept(flow, told)
        if usual is None:
            quantiles = tuple(np.quantile(values, scores.PERCENTS).tolist())
            usual = scores.Reference(len(values), float(values.mean()), quantiles)
        return cls(values, source, usual)

    @classmethod
    def kept(cls, usual: scores.Reference) -> Reference:
        """Those that a model keeps of held-out data."""
        source = f"{usual.events:,} held-out events, as the model remembers them"
        return cls(np.sort(np.array(usual.quantiles)), source, usual)

    def share_below(self, nats: float) -> float:
        """The share of the reference that is less likely, from 0 to 1; equal ones count half."""
        below = np.searchsorted(self.nats, nats, side="left")
        upto = np.searchsorted(self.nats, nats, side="right")
        return float(below + upto) / 2 / max(len(self.nats), 1)


def kept(flow: Flow, told: bool) -> scores.Reference | None:
    """What a model keeps of its held-out data, of unknown class if it is not told; or None."""
    if "scores" not in flow.metadata:
        return None
    usual = scores.Reference.of(flow)
    return usual if told or usual.unlabelled is None else usual.unlabelled

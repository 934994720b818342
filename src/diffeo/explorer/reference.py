"""Where one log-likelihood falls among many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Reference:
    """Log-likelihoods to compare with.

    Args:
        nats: they, in rising order `(n,)`; of metadata, quantiles at equal steps.
        source: whose they are, for the page.
    """

    nats: NDArray[np.float64]
    source: str

    @classmethod
    def of(cls, log_prob: Tensor, source: str) -> Reference:
        """Those of some events; what is not finite is left out."""
        values = log_prob.double().numpy()
        return cls(np.sort(values[np.isfinite(values)]), source)

    @classmethod
    def of_metadata(cls, known: Mapping[str, Any]) -> Reference | None:
        """The quantiles that were saved with a model; None if there are none."""
        values = np.asarray(known.get("quantiles", []), dtype=np.float64)
        if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
            return None
        return cls(np.sort(values), "quantiles of held-out data, saved with the model")

    def share_below(self, nats: float) -> float:
        """The share of the reference that is less likely, from 0 to 1; equal ones count half."""
        below = np.searchsorted(self.nats, nats, side="left")
        upto = np.searchsorted(self.nats, nats, side="right")
        return float(below + upto) / 2 / max(len(self.nats), 1)

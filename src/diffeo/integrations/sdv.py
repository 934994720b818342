"""A synthesizer of single tables for SDV: `FlowSynthesizer(metadata).fit({"rows": frame})`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from diffeo.answers import conditional
from diffeo.integrations.making import missing
from diffeo.sklearn import FlowDensity

try:
    from sdv.single_table.base import BaseSingleTableSynthesizer
except ImportError:
    raise missing("SDV", "sdv") from None

DISCRETE = ("categorical", "boolean", "ordinal")  # of SDV's types
MOST = 2**31 - 1  # the largest seed that is drawn


class FlowSynthesizer(BaseSingleTableSynthesizer):
    """Rows like those of a table, drawn from a `FlowDensity`, by SDV's methods.

    Args:
        metadata: SDV's, of one table.
        density: an estimator with options of its own, which is copied; without context.

    The density sees numbers, text and truth values as they are, and empty cells; SDV turns dates
    into numbers first. Rows under conditions are drawn from the conditional distribution, where
    SDV's own synthesizers of networks draw rows until some fit.

    Raises:
        ValueError: if the density is no `FlowDensity`, or has a context.

    (Patki, Wedge & Veeramachaneni 2016)
    """

    _model_sdtype_transformers = dict.fromkeys((*DISCRETE, "numerical"))

    def __init__(self, metadata: Any, density: FlowDensity | None = None) -> None:
        super().__init__(metadata)
        self.density: FlowDensity = FlowDensity(random_state=0) if density is None else density
        if not isinstance(self.density, FlowDensity) or self.density.context is not None:
            raise ValueError(f"the density is {density!r}: give a FlowDensity without context.")

    def _fit(self, processed_data: pd.DataFrame) -> None:
        columns = self._get_table_metadata().columns
        kinds = {
            name: "category"
            for name in processed_data
            if columns.get(name, {}).get("sdtype") in DISCRETE
        }
        density = clone(self.density)
        self._model = density.set_params(kinds=kinds | dict(self.density.kinds or {}))
        self._model.fit(processed_data)

    def _sample(self, num_rows: int, conditions: Mapping[str, Any] | None = None) -> pd.DataFrame:
        seed = self._seeds.randint(MOST)
        if not conditions:
            return self._model.sample(num_rows, random_state=seed)
        rows = conditional(self._model.flow_, conditions, seed=seed).sample(num_rows)
        types = self._model.sample(1, random_state=seed).dtypes.to_dict()
        return rows.assign(**conditions)[list(types)].astype(types)

    def _set_random_state(self, random_state: int) -> None:
        self._seeds = np.random.RandomState(random_state)
        self._random_state_set = True

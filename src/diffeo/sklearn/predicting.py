"""Predict a column of a table from its others by the density of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from torch import Tensor

from diffeo.answers import Conditional, conditional, explain, fill
from diffeo.data.tables.cells import Cells
from diffeo.data.tables.frames import decode_column, encode, encode_column
from diffeo.models.mixed import MixedFlow
from diffeo.schema import CategoryColumn, Column, DateColumn, TableError
from diffeo.sklearn.predictive import Part, Predictive
from diffeo.sklearn.tables import Array, TableReader
from diffeo.utils.ranges import Proportion, checked


def _has_target(estimator: Any) -> bool:
    if estimator.target is None:
        raise AttributeError(
            "a FlowDensity predicts the column that is its target: name one, as in "
            "set_params(target='price'), which needs no new fit."
        )
    return True


def _has_category(estimator: Any) -> bool:
    return _has_target(estimator) and hasattr(estimator, "classes_")


class Predictor(TableReader):
    """The part of `FlowDensity` that answers for p(target | other columns)."""

    flow_: MixedFlow

    def _asked(self) -> tuple[int, Column]:
        """The place of the target among the columns of the model, and what it is."""
        check_is_fitted(self)
        name = self._target()
        if name is None:
            _has_target(self)
        if isinstance(self.context, str):
            raise ValueError(
                f"context={self.context!r} models X given y, and so predicts no column: fit "
                "without it."
            )
        columns = list(self.schema_.modelled)
        for place, column in enumerate(columns):
            if column.name == name:
                first = 0 if self.conditions_ is None else len(self.conditions_.modelled)
                return first + place, column
        raise ValueError(
            f"target names the column {name!r}, which is not modelled: choose among "
            f"{', '.join(column.name for column in columns)}."
        )

    def _predictive(self, X: Any) -> tuple[Predictive, int]:  # noqa: N803
        """The distributions of the target in the rows of X, and how many these are."""
        place, column = self._asked()
        frame = self._frame(self._with_target(X, column.name), False)
        frame[column.name] = np.nan
        if self.joined_ is not None:
            frame[self.joined_] = np.nan
        x = encode(self.schema_, frame, strict=False)
        may = [part.missing for part in self.schema_.modelled]
        wrong = [isinstance(part, CategoryColumn) for part in self.schema_.modelled] & (x < 0)
        unknown = np.where(np.isnan(x), ~np.array(may), wrong)
        x[wrong] = np.nan
        if self.conditions_ is not None:
            given = encode(self.conditions_, frame)
            x = np.hstack([given, x])
            unknown = np.hstack([np.zeros_like(given, dtype=bool), unknown])
        table, hidden = torch.from_numpy(x), torch.from_numpy(unknown)
        return Predictive(self.flow_, table, place, hidden), len(x)

    def _with_target(self, X: Any, name: str) -> Any:  # noqa: N803
        """X with a column for the target, where fit had one and X has none."""
        names = self._names()
        if name not in names or np.ndim(X) != 2 or np.shape(X)[1] != len(names) - 1:
            return X
        if not isinstance(X, pd.DataFrame):
            return np.insert(np.asarray(X, dtype=float), names.index(name), np.nan, axis=1)
        if name in map(str, X.columns):
            return X
        found = getattr(self, "feature_names_in_", names)
        X = X.copy()  # noqa: N806
        X.insert(names.index(name), found[names.index(name)], np.nan)
        return X

    def _each(
        self,
        X: Any,  # noqa: N803
        ask: Callable[[Part, Array], Array],
        y: Any = None,
        category: bool | None = False,
    ) -> Array:
        """An answer for each row, by their parts; of columns of numbers, or of categories."""
        _, column = self._asked()
        if category is not None and isinstance(column, CategoryColumn) != category:
            remedy = (
                "ask for predict_quantiles"
                if category
                else "ask for predict_proba, whose columns are those of classes_"
            )
            kind = "numbers" if category else "categories"
            raise ValueError(f"the target {column.name!r} is a column of {kind}: {remedy}.")
        whole, count = self._predictive(X)
        values = np.empty(count) if y is None else self._values(column, y)
        check_consistent_length(values, range(count))
        found: list[Array] = []
        index: list[Array] = []
        for rows, part in whole.parts():
            index.append(rows)
            found.append(ask(part, values[rows]))
        answers = np.concatenate(found)
        return answers[np.concatenate(index).argsort()]

    def _values(self, column: Column, y: Any) -> Array:
        """Values of the target as numbers of the model."""
        series = pd.Series(np.asarray(y, dtype=object).ravel()).infer_objects()
        values, wrong = encode_column(
            column, Cells.of(series), strict=isinstance(column, CategoryColumn)
        )
        if wrong:
            raise TableError(wrong)
        return values

    def _written(self, values: Array) -> Array:
        """Numbers as they are, dates as such."""
        _, column = self._asked()
        if not isinstance(column, DateColumn):
            return values
        cells = decode_column(column, values.ravel())
        return np.asarray(cells).reshape(values.shape)

    # Questions ----------------------------------------------------------------------------------

    @property
    def classes_(self) -> Array:
        """The values of the target, if it is a category."""
        _, column = self._asked()
        if not isinstance(column, CategoryColumn):
            raise AttributeError(
                f"the target {column.name!r} is a column of numbers, which has no classes: ask for "
                "predict_quantiles."
            )
        return np.asarray(decode_column(column, np.arange(float(column.count))))

    @available_if(_has_target)  # type: ignore[untyped-decorator]
    def predict(self, X: ArrayLike) -> Array:  # noqa: N803
        """The mean of the target in each row of X, or the likeliest category, `(n,)`.

        X may have the column of the target, which is not looked at, or lack it. This and the
        other answers about the target are those of p(target | other columns) as the joint
        density has it: exact, by a sum or by quadrature. Empty cells of columns that had such in
        `fit` count as empty. Other empty cells, and unknown categories, are summed out (see
        `Predictive`): exactly for categories of few values, otherwise in closed form where the
        density has no networks, or by draws, which is an estimate.
        """
        _, column = self._asked()
        if isinstance(column, CategoryColumn):
            found = self._each(X, lambda part, _: part.spread.mode, category=True)
            best: Array = self.classes_[found.astype(int)]
            return best
        return self._written(self._each(X, lambda part, _: part.spread.mean))

    @available_if(_has_category)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: ArrayLike) -> Array:  # noqa: N803
        """The probability of each of `classes_` in each row of X, `(n, classes)`."""
        return self._each(X, lambda part, _: part.mass, category=True)

    @checked
    def predict_quantiles(self, X: ArrayLike, q: Any = (0.05, 0.5, 0.95)) -> Array:  # noqa: N803
        """The quantiles of the target in each row of X, `(n, len(q))`, or `(n,)` for one number q.

        Raises:
            ValueError: unless all q are from 0 to 1.
        """
        levels = np.atleast_1d(np.asarray(q, dtype=float))
        if not ((levels >= 0) & (levels <= 1)).all():
            raise ValueError(f"q={q} is not from 0 to 1: give shares, such as 0.05 and 0.95.")
        found = self._each(X, lambda part, _: np.column_stack([part.quantile(x) for x in levels]))
        return self._written(found if np.ndim(q) else found[:, 0])

    @checked
    def predict_interval(self, X: ArrayLike, coverage: Proportion = 0.9) -> Array:  # noqa: N803
        """The interval that the target is in with a probability of `coverage`, `(n, 2)`.

        It leaves (1 - coverage) / 2 on each side.
        """
        return self.predict_quantiles(X, ((1 - coverage) / 2, (1 + coverage) / 2))

    def cdf(self, X: ArrayLike, y: ArrayLike) -> Array:  # noqa: N803
        """P(target <= y) in each row of X with its y `(n,)`: uniform if the density is right."""
        return self._each(X, Part.cdf, y)

    def crps(self, X: ArrayLike, y: ArrayLike) -> Array:  # noqa: N803
        """The continuous ranked probability score of each y `(n,)`, in its units; lower is better.

            CRPS = int (F(t) - 1[y <= t])^2 dt

        It is the absolute error of a prediction that is certain (Gneiting & Raftery 2007).
        """
        return self._each(X, Part.crps, y)

    def log_prob(self, X: ArrayLike, y: ArrayLike) -> Array:  # noqa: N803
        """Log p(y | X) of each row `(n,)`, in nats: a density in units of y, or a probability.

        Of a target with a grid it is the probability over the step, as `score_samples` has it.
        """
        return self._each(X, Part.log_prob, y, category=None)

    # Questions about other columns ---------------------------------------------------------------

    def fill(self, X: ArrayLike, how: Literal["mean", "mode", "draw"] = "mean") -> Any:  # noqa: N803
        """X with its empty cells filled, each given the others of its row (see `answers.fill`)."""
        frame, given = self._table(X)
        filled = fill(self.flow_, frame, how, context=given)[self._names()]
        if not isinstance(X, pd.DataFrame):
            return filled.to_numpy(dtype=float)
        return filled.set_axis(X.index).set_axis(X.columns, axis=1)

    def conditional(
        self, given: Mapping[str, Any] | None = None, want: Sequence[str] | None = None
    ) -> Conditional:
        """The distribution of the columns `want` given values of others (see `answers`)."""
        check_is_fitted(self)
        return conditional(self.flow_, given, want)

    @checked
    def explain(self, X: ArrayLike, level: Proportion = 0.9) -> pd.DataFrame:  # noqa: N803
        """How odd each cell is given the others of its row, a line each (see `answers.explain`)."""
        frame, given = self._table(X)
        found: pd.DataFrame = explain(self.flow_, frame, level=level, context=given)
        return found

    def _table(self, X: Any) -> tuple[pd.DataFrame, Tensor | None]:  # noqa: N803
        """X as a table, and its columns that are context, as the flow takes it."""
        check_is_fitted(self)
        frame = self._frame(X, False)
        if isinstance(self.context, str):
            raise ValueError(
                f"context={self.context!r} needs y: ask diffeo.answers, with the context of flow_."
            )
        if self.joined_ is not None:
            frame[self.joined_] = np.nan
        if self.conditions_ is None:
            return frame, None
        encoded = torch.from_numpy(encode(self.conditions_, frame))
        return frame, self.flow_.as_context(encoded)

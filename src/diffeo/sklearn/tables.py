"""Read arrays and tables, some of whose columns may be context, and return rows in their form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.utils._set_output import ADAPTERS_MANAGER, _get_output_config
from sklearn.utils.validation import check_consistent_length, validate_data
from torch import Tensor

from diffeo.data.tables.frames import decode, encode
from diffeo.data.tables.kinds import find_schema
from diffeo.schema import LeftOutColumn, Schema

Array = NDArray[Any]


class TableReader:
    """Reads X and y of an estimator by its `context` (see `FlowDensity`), and returns rows.

    Attributes:
        schema_: of the columns that are modelled.
        conditions_: of those that are context, or None.
        framed_: whether `fit` had a DataFrame.
        left_out_: a value of each column that is left out, empty unless all are equal.
        joined_: the name of y as a column of the table, or None.
    """

    context: Any
    kinds: Any
    target: Any
    n_features_in_: int
    schema_: Schema
    conditions_: Schema | None
    framed_: bool
    left_out_: dict[str, pd.Series]
    joined_: str | None

    def _read(
        self,
        X: Any,  # noqa: N803
        y: Any,
        *,
        fit: bool = False,
        weights: Array | None = None,
    ) -> tuple[Array, Array | None]:
        """The modelled columns `(n, d)`, and the context `(n, k)` or None, both float64.

        With `fit` what the columns are is found in the rows of a weight above 0.
        """
        frame = self._frame(X, fit)
        if fit:
            self.joined_ = self._unless_there(list(frame.columns), y)
        if self.joined_ is not None:
            frame = self._joined(frame, y, self.joined_)
        given = None
        if isinstance(self.context, str):
            if y is None:
                raise ValueError(
                    f"context={self.context!r} requires y to be passed, but the target y is None: "
                    "give what each row is conditional on."
                )
            given = as_frame(y, self._targets(fit))
            check_consistent_length(frame, given)
        elif self.context is not None:
            names = self._conditions(list(frame.columns))
            given = frame[names]
            frame = frame[[name for name in frame.columns if name not in names]]
        if fit:
            used = slice(None) if weights is None else weights > 0
            self._find(frame[used], None if given is None else given[used])
        context = None
        if given is not None:
            assert self.conditions_ is not None
            context = encode(self.conditions_, given, strict=weights is None)
        return encode(self.schema_, frame, strict=fit and weights is None), context

    def _frame(self, X: Any, fit: bool) -> pd.DataFrame:  # noqa: N803
        """The columns of X, by their names or else x0, x1, ..."""
        framed = isinstance(X, pd.DataFrame)
        if fit:
            self.framed_ = framed
        if framed:
            validate_data(self, X, reset=fit, skip_check_array=True)
            if fit and len(X) < 2:
                raise ValueError(f"Found array with {len(X)} sample(s), 2 are required: give more.")
            return X.set_axis([str(name) for name in X.columns], axis=1).reset_index(drop=True)
        options: dict[str, Any] = {"dtype": np.float64, "ensure_all_finite": "allow-nan"}
        try:
            rows = validate_data(self, X, reset=fit, ensure_min_samples=2 if fit else 1, **options)
        except ValueError as error:
            if "convert string to float" not in str(error):
                raise
            raise ValueError(
                f"{error}: give a pandas DataFrame, whose columns may be text."
            ) from error
        if np.isinf(rows).any():
            raise ValueError("Input X contains infinity: correct or empty such cells.")
        return pd.DataFrame(rows, columns=[f"x{i}" for i in range(rows.shape[1])])

    def _find(self, frame: pd.DataFrame, given: pd.DataFrame | None) -> None:
        """Find the schemas of both parts."""
        kinds = dict(self.kinds or {})
        self.conditions_ = None
        if given is not None:
            asked = {name: kinds.pop(name) for name in given.columns if name in kinds}
            if isinstance(self.context, str) and self.context == "classes":
                asked = dict.fromkeys(given.columns, "category")
            self.conditions_ = find_schema(without_copies(given), asked)
        self.schema_ = find_schema(without_copies(frame), kinds)
        self.left_out_ = {}
        for column in self.schema_.columns:
            if isinstance(column, LeftOutColumn):
                values = frame[column.name]
                one = values.head(1).reset_index(drop=True)
                self.left_out_[column.name] = one if values.nunique() == 1 else one.mask([True])

    def _targets(self, fit: bool) -> list[str] | None:
        if fit or self.conditions_ is None:
            return None
        return [column.name for column in self.conditions_.modelled]

    def _target(self) -> str | None:
        """The name of the target, of which an array has the position."""
        return f"x{self.target}" if isinstance(self.target, int) else self.target

    def _unless_there(self, names: Sequence[str], y: Any) -> str | None:
        """The name of the target, unless it is a column of X."""
        name = self._target()
        if name is None or name in names:
            return None
        if y is None or isinstance(self.context, str):
            raise ValueError(
                f"target names the column {name!r}, which X does not have: choose among "
                f"{', '.join(names)}, or give it as y, without a context of y."
            )
        return name

    def _joined(self, frame: pd.DataFrame, y: Any, name: str) -> pd.DataFrame:
        """The table with y as its last column."""
        if y is None:
            raise ValueError(f"the density is that of X and y, its column {name!r}: give y.")
        check_consistent_length(frame, y)
        values = pd.Series(np.asarray(y).ravel() if not hasattr(y, "dtype") else y)
        return frame.assign(**{name: values.reset_index(drop=True)})

    def _names(self) -> list[str]:
        """The columns of X as frames have them."""
        found = getattr(self, "feature_names_in_", None)
        if found is None:
            return [f"x{i}" for i in range(self.n_features_in_)]
        return [str(name) for name in found]

    def _conditions(self, names: Sequence[str]) -> list[str]:
        """The names of the columns that are context."""
        found = [f"x{name}" if isinstance(name, int) else str(name) for name in self.context]
        unknown = [name for name in found if name not in names]
        if unknown:
            raise ValueError(
                f"context names the column {unknown[0]!r}, which X does not have: choose among "
                f"{', '.join(names)}."
            )
        if not found or len(found) == len(names):
            raise ValueError("context must leave out at least one column, and name at least one.")
        return found

    def _context_of(self, context: Any, rows: int) -> tuple[Array | None, pd.DataFrame | None]:
        """The context of so many new rows, encoded and as a table."""
        if self.conditions_ is None:
            if context is not None:
                raise ValueError("the density is not conditional: leave context out.")
            return None, None
        names = [column.name for column in self.conditions_.columns]
        if context is None:
            raise ValueError(f"the density is conditional: give the context ({', '.join(names)}).")
        frame = as_frame(context, names)
        if len(frame) == 1:
            frame = frame.loc[[0] * rows].reset_index(drop=True)
        if len(frame) != rows:
            raise ValueError(f"the context has {len(frame)} rows: give 1 or {rows}.")
        return encode(self.conditions_, frame), frame

    def _to_output(self, x: Array, frame: pd.DataFrame | None) -> Any:
        """Modelled columns and the context, if it is of X, in the order and of the types of X.

        What was left out is there again: its constant, or gaps.
        """
        rows = decode(self.schema_, x)
        if frame is not None and not isinstance(self.context, str):
            rows = pd.concat([rows, frame], axis=1)
        names = self._names() + ([] if self.joined_ is None else [self.joined_])
        for name, values in self.left_out_.items():
            rows[name] = values.repeat(len(rows)).reset_index(drop=True)
        if self.framed_:
            return rows[names]
        values = rows[names].to_numpy(dtype=np.float64)
        container = _get_output_config("transform", self)["dense"]
        if container == "default":
            return values
        return ADAPTERS_MANAGER.adapters[container].create_container(values, values, columns=names)


def without_copies(frame: pd.DataFrame) -> pd.DataFrame:
    """The distinct rows of a table whose equal rows are copies, as those of a bootstrap are.

    They are where two columns have no value twice in the distinct rows. Else a value is repeated
    because it is likely, which says what its column is.
    """
    rows = frame.drop_duplicates()
    if len(rows) == len(frame):
        return frame
    return rows if sum(rows[name].is_unique for name in rows) > 1 else frame


def as_frame(values: Any, names: Sequence[Any] | None) -> pd.DataFrame:
    """Columns of these names from a table that has them, or from an array `(n,)` or `(n, k)`."""
    if isinstance(values, pd.Series):
        values = values.to_frame(values.name if values.name is not None else "y0")
    if isinstance(values, pd.DataFrame) and (
        names is None or {*names} <= {str(name) for name in values.columns}
    ):
        values = values.set_axis([str(name) for name in values.columns], axis=1)
        return values[list(values.columns if names is None else names)].reset_index(drop=True)
    array = np.asarray(values)
    array = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
    names = [f"y{i}" for i in range(array.shape[1])] if names is None else list(names)
    if array.shape[1] != len(names):
        raise ValueError(
            f"the context has {array.shape[1]} columns where fit had {len(names)}: give those."
        )
    return pd.DataFrame(array, columns=names).infer_objects()


def as_tensors(x: Array, context: Array | None) -> tuple[Tensor, Tensor | None]:
    """Copies, since arrays may be read-only."""
    return torch.tensor(x), None if context is None else torch.tensor(context)

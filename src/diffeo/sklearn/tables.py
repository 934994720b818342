"""Rows in and out: arrays and tables, of which some columns may be context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils._set_output import ADAPTERS_MANAGER, _get_output_config
from sklearn.utils.validation import check_array, check_consistent_length, validate_data
from torch import Tensor

Array = NDArray[Any]
TARGET, CLASSES = "target", "classes"


class TableReader:
    """How an estimator reads X and y, by its `context` (see `FlowDensity`), and gives rows back."""

    context: Any
    n_features_in_: int
    encoder_: Encoder

    def _read(self, X: Any, y: Any, *, fit: bool = False) -> tuple[Array, Array | None]:  # noqa: N803
        """What is modelled `(n, d)`, and its context `(n, k)` or None, both float64.

        Raises:
            ValueError: if X or y is no such table, or y is missing.
        """
        options: dict[str, Any] = {"dtype": np.float64, "ensure_min_samples": 2 if fit else 1}
        if self.context is None:
            return validate_data(self, X, reset=fit, **options), None
        if isinstance(self.context, str):
            if self.context not in (TARGET, CLASSES):
                raise ValueError(
                    f"context is {self.context!r}: choose 'target', 'classes', a list of columns "
                    "or None."
                )
            if y is None:
                raise ValueError(
                    f"context={self.context!r} requires y to be passed, but the target y is None: "
                    "give what each row is conditional on."
                )
            x = validate_data(self, X, reset=fit, **options)
            frame = as_frame(y, None if fit else self.encoder_.columns)
        else:
            validate_data(self, X, reset=fit, skip_check_array=True)
            names = self._names()
            table = as_frame(X, names)
            x = check_array(table[self._others(names)], estimator=self, **options)
            frame = table[list(self.context)]
        check_consistent_length(x, frame)
        if fit:
            self.encoder_ = Encoder(
                frame, classes=isinstance(self.context, str) and self.context == CLASSES
            )
        return x, self.encoder_(frame)

    def _names(self) -> list[Any]:
        """The columns of X: by name if they have one, else by position."""
        return list(getattr(self, "feature_names_in_", range(self.n_features_in_)))

    def _others(self, names: Sequence[Any]) -> list[Any]:
        """The columns that are modelled."""
        strange = [name for name in self.context if name not in names]
        if strange:
            raise ValueError(
                f"context names the column {strange[0]!r}, which X does not have: choose among "
                f"{', '.join(map(str, names))}."
            )
        others = [name for name in names if name not in self.context]
        if not others or not len(self.context):
            raise ValueError("context must leave out at least one column, and name at least one.")
        return others

    def _given(self, context: Any, rows: int) -> tuple[Tensor | None, pd.DataFrame | None]:
        """The context of so many new rows, as numbers and as a table.

        Raises:
            ValueError: if it is missing, superfluous or of another length.
        """
        if self.context is None:
            if context is not None:
                raise ValueError("the density is not conditional: leave context out.")
            return None, None
        if context is None:
            names = ", ".join(map(str, self.encoder_.columns))
            raise ValueError(f"the density is conditional: give the context ({names}).")
        frame = as_frame(context, self.encoder_.columns)
        if len(frame) == 1:
            frame = frame.loc[[0] * rows].reset_index(drop=True)
        if len(frame) != rows:
            raise ValueError(f"the context has {len(frame)} rows: give 1 or {rows}.")
        return torch.from_numpy(self.encoder_(frame)), frame

    def _rows_out(self, x: Array, frame: pd.DataFrame | None) -> Any:
        """Modelled columns, and those of the context if they are of X, in the order of X."""
        names = self._names()
        if frame is not None and not isinstance(self.context, str):
            table = pd.concat([pd.DataFrame(x, columns=self._others(names)), frame], axis=1)[names]
            if len(self.encoder_.classes):
                return table
            x = table.to_numpy(dtype=np.float64)
        wanted = _get_output_config("transform", self)["dense"]
        if wanted == "default":
            return x
        labels = [name if isinstance(name, str) else f"x{name}" for name in names]
        return ADAPTERS_MANAGER.adapters[wanted].create_container(x, x, columns=labels)


class Encoder:
    """From the columns of a context to numbers: a 0 or 1 for each class; numbers as they are.

    Args:
        frame: `(n, columns)`, what the estimator is fitted to.
        classes: whether numbers name classes too; text, truth values and categories do.
    """

    def __init__(self, frame: pd.DataFrame, classes: bool = False) -> None:
        self.columns = list(frame.columns)
        self.classes = [name for name in self.columns if classes or not _is_number(frame[name])]
        one_hot = OneHotEncoder(sparse_output=False)
        self.encoder = ColumnTransformer(
            [("classes", one_hot, [str(name) for name in self.classes])], remainder="passthrough"
        )
        self.encoder.fit(_named(frame))

    def __call__(self, frame: pd.DataFrame) -> Array:
        """Encode `(n, columns)`: `(n, features)`.

        Raises:
            ValueError: at a class that was not there in `fit`, or at what is no finite number.
        """
        values = self.encoder.transform(_named(frame))
        return check_array(values, dtype=np.float64, input_name="context")


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """With text as names of columns, as scikit-learn wants them."""
    return frame.set_axis([str(name) for name in frame.columns], axis=1)


def _is_number(column: pd.Series) -> bool:
    numeric = pd.api.types.is_numeric_dtype(column.dtype)
    return numeric and not pd.api.types.is_bool_dtype(column.dtype)


def as_frame(values: Any, names: Sequence[Any] | None) -> pd.DataFrame:
    """Columns of these names from a table that has them, or from an array `(n,)` or `(n, k)`.

    Raises:
        ValueError: if there are more or fewer of them.
    """
    if isinstance(values, pd.DataFrame) and names is not None and set(names) <= set(values.columns):
        return values[list(names)].reset_index(drop=True)
    if isinstance(values, pd.DataFrame) and names is None:
        return values.reset_index(drop=True)
    array = np.asarray(values)
    array = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
    names = list(range(array.shape[1])) if names is None else list(names)
    if array.shape[1] != len(names):
        raise ValueError(
            f"the context has {array.shape[1]} columns where fit had {len(names)}: give those."
        )
    return pd.DataFrame(array, columns=names).infer_objects()

"""Read arrays and tables, some of whose columns may be context, and return rows in their form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from sklearn.utils._set_output import ADAPTERS_MANAGER, _get_output_config
from sklearn.utils.validation import check_array, check_consistent_length, validate_data
from torch import Tensor

from diffeo.context import Category, ContextSpec, Number, Variable

Array = NDArray[Any]


class TableReader:
    """Reads X and y of an estimator by its `context` (see `FlowDensity`), and returns rows."""

    context: Any
    n_features_in_: int
    encoder_: Encoder

    def _read(self, X: Any, y: Any, *, fit: bool = False) -> tuple[Array, Array | None]:  # noqa: N803
        """The modelled columns `(n, d)`, and the context `(n, k)` or None, both float64."""
        options: dict[str, Any] = {"dtype": np.float64, "ensure_min_samples": 2 if fit else 1}
        if self.context is None:
            with _naming_text(X):
                return validate_data(self, X, reset=fit, **options), None
        if isinstance(self.context, str):
            if y is None:
                raise ValueError(
                    f"context={self.context!r} requires y to be passed, but the target y is None: "
                    "give what each row is conditional on."
                )
            with _naming_text(X):
                x = validate_data(self, X, reset=fit, **options)
            frame = as_frame(y, None if fit else self.encoder_.columns)
        else:
            validate_data(self, X, reset=fit, skip_check_array=True)
            names = self._names()
            table = as_frame(X, names)
            modelled = table[self._modelled(names)]
            with _naming_text(modelled):
                x = check_array(modelled, estimator=self, **options)
            frame = table[list(self.context)]
        check_consistent_length(x, frame)
        if fit:
            classes = isinstance(self.context, str) and self.context == "classes"
            self.encoder_ = Encoder(frame, classes)
        return x, self.encoder_(frame)

    def _names(self) -> list[Any]:
        """The columns of X: their names, or else their positions."""
        return list(getattr(self, "feature_names_in_", range(self.n_features_in_)))

    def _modelled(self, names: Sequence[Any]) -> list[Any]:
        """The columns that are not context."""
        unknown = [name for name in self.context if name not in names]
        if unknown:
            raise ValueError(
                f"context names the column {unknown[0]!r}, which X does not have: choose among "
                f"{', '.join(map(str, names))}."
            )
        others = [name for name in names if name not in self.context]
        if not others or not len(self.context):
            raise ValueError("context must leave out at least one column, and name at least one.")
        return others

    def _context_of(self, context: Any, rows: int) -> tuple[Array | None, pd.DataFrame | None]:
        """The context of so many new rows, encoded and as a table."""
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
        return self.encoder_(frame), frame

    def _to_output(self, x: Array, frame: pd.DataFrame | None) -> Any:
        """Modelled columns and the context, if it is of X, in the order of X."""
        names = self._names()
        if frame is not None and not isinstance(self.context, str):
            modelled = pd.DataFrame(x, columns=self._modelled(names))
            table = pd.concat([modelled, frame], axis=1)[names]
            if self.encoder_.classes:
                return table
            x = table.to_numpy(dtype=np.float64)
        container = _get_output_config("transform", self)["dense"]
        if container == "default":
            return x
        labels = [name if isinstance(name, str) else f"x{name}" for name in names]
        return ADAPTERS_MANAGER.adapters[container].create_container(x, x, columns=labels)


class Encoder:
    """Encodes the columns of a context: 0s and a 1 for classes, numbers as they are.

    Text, truth values and categories are classes; with `classes` numbers are too. `spec` is the
    context as a flow knows it.
    """

    def __init__(self, frame: pd.DataFrame, classes: bool) -> None:
        self.columns = list(frame.columns)
        self.classes = {}
        variables: list[Variable] = []
        for name in self.columns:
            column = frame[name]
            if is_bool_dtype(column.dtype) or not is_numeric_dtype(column.dtype) or classes:
                levels = pd.factorize(column, sort=True, use_na_sentinel=False)[1]
                self.classes[name] = pd.Index(levels)
                variables.append(Category(str(name), tuple(map(str, levels))))
            else:
                variables.append(Number(str(name)))
        self.spec = ContextSpec(tuple(variables))

    def __call__(self, frame: pd.DataFrame) -> Array:
        """Encode `(n, columns)`: `(n, features)`."""
        parts = []
        for name in self.columns:
            part = frame[[name]].to_numpy()
            if name in self.classes:
                places = self.classes[name].get_indexer(frame[name])
                if (places < 0).any():
                    unknown = set(frame[name][places < 0])
                    raise ValueError(f"unknown categories in {name}: {unknown}.")
                part = np.eye(len(self.classes[name]))[places]
            parts.append(part)
        return check_array(np.hstack(parts), dtype=np.float64, input_name="context")


def as_frame(values: Any, names: Sequence[Any] | None) -> pd.DataFrame:
    """Columns of these names from a table that has them, or from an array `(n,)` or `(n, k)`."""
    if isinstance(values, pd.DataFrame) and (names is None or set(names) <= set(values.columns)):
        names = values.columns if names is None else names
        return values[list(names)].reset_index(drop=True)
    array = np.asarray(values)
    array = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
    names = list(range(array.shape[1])) if names is None else list(names)
    if array.shape[1] != len(names):
        raise ValueError(
            f"the context has {array.shape[1]} columns where fit had {len(names)}: give those."
        )
    return pd.DataFrame(array, columns=names).infer_objects()


@contextmanager
def _naming_text(values: Any) -> Iterator[None]:
    """Names the column where scikit-learn finds text among the numbers of a table."""
    try:
        yield
    except ValueError as error:
        if "convert string to float" not in str(error):
            raise
        frame = pd.DataFrame(values)
        for name in frame.columns:
            bad = pd.to_numeric(frame[name], errors="coerce").isna() & frame[name].notna()
            if bad.any():
                row = int(bad.to_numpy().argmax())
                raise ValueError(
                    f"column {name!r} is not numeric, row {row} holds {frame[name].iloc[row]!r}: "
                    "leave it out, name it in context, or encode it as numbers."
                ) from error
        raise


def as_tensors(x: Array, context: Array | None) -> tuple[Tensor, Tensor | None]:
    """Copies, since arrays may be read-only."""
    return torch.tensor(x), None if context is None else torch.tensor(context)

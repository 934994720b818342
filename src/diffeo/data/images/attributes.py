"""Attributes of images: encoded as columns of numbers, and chosen as context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffeo.context import Category, ContextSpec, Number, Variable
from diffeo.data.files import listing, suggestion

Label = int | str | None
# For each attribute its columns `[images, 1]`, or `[images, values]` of a category.
Columns = dict[Variable, NDArray[np.float32]]

MOST_TEXTS = 50  # a column of more holds names or sentences, whose values are of little use
MOST_CLASSES = 256  # of labels, each of which costs a column
NUMERIC = ("boolean", "integer", "floating", "mixed-integer-float")


def encode(table: Any) -> Columns:
    """The columns of each attribute of a DataFrame; NaN stands for what is missing or infinite.

    A text is a category of its values in alphabetical order. An attribute of more than `MOST_TEXTS`
    texts is left out, as is one that mixes texts and numbers or that no image has.
    """
    import pandas

    encoded: Columns = {}
    for name, column in table.items():
        kind = pandas.api.types.infer_dtype(column, skipna=True)
        if kind == "string":
            places, values = pandas.factorize(column, sort=True)
            if len(values) <= MOST_TEXTS:
                encoded[Category(name, tuple(values))] = _one_hot(places, len(values))
        elif kind in NUMERIC and not column.isna().all():
            with np.errstate(over="ignore"):
                numbers = column.where(column.notna(), np.nan).to_numpy(np.float32)
            encoded[Number(name)] = np.where(np.isfinite(numbers), numbers, np.nan)[:, None]
    return encoded


def _one_hot(places: NDArray[np.int64], values: int) -> NDArray[np.float32]:
    """Columns of 0 and 1 `[images, values]`, NaN where a place `[images]` is negative."""
    columns = (places[:, None] == np.arange(values)).astype(np.float32)
    columns[places < 0] = np.nan
    return columns


def number_labels(
    labels: Sequence[Label], names: list[str] | None = None
) -> tuple[NDArray[np.int64], list[str]]:
    """Labels as numbers `[images]`, -1 where there is none, and the names of these numbers.

    Labels of a source that names its classes are numbers already. Of others, those that occur are
    numbered in their order.
    """
    import pandas

    if names is None:
        places, found = pandas.factorize(np.array(labels, dtype=object), sort=True)
        return places.astype(np.int64), [str(label) for label in found]
    known = dict.fromkeys(range(len(names)))
    return np.array([label if label in known else -1 for label in labels], dtype=np.int64), names


def encode_labels(
    name: str, labels: Sequence[Label], numbers: NDArray[np.int64], names: list[str]
) -> Columns:
    """Labels as a category of at most `MOST_CLASSES` values, or truth values as a number."""
    if not 0 < len(names) <= MOST_CLASSES:
        return {}
    if all(isinstance(label, bool) for label in labels if label is not None):
        truth = [np.nan if label is None else label for label in labels]
        return {Number(name): np.array(truth, dtype=np.float32)[:, None]}
    return {Category(name, tuple(names)): _one_hot(numbers, len(names))}


def choose(source: str, attributes: ContextSpec, wanted: Sequence[str]) -> ContextSpec:
    """The context that a user means by names such as `filled`, `shape` or `shape=circle`.

    An attribute comes as it is; a single value of a category becomes a number, 0 or 1.

    Raises:
        ValueError: a name that is unknown or chosen twice.
    """
    known: dict[str, Variable] = {column: Number(column) for column in attributes.columns}
    known |= {variable.name: variable for variable in attributes.variables}
    chosen: list[Variable] = []
    for name in wanted:
        if not known:
            raise ValueError(
                f"{source}: its images have no attributes, no '{name}': leave out --data.context"
            )
        if name not in known:
            raise ValueError(
                f"{source} has no attribute '{name}'{suggestion(name, known)}: "
                f"it has {listing(attributes.columns)}"
            )
        before = {column for variable in chosen for column in variable.columns}
        twice = [column for column in known[name].columns if column in before]
        if twice:
            raise ValueError(
                f"{source}: attribute '{twice[0]}' is chosen twice: name it once in --data.context"
            )
        chosen.append(known[name])
    return ContextSpec(tuple(chosen))


def context_columns(
    source: str, attributes: ContextSpec, values: Tensor, context: ContextSpec
) -> Tensor:
    """The columns of a context `[images, width]` from those of all attributes `[images, columns]`.

    Categories of the context may have values that no image has.

    Raises:
        ValueError: an attribute that is unknown, or that an image lacks or has another value of.
    """
    parts = [_part(source, attributes, values, variable) for variable in context.variables]
    found = torch.cat(parts, dim=1)
    gaps = zip(context.columns, found.isnan().sum(0).tolist(), strict=True)
    lacking = [f"{gap} of {len(values)} lack '{name}'" for name, gap in gaps if gap]
    if lacking:
        raise ValueError(
            f"{source}: not every image has the context, {listing(lacking, 5)}: fill them in, or "
            "leave these out of --data.context"
        )
    for variable, part in zip(context.variables, parts, strict=True):
        others = int((part == 0).all(1).sum())
        if isinstance(variable, Category) and others:
            raise ValueError(
                f"{source}: {others} of {len(values)} have another '{variable.name}' than the "
                f"context, whose values are {listing(variable.values)}: leave these images out"
            )
    return found


def _part(source: str, attributes: ContextSpec, values: Tensor, variable: Variable) -> Tensor:
    """The columns of one variable of a context `[images, its columns]`."""
    known = {own.name: (own, values[:, part]) for own, part in attributes.parts()}
    own, found = known.get(variable.name, (None, values))
    if isinstance(variable, Category) and isinstance(own, Category):
        none = torch.zeros(len(values))
        columns = dict(zip(own.values, found.T, strict=True))
        return torch.stack([columns.get(value, none) for value in variable.values], dim=1)
    if isinstance(variable, Number) and isinstance(own, Number):
        return found
    if isinstance(variable, Number) and variable.name in attributes.columns:
        return values[:, attributes.columns.index(variable.name), None]
    choose(source, attributes, [variable.name])  # which knows better what is wrong
    raise ValueError(
        f"{source}: attribute '{variable.name}' is of another kind than the context's: give "
        "images with the attribute of the training"
    )

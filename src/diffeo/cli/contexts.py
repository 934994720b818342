"""The context of samples: what the user fixes, and chance for the rest."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from diffeo.context import Category, ContextSpec, Number, Variable
from diffeo.data.datasets import evenly, weights_of
from diffeo.data.files import listing, suggestion
from diffeo.data.tables.loading import BATCH_ROWS
from diffeo.data.tables.mixed import as_context, encode_rows
from diffeo.data.tables.opening import TableOptions, open_table
from diffeo.data.tables.reading import read_frame
from diffeo.models.mixed import MixedFlow
from diffeo.run import Run
from diffeo.schema import Schema


@dataclass(frozen=True)
class Contexts:
    """Draws the contexts of samples.

    Args:
        spec: the variables of the context.
        values: for the name of each variable that the user fixes, the values of its columns.
        rows: what the others are drawn from, `[rows, spec.width]`; None to draw classes, all being
            equally likely.
    """

    spec: ContextSpec
    values: dict[str, list[float]]
    rows: Tensor | None = None

    def __call__(self, count: int, seed: int | None) -> Tensor:
        """One row for all of `count` samples, or `[count, spec.width]`."""
        generator = Generator()
        generator.seed() if seed is None else generator.manual_seed(seed + 1)
        if self.rows is not None:
            context = self.rows[torch.randint(len(self.rows), (count,), generator=generator)]
        else:
            fixed = len(self.values) == len(self.spec.variables)
            context = torch.zeros(1 if fixed else count, self.spec.width)
        for variable, columns in self.spec.parts():
            if variable.name in self.values:
                context[:, columns] = torch.tensor(self.values[variable.name])
            elif self.rows is None:
                classes = columns.stop - columns.start
                drawn = torch.randint(classes, (count,), generator=generator)
                context[:, columns] = F.one_hot(drawn, classes).float()
        return context


def choose_contexts(run: Run, context: str | None, label: str | None = None) -> Contexts | None:
    """The contexts that `--context age=40,label=3` and `--label 3` ask for, if the model takes any.

    If a number is left open, all that is left open comes from random rows of the training split.

    Raises:
        ValueError: if the model has no such context, or the training split is not available.
    """
    spec = run.flow.context
    words = [] if context is None else [word.strip() for word in context.split(",")]
    words += [] if label is None else [f"label={label}"]
    if not spec:
        if words:
            raise ValueError(f"{run.folder} takes no context: leave --context and --label out.")
        return None
    flow = run.flow
    if isinstance(flow, MixedFlow):
        values = dict(_cell(flow, word) for word in words)
    else:
        values = dict(_value(word, spec) for word in words)
    unset = [variable for variable in spec.variables if variable.name not in values]
    if not any(isinstance(variable, Number) for variable in unset):
        return Contexts(spec, values)
    if words and not run.config_file.is_file():
        raise _wrong(",".join(words), spec)
    rows = run.data().train
    known = rows.context
    if known is not None and weights_of(rows) is not None:
        known = known[evenly(rows, len(rows))]
    return Contexts(spec, values, known)


def read_contexts(run: Run, source: str, draws: int) -> Tensor:
    """The contexts in the rows of a table, each for so many draws: `[rows * draws, width]`.

    It has a column for each variable by its name; a category holds its values as texts or numbers.

    Raises:
        ValueError: if the model takes no context, or the table lacks a column, or holds a value
            that is none of the variable's.
    """
    spec = run.flow.context
    if not spec:
        raise ValueError(f"{run.folder} takes no context: leave --contexts out.")
    if isinstance(run.flow, MixedFlow) and run.flow.conditions is not None:
        frame = read_frame(TableOptions(source, **run.form))
        known = encode_rows(run.flow.conditions, frame)
        return run.flow.as_context(known).repeat_interleave(draws, dim=0)
    table = open_table(TableOptions(source))
    names = [variable.name for variable in spec.variables]
    for name in names:
        if name not in table.columns:
            raise ValueError(
                f"{source} lacks the column '{name}'{suggestion(name, table.columns)}: the context "
                f"is {listing(names)}."
            )
    parts = []
    for first, chunk in table.chunks(names, None, BATCH_ROWS):
        encoded = [_encode(v, chunk[v.name].tolist(), source, first) for v in spec.variables]
        parts.append(torch.cat(encoded, dim=1))
    if not parts:
        raise ValueError(f"{source} has no rows: write a context into each.")
    return torch.cat(parts).repeat_interleave(draws, dim=0)


def _encode(variable: Variable, values: list[Any], source: str, first: int) -> Tensor:
    """The columns of a variable `[rows, columns]`; `first` is the number of the first row."""
    rows = []
    for row, value in enumerate(values, first):
        where = f"{source}: '{variable.name}' is {value!r} in row {row}"
        if isinstance(variable, Category):
            whole = isinstance(value, float) and value.is_integer()
            text = str(int(value)) if whole else str(value)
            if text not in variable.values:
                raise ValueError(f"{where}: choose one of {listing(variable.values)}.")
            rows.append([float(text == known) for known in variable.values])
        else:
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                raise ValueError(f"{where}: give it a finite number.")
            rows.append([number])
    return torch.tensor(rows)


def _value(word: str, spec: ContextSpec) -> tuple[str, list[float]]:
    """The variable of a word NAME=VALUE, and the values of its columns.

    Names and classes may contain "=", so the known variables decide where the name ends.
    """
    for variable in sorted(spec.variables, key=lambda known: len(known.name), reverse=True):
        name, found = variable.name, re.fullmatch(rf"{re.escape(variable.name)}\s*=\s*(.*)", word)
        if found is None:
            continue
        if isinstance(variable, Category):
            if found[1] not in variable.values:
                choices = ", ".join(variable.values)
                raise ValueError(f"there is no {word}: choose {name} from {choices}.")
            return name, [float(found[1] == value) for value in variable.values]
        try:
            value = float(found[1])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"--context is '{word}': give {name} a finite number.")
        return name, [value]
    raise _wrong(word, spec)


def _cell(flow: MixedFlow, word: str) -> tuple[str, list[float]]:
    """As `_value`, of a column of a mixed table, whose cell is written as in the table."""
    import pandas

    name, equals, text = word.partition("=")
    for i, variable in enumerate(flow.context.variables):
        if equals and variable.name == name.strip() and flow.conditions is not None:
            one = Schema((flow.conditions.modelled[i],))
            frame = pandas.DataFrame({variable.name: [text.strip() or None]}, dtype=object)
            return variable.name, as_context(one, encode_rows(one, frame))[0].tolist()
    raise _wrong(word, flow.context)


def _wrong(words: str, spec: ContextSpec) -> ValueError:
    kinds = [(known.name, isinstance(known, Number)) for known in spec.variables]
    wanted = ",".join(f"{name}={'VALUE' if number else 'NAME'}" for name, number in kinds)
    return ValueError(f"--context is '{words}': give {wanted}.")

"""The context of samples: what the user says, and chance for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from jsonargparse import Namespace
from torch import Generator, Tensor

from diffeo.run import Run


@dataclass(frozen=True)
class Contexts:
    """How the contexts of samples are drawn.

    Args:
        names: of the columns.
        values: what is said of some.
        rows: what the others come from, `(rows, context_features)`; None to draw classes.
    """

    names: list[str]
    values: dict[str, float]
    rows: Tensor | None = None

    @classmethod
    def said(cls, options: Namespace, run: Run) -> Self | None:
        """Those of --context and --label; None for an unconditional model.

        A column called `label=3` is a class of `label`: `--context label=3`, for which `--label 3`
        is short, sets it to 1 and the other classes to 0. Any other column is a number, as in
        `--context age=40`. Where numbers are left unsaid, all that is left unsaid comes from rows
        of the training split, drawn at random; classes alone are drawn, all being equally likely.

        Raises:
            ValueError: if the model has no such context, or numbers are unsaid and the training
                split is not at hand.
        """
        names = run.context_columns
        said = [] if options.context is None else options.context.split(",")
        said += [] if options.label is None else [f"label={options.label}"]
        if not names:
            if said:
                option = "--label" if options.context is None else "--context"
                raise ValueError(f"{options.run} takes no context: leave {option} out.")
            return None
        values = _values([word.strip() for word in said], names)
        if all("=" in name or name in values for name in names):
            return cls(names, values)
        if said and not run.config_file.is_file():
            raise _unread(said, names)
        return cls(names, values, run.data().train.context)

    def __call__(self, count: int, seed: int | None) -> Tensor:
        """One row for all of `count` samples, or `(count, context_features)`."""
        generator = Generator()
        generator.seed() if seed is None else generator.manual_seed(seed + 1)
        if self.rows is not None:
            context = self.rows[torch.randint(len(self.rows), (count,), generator=generator)]
        else:
            context = torch.zeros(1, len(self.names))
            groups = _classes(self.names).values()
            unsaid = [group for group in groups if group[0] not in self.values]
            if unsaid:
                context = context.repeat(count, 1)
            for group in unsaid:
                columns = torch.tensor([self.names.index(name) for name in group])
                drawn = columns[torch.randint(len(group), (count,), generator=generator)]
                context[torch.arange(count), drawn] = 1.0
        for name, value in self.values.items():
            context[:, self.names.index(name)] = value
        return context


def sample_context(options: Namespace, run: Run, count: int) -> Tensor | None:
    """The context of samples as `Contexts` draws it, by --seed.

    Raises:
        ValueError: as `Contexts.said`.
    """
    contexts = Contexts.said(options, run)
    return None if contexts is None else contexts(count, options.seed)


def _values(said: list[str], names: list[str]) -> dict[str, float]:
    """Of each column of which something is said, its value."""
    classes, numbers = _classes(names), [name for name in names if "=" not in name]
    values: dict[str, float] = {}
    for word in said:
        name, _, value = word.partition("=")
        name = name.strip()
        if name in classes:
            if word not in names:
                choices = ", ".join(column.partition("=")[2] for column in classes[name])
                raise ValueError(f"there is no {word}: choose {name} from {choices}.")
            values |= {column: float(column == word) for column in classes[name]}
            continue
        try:
            values[name] = float(value)
        except ValueError as error:
            raise _unread(said, names) from error
        if name not in numbers:
            raise _unread(said, names)
    return values


def _unread(said: list[str], names: list[str]) -> ValueError:
    wanted = [f"{name}=VALUE" for name in names if "=" not in name]
    wanted += [f"{name}=NAME" for name in _classes(names)]
    return ValueError(f"--context is '{','.join(said)}': give {','.join(wanted)}.")


def _classes(names: list[str]) -> dict[str, list[str]]:
    """The columns of each choice among classes: `{"label": ["label=0", "label=1", ...]}`."""
    classes: dict[str, list[str]] = {}
    for name in names:
        if "=" in name:
            classes.setdefault(name.partition("=")[0], []).append(name)
    return classes

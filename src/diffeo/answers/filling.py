"""Fill the empty cells of a table by what its other cells say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor

from diffeo.answers.spread import given_all_others
from diffeo.data.tables.frames import decode, write_number
from diffeo.data.tables.grids import Floats
from diffeo.mixed.growing import pick
from diffeo.mixed.posterior import MixturePosterior
from diffeo.mixed.tools import Tools
from diffeo.models.mixed import MixedFlow
from diffeo.schema import CategoryColumn, NumberColumn
from diffeo.utils.ranges import Count, Seed, checked

How = Literal["mean", "mode", "draw"]
PARTICLES = 128  # of a row with several empty cells
NUMBERS = 2**22  # that are held at once
FEW = 32  # values of a grid, up to which drawn rows repeat them


@checked
def fill(
    flow: MixedFlow,
    data: Any,
    how: How = "mean",
    *,
    draws: Count = 1,
    seed: Seed = 0,
    context: Tensor | None = None,
) -> Any:
    """The table with its empty cells filled, each by its distribution given the row's other cells.

    One empty cell in a row is filled exactly, by a sum or by quadrature. Several are filled by rows
    that the model's mixtures expect, weighted by the model.

    Args:
        flow: the model of the table.
        data: a DataFrame, or rows in the form of the model `(n, columns)`, NaN where empty.
        how: "mean" of numbers and the likeliest category; "mode", the likeliest value of each cell
            (of several numbers with many values, those of the likeliest row that was drawn);
            "draw" at random, which shows how uncertain they are.
        draws: how many tables are drawn, for multiple imputation; more than one give a list.
        seed: of the draws.
        context: of a conditional flow `(n, context_features)`.

    Returns:
        A DataFrame if one was given, otherwise a tensor.

    Raises:
        ValueError: if a cell is not one of the table, or several draws are asked of what is none.
    """
    if draws > 1 and how != "draw":
        raise ValueError(f"{draws} draws of the {how} are the same: take how='draw'.")
    frame = not isinstance(data, Tensor)
    x = _matrix(flow, data) if frame else data.to(flow.device, torch.float64)
    tables = fill_rows(flow, x, how, draws, seed, context)
    found = [_framed(flow, data, x, table) if frame else table for table in tables]
    return found[0] if draws == 1 else found


def _matrix(flow: MixedFlow, data: Any) -> Tensor:
    from diffeo.answers.asking import encode_gaps

    return torch.from_numpy(encode_gaps(flow.schema, data)).to(flow.device)


def _framed(flow: MixedFlow, data: Any, x: Tensor, table: Tensor) -> Any:
    """The DataFrame with new cells where they were empty, and others as they are."""
    decoded = decode(flow.schema, table.cpu().numpy())
    found = data.copy()
    gaps = x.isnan().cpu().numpy()
    for i, column in enumerate(flow.schema.modelled):
        if gaps[:, i].any():
            new = decoded[column.name].set_axis(data.index)
            old = found[column.name].dropna()
            if isinstance(column, NumberColumn) and old.map(type).eq(str).any():
                new = new.map(lambda value, c=column: _written(c, value))
            whole = found[column.name].where(~gaps[:, i], new)
            found[column.name] = new if gaps[:, i].all() else whole.infer_objects()
    return found


def _written(column: NumberColumn, value: Any) -> str:
    """A number as text, such as stands in the other cells of its column."""
    return value if isinstance(value, str) else write_number(column, float(value))


@torch.no_grad()
def fill_rows(
    flow: MixedFlow, x: Tensor, how: How, draws: int, seed: int, context: Tensor | None
) -> list[Tensor]:
    """Rows `(n, columns)` with their empty cells filled, as often as there are draws."""
    tools, source = Tools(flow.stack), Generator().manual_seed(seed)
    given = flow._encode_context(flow._check(x, context))
    table = x if given is None else torch.cat((given, x), 1)
    first = flow.stack.conditions
    gaps = table.isnan()
    gaps[:, :first] = False
    found = [table.clone() for _ in range(draws)]
    single = gaps.sum(1) == 1
    for place in range(first, table.shape[1]):
        which = (gaps[:, place] & single).nonzero()[:, 0]
        for rows in _chunks(which, 400):
            spread = given_all_others(tools, table[rows], place)
            number = not isinstance(tools.stack.layout.columns[place], CategoryColumn)
            for copy in found:
                value: Floats
                if how == "draw":
                    u = torch.rand(len(rows), generator=source, dtype=torch.float64)
                    value = spread.quantile(u.numpy())
                else:
                    value = spread.mean if number and how == "mean" else spread.mode
                copy[rows, place] = torch.from_numpy(np.asarray(value)).to(copy)
    several = (gaps.sum(1) > 1).nonzero()[:, 0]
    width = sum(group.mean.numel() + group.log_w.numel() for group in tools.kinds)
    for rows in _chunks(several, max(1, NUMBERS // (PARTICLES * max(width, 1)))):
        _fill_several(tools, table, gaps, rows, how, found, source)
    return [copy[:, first:] for copy in found]


def _chunks(which: Tensor, size: int) -> Iterator[Tensor]:
    for start in range(0, len(which), size):
        yield which[start : start + size]


def _fill_several(
    tools: Tools,
    table: Tensor,
    gaps: Tensor,
    rows: Tensor,
    how: How,
    found: list[Tensor],
    source: Generator,
) -> None:
    posterior = MixturePosterior(tools, table[rows], ~gaps[rows])
    x, log_q = posterior.draw(PARTICLES, source, filled=True)
    joint = tools.stack.log_joint(x.flatten(0, 1)).view_as(log_q)
    w = (joint - log_q).softmax(1)
    for copy in found:
        if how == "draw":
            u = torch.rand(len(rows), generator=source, dtype=torch.float64).to(w)
            value = x[torch.arange(len(rows)), pick(w, u)]
        else:
            best = x[torch.arange(len(rows)), joint.argmax(1)]
            value = best if how == "mode" else (w[..., None] * x.nan_to_num()).sum(1)
            for place in _repeating(tools, how):
                # By the weight of all rows that have a value.
                known, index = x[..., place].nan_to_num().unique(return_inverse=True)
                mass = w.new_zeros(len(rows), len(known)).scatter_add(1, index, w)
                value[:, place] = known[mass.argmax(1)]
        copy[rows] = torch.where(gaps[rows], value, table[rows])


def _repeating(tools: Tools, how: How) -> list[int]:
    """The places of categories, and of numbers of few values where their mode is asked for."""
    layout = tools.stack.layout
    inverses = [tools.inverse(0, c) for c in range(len(layout.numbers) * (how == "mode"))]
    few = [c for c, inverse in enumerate(inverses) if inverse.complete and len(inverse.x) <= FEW]
    return [*layout.categories, *(layout.numbers[c] for c in few)]

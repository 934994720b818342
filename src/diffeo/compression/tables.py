"""Tables in few bytes: each cell by its distribution given the cells before it."""

from __future__ import annotations

import io
import json
import lzma
import zlib
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffeo.compression.coder import OTHERWISE, Coder, Reader, Writer
from diffeo.compression.container import Container, check_sum, digest
from diffeo.compression.lattice import Floats, Lattice, lattices_of
from diffeo.compression.numbers import code_numbers
from diffeo.data.tables.frames import decode, encode
from diffeo.mixed.growing import Growing
from diffeo.mixed.parts import Parts
from diffeo.mixed.scores import Scores
from diffeo.mixed.tools import Tools
from diffeo.models.mixed import MixedFlow
from diffeo.schema import CategoryColumn
from diffeo.utils.files import parse_json
from diffeo.utils.machine import one_thread

ROWS = 1_024  # that grow at once, column by column
Limits = list[list[list[int]]]


def compress_table(flow: MixedFlow, frame: Any) -> bytes:
    """A pandas DataFrame as few bytes, from which `decompress_table` makes it again bit for bit.

        bits = -sum log2 P(cell | the cells before it in its row)

    for the cells of the columns that are modelled. A float of a column without a grid is a cell of
    its own, as wide as floats are apart there. Columns that are not modelled, and rows that the
    model cannot have, are compressed without it.

    Args:
        flow: a model of such tables without context, in float64, on the CPU.
        frame: with the columns of its schema. Its index is not in the file.

    Raises:
        ValueError: if a column is missing, or has a name that is no text, or constriction is
            missing.
    """
    _check(flow)
    if odd := [name for name in frame.columns if not isinstance(name, str)]:
        raise ValueError(f"column {odd[0]!r} has a name that is no text: rename it.")
    tools = Tools(flow.stack)
    x, coded = _coded_rows(tools, flow, frame)
    names = {column.name for column in flow.schema.modelled}
    others = [c for c in frame.columns if c not in names]
    writer = Writer()
    with one_thread(), torch.no_grad():
        limits = _limits(tools, x)
        for part in x.split(ROWS):
            _code(writer, tools, limits, len(part), part)
    return Container(
        kind="tables",
        model=digest(flow),
        facts={"rows": len(frame), "coded": len(x), "sum": check_sum(x)},
        parts={
            "limits": zlib.compress(json.dumps(limits).encode(), 9),
            "cells": writer.finish(),
            "others": _packed(frame.loc[coded, others]) if others else b"",
            "rows": _packed(frame[~coded]),
            "places": lzma.compress(np.packbits(coded).tobytes()) if not coded.all() else b"",
        },
    ).pack()


def decompress_table(flow: MixedFlow, data: bytes) -> Any:
    """The DataFrame of `compress_table`.

    Raises:
        ValueError: if the file is damaged, or was made with another model or by arithmetic that
            rounds otherwise, as that of another machine may.
    """
    import pandas

    _check(flow)
    container = Container.unpack(data, "tables", digest(flow))
    facts, parts = container.facts, container.parts
    rest, count = _unpacked(parts["rows"]), facts["coded"]
    limits = parse_json(zlib.decompress(parts["limits"]).decode())
    reader, found = Reader(parts["cells"]), []
    with one_thread(), torch.no_grad():
        tools = Tools(flow.stack)
        for start in range(0, count, ROWS):
            found.append(_code(reader, tools, limits, min(ROWS, count - start)))
    nothing = torch.zeros(0, len(flow.schema.modelled), dtype=torch.float64)
    x = torch.cat([nothing, *found])
    if check_sum(x) != facts["sum"]:
        raise ValueError(OTHERWISE)
    made = _typed(decode(flow.schema, x.numpy()), rest)
    if parts["others"]:
        made = pandas.concat([made, _unpacked(parts["others"])], axis=1)
    made = made[list(rest.columns)]
    if not parts["places"]:
        return made
    bits = np.frombuffer(lzma.decompress(parts["places"]), np.uint8)
    coded = np.unpackbits(bits, count=facts["rows"]).astype(bool)
    places = np.argsort(np.concatenate((coded.nonzero()[0], (~coded).nonzero()[0])))
    both = pandas.concat([made, rest], ignore_index=True)
    return both.iloc[places].reset_index(drop=True).astype(rest.dtypes.to_dict())


def _check(flow: MixedFlow) -> None:
    if flow.conditions is not None:
        raise ValueError(
            "this model is conditional, and compresses no tables: train one without context."
        )


def _coded_rows(tools: Tools, flow: MixedFlow, frame: Any) -> tuple[Tensor, Any]:
    """The rows `(n, columns)` that come back as they are, and which of the frame's they are."""
    matrix = encode(flow.schema, frame, strict=False)
    x = torch.from_numpy(matrix)
    for c, i in enumerate(flow.stack.layout.numbers):
        lattice, values = lattices_of(tools, c)[0], x[:, i]
        if not isinstance(lattice, Floats):
            known = lattice.values(lattice.keys(values.nan_to_num()))
            x[:, i] = torch.where(values.isnan(), torch.nan, known)
    again = _typed(decode(flow.schema, x.numpy()), frame)
    coded = np.ones(len(frame), dtype=bool)
    for column in flow.schema.modelled:
        old, new = frame[column.name].reset_index(drop=True), again[column.name]
        same = (old.isna() & new.isna()) | (old == new).fillna(False)
        coded &= same.to_numpy(dtype=bool)
        if old.dtype.kind == "f":  # -0.0 equals 0.0, and would come back as that
            coded &= ~(np.signbit(old.to_numpy()) & (old == 0).to_numpy())
    coded &= ~flow.impossible(x).any(1).numpy()
    for i, column in enumerate(flow.schema.modelled):
        if isinstance(column, CategoryColumn) and column.other:
            coded &= matrix[:, i] < len(column.values)
    return x[torch.from_numpy(coded)], coded


def _typed(made: Any, like: Any) -> Any:
    """A frame whose columns have the types that those of another have."""
    types = {name: like[name].dtype for name in made.columns}
    for name, dtype in types.items():
        if made[name].dtype != dtype:
            made[name] = made[name].astype(dtype)
    return made


def _limits(tools: Tools, x: Tensor) -> Limits:
    """The smallest and largest number of each lattice of each column; none where it has none."""
    found = []
    for c, i in enumerate(tools.stack.layout.numbers):
        values = x[:, i][~x[:, i].isnan()]
        lattices = lattices_of(tools, c)
        sides = [lattice.keys(values[lattice.has(values)]) for lattice in lattices]
        found.append([[int(k.amin()), int(k.amax())] if len(k) else [] for k in sides])
    return found


def _code(coder: Coder, tools: Tools, limits: Limits, n: int, rows: Tensor | None = None) -> Tensor:
    """Write rows `(n, columns)`, or read them."""
    growing = Growing(tools, n)
    while growing.at < len(tools.stack.layout.columns):
        known = None if rows is None else rows[:, growing.column]
        number, place = growing.next
        if number:
            value = _number(coder, growing, place, limits[place], known)
        else:
            value = _category(coder, growing, known)
        growing.put(value)
    return growing.x


def _category(coder: Coder, rows: Growing, known: Tensor | None) -> Tensor:
    column = rows.stack.layout.columns[rows.column]
    assert isinstance(column, CategoryColumn)
    symbols = None if known is None else known.nan_to_num(float(column.count)).long()
    found = coder.code(rows.log_probabilities().exp(), symbols)
    return torch.where(found == column.count, torch.nan, found.double())


def _number(
    coder: Coder, rows: Growing, c: int, limits: list[list[int]], known: Tensor | None
) -> Tensor:
    """Which cells are empty, on which lattice the others are, and where on it."""
    parts, found = rows.parts(), torch.full((len(rows),), torch.nan, dtype=torch.float64)
    filled = torch.arange(len(rows))
    if rows.stack.layout.gaps[c]:
        p = torch.stack((parts.gap, 1 - parts.gap), 1)
        filled = coder.code(p, None if known is None else (~known.isnan()).long()).nonzero()[:, 0]
    if not any(limits):
        return found
    x, parts = None if known is None else known[filled], parts.take(filled)
    lattices = lattices_of(rows.tools, c)
    side = torch.zeros(len(filled), dtype=torch.long)
    if all(limits) and len(lattices) > 1:
        zeros, every = torch.zeros_like(side), torch.arange(len(side))
        below, above = _tails(parts, lattices[0], 0, zeros, every)
        p = torch.stack((above - parts.gap, below), 1)
        side = coder.code(p, None if x is None else (~lattices[0].has(x)).long())
    elif not limits[0]:
        side = side + 1
    for number, lattice in enumerate(lattices):
        own = (side == number).nonzero()[:, 0]
        if len(own):
            low, high = limits[number]
            keys = None if x is None else lattice.keys(x[own])
            tails = partial(_tails, parts.take(own), lattice, high)
            found[filled[own]] = lattice.values(
                code_numbers(coder, tails, len(own), low, high, keys)
            )
    return found


def _tails(
    parts: Parts, lattice: Lattice, high: int, keys: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """What rows have before and after the point at which a cell begins (see `code_numbers`)."""
    different, which = keys.unique(return_inverse=True)
    starts = [part[which] for part in lattice.starts(different, high)]
    below, above = parts.take(rows).tails([Scores(end, end, end, end) for end in starts])
    return (above, below) if lattice.falling else (below, above)


def _packed(frame: Any) -> bytes:
    """A frame without a model: Arrow's stream, by LZMA."""
    import pyarrow

    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return lzma.compress(sink.getvalue(), preset=9)


def _unpacked(data: bytes) -> Any:
    import pyarrow

    with pyarrow.ipc.open_stream(lzma.decompress(data)) as stream:
        return stream.read_pandas()

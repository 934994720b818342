"""The columns of a mixed table: what they are, and the data against samples of the model."""

from __future__ import annotations

import numpy as np
import torch

from diffeo.data import read_frame
from diffeo.data.tables.describing import describe
from diffeo.data.tables.grids import Floats
from diffeo.explorer import images
from diffeo.explorer.bins import Bins, percent, words
from diffeo.explorer.pairs import pair
from diffeo.explorer.subject import Subject, first, table_of
from diffeo.models.mixed import MixedFlow
from diffeo.schema import CategoryColumn, NumberColumn, Schema

DRAWN = 1_000  # samples
DATA = 5_000  # rows of the data
CHARTS = 24  # columns that have one
HEADS = ("column", "kind", "values", "step", "gaps", "masses")


def mixed_flow(subject: Subject) -> MixedFlow:
    """The model of a page for mixed tables."""
    assert isinstance(subject.flow, MixedFlow)
    return subject.flow


def schema(subject: Subject) -> str:
    """A table of what each column is, those that the model is conditional on first."""
    flow, table = mixed_flow(subject), table_of(subject)
    given = () if flow.conditions is None else flow.conditions.columns
    frame = None if table is None else read_frame(table.options)
    found = describe(Schema((*given, *flow.schema.columns)), frame)
    heads = [head for head in HEADS if any(row[head] for row in found)]
    body = [[row[head] for head in heads] for row in found]
    titles = [head.capitalize() for head in heads]
    return images.rows(titles, body, "What each column is")


def draw(subject: Subject, seed: int, count: int = DRAWN) -> Floats:
    """Samples `(count, columns)`; where the model is conditional, under conditions of the data."""
    context = subject.conditions.draw(count, seed)
    return subject.run.sample(count, context=context, seed=seed).double().numpy()


def data_of(subject: Subject) -> Floats | None:
    """Rows of the training data `(n, columns)`, or None where these are not available."""
    table = table_of(subject)
    return None if table is None else first(table.train, DATA)[0].double().numpy()


def marginals(subject: Subject, samples: Floats) -> str:
    """A chart of each column: the data as bars, samples as an outline, and gaps in words."""
    data, parts = data_of(subject), []
    columns = mixed_flow(subject).schema.modelled
    for i, column in enumerate(columns[:CHARTS]):
        own = None if data is None else data[:, i]
        bins = Bins.of(column, samples[:, i] if own is None else own)
        drawn = bins.shares(samples[:, i])
        shares = None if own is None else bins.shares(own)
        of = "samples" if own is None else "the data against samples"
        alt = f"{column.name}, {of}."
        if bins.names:
            most = drawn if shares is None else shares
            alt = f"{column.name}, {of}: {words(bins.names, most)}."
        note = _shares(column, own, samples[:, i])
        chart = bins.chart(shares, drawn, alt)
        parts.append(f"<div>{chart}{images.note(note)}</div>")
    left = len(columns) - CHARTS
    more = f"{left:,} more columns are not drawn." if left > 0 else ""
    return f'<div class="charts">{"".join(parts)}</div>{images.note(more)}'


def _shares(column: NumberColumn | CategoryColumn, data: Floats | None, samples: Floats) -> str:
    """Of empty cells, and of values with a mass of their own."""

    def both(what: str, of_data: Floats | None, of_samples: Floats) -> str:
        drawn = f"{percent(float(np.mean(of_samples)))} of the samples"
        if of_data is None:
            return f"{what}: {drawn}."
        return f"{what}: {percent(float(np.mean(of_data)))} of the data, {drawn}."

    found = []
    if column.missing:
        found.append(both("Empty", None if data is None else np.isnan(data), np.isnan(samples)))
    for atom in column.atoms if isinstance(column, NumberColumn) else ():
        own = None if data is None else data == atom
        found.append(both(f"Exactly {atom:g}, not drawn", own, samples == atom))
    return " ".join(found)


def two(subject: Subject, samples: Floats, names: tuple[str, str]) -> str:
    """A chart of two columns, or a sentence if they are the same."""
    if names[0] == names[1]:
        return images.note("Choose two different columns to compare them.")
    columns, data = mixed_flow(subject).schema.modelled, data_of(subject)
    places = [[column.name for column in columns].index(name) for name in names]
    sources = [] if data is None else [("data", data[:, places])]
    return pair(
        (columns[places[0]], columns[places[1]]), [*sources, ("samples", samples[:, places])]
    )


def start_pair(subject: Subject) -> tuple[str, str]:
    """The two columns that are shown first: the numbers that go together most, if there are two."""
    columns = mixed_flow(subject).schema.modelled
    numbers = [i for i, column in enumerate(columns) if isinstance(column, NumberColumn)]
    data = data_of(subject)
    if data is None or len(numbers) < 2:
        return columns[0].name, columns[min(1, len(columns) - 1)].name
    x = data[:, numbers]
    x = x[~np.isnan(x).any(1)]
    if len(x) < 3:
        return columns[numbers[0]].name, columns[numbers[1]].name
    ranks = torch.from_numpy(x).argsort(0).argsort(0).double()
    with np.errstate(all="ignore"):
        strength = np.abs(np.nan_to_num(np.corrcoef(ranks.numpy().T)))
    np.fill_diagonal(strength, 0)
    a, b = np.unravel_index(int(strength.argmax()), strength.shape)
    return columns[numbers[a]].name, columns[numbers[b]].name

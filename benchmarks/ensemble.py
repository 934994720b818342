"""A training step of eight networks of a mixed table, over one of a single network.

The networks of `FlowDensity` are members of one module, whose products of matrices are batched.
2,000 rows of eight numbers and two categories, networks of two blocks of 64 units with 12
components a column, batches of 256 rows: forward, backward, Adam.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.harness import Settings, take_turns
from benchmarks.report import Report, over, rates
from benchmarks.subjects import Subject
from diffeo.data import Split
from diffeo.mixed.marginal_fit import fit_marginals
from diffeo.mixed.networks import NetworkMembers
from diffeo.mixed.rows import Layout
from diffeo.mixed.scores import logistic_scores
from diffeo.schema import CategoryColumn, NumberColumn
from diffeo.training.bag import Bag, pack

ROWS, BATCH, NUMBERS, MEMBERS = 2_000, 256, 8, 8
HIDDEN, BLOCKS, COMPONENTS = 64, 2, 12
MOST = 2.5  # of the time of one


def networks(members: int) -> Subject:
    """Networks that learn a table, each from all rows but those of a fold."""
    columns = [
        *(NumberColumn(f"number {i}") for i in range(NUMBERS)),
        *(CategoryColumn(name, ("a", "b", "c")) for name in ("kind", "place")),
    ]
    numbers = torch.randn(ROWS, NUMBERS, dtype=torch.float64)
    table = torch.cat((numbers, torch.randint(0, 3, (ROWS, 2)).double()), 1)
    layout = Layout(columns, range(0))
    marginals = fit_marginals(layout.kinds, table[:, layout.numbers], None, plain=False)
    rows = layout.rows(marginals, table)
    module = NetworkMembers(columns, range(0), members, HIDDEN, BLOCKS, COMPONENTS, ())
    scores = logistic_scores(rows.scores)
    module.start(rows, scores)
    batch = Split(pack(torch.arange(ROWS) % MEMBERS, rows, scores)).take(torch.arange(BATCH))[0]
    bag = Bag(module, batch.shape[1], 0)
    return Subject(bag, lambda: bag.log_prob(batch))


def measure(settings: Settings) -> Report:
    """Eight members over one."""
    report = Report("ensemble", "Networks of a mixed table, trained as one module", settings)
    sides = {f"{count} members": partial(networks, count) for count in (MEMBERS, 1)}
    times = take_turns(sides, settings)["step"]
    report.measured += [
        rates("a step", side, each, BATCH, "rows/s") for side, each in times.items()
    ]
    many, one = times.values()
    label = f"a step of {MEMBERS} members: time over that of one"
    report.ratios.append(over(label, many, one, MOST, "<="))
    return report

"""A table of all kinds of columns, and a model of it, for tests."""

from __future__ import annotations

import numpy as np
import torch

from diffeo.models.mixed import MixedFlow
from diffeo.schema import CategoryColumn, NumberColumn, Schema
from diffeo.training.mixed import Settings, fit_mixed

SCHEMA = Schema(
    (
        NumberColumn("count", step=1, low=0, high=4, missing=True),
        CategoryColumn("colour", ("red", "blue"), missing=True),
        NumberColumn("rain", low=0, atoms=(0.0,)),
        NumberColumn("size"),
    )
)


def mixed_table(rows: int = 400, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    count = random.binomial(4, 0.4, rows).astype(float)
    colour = (random.random(rows) < 0.3).astype(float)
    rain = np.where(random.random(rows) < 0.5, 0.0, random.exponential(1 + colour))
    size = random.normal(colour * 2 + count / 2, 0.5)
    count[random.random(rows) < 0.1] = np.nan
    colour[random.random(rows) < 0.2] = np.nan
    return torch.tensor(np.stack([count, colour, rain, size], 1))


def changed_flow(schema: Schema, x: torch.Tensor) -> MixedFlow:
    """A model with members of all kinds, of which nothing is at its start."""
    settings = Settings(networks=1, hidden=16, blocks=1, components=4, bins=4, steps=20)
    flow = fit_mixed(schema, x, settings=settings).flow
    generator = torch.Generator().manual_seed(0)
    for weight in flow.parameters():
        weight.data += 0.2 * torch.randn(weight.shape, generator=generator)
    members = len(flow.stack.log_w)
    flow.stack.log_w.copy_(torch.randn(members, generator=generator).log_softmax(0))
    assert flow.stack.plain_gaussians is not None
    return flow

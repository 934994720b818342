"""Any conditional of a model of a mixed table: closed forms, and estimates with their errors."""

import math

import numpy as np
import pytest
import torch

from diffeo.mixed.growing import Growing, Tools
from diffeo.models.mixed import MixedFlow
from diffeo.schema import CategoryColumn, NumberColumn, Schema
from diffeo.training.mixed import Settings, fit_mixed

MIXED = Schema(
    (
        NumberColumn("count", step=1, low=0, high=4, missing=True),
        CategoryColumn("colour", ("red", "blue"), missing=True),
        NumberColumn("rain", low=0, atoms=(0.0,)),
        NumberColumn("size"),
    )
)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def mixed_table(rows: int = 400, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    count = random.binomial(4, 0.4, rows).astype(float)
    colour = (random.random(rows) < 0.3).astype(float)
    rain = np.where(random.random(rows) < 0.5, 0.0, random.exponential(1 + colour))
    size = random.normal(colour * 2 + count / 2, 0.5)
    count[random.random(rows) < 0.1] = np.nan
    colour[random.random(rows) < 0.2] = np.nan
    return torch.tensor(np.stack([count, colour, rain, size], 1))


@pytest.fixture(scope="module")
def mixed() -> MixedFlow:
    """A model of all kinds of columns, with networks that are not at their start."""
    torch.set_num_threads(1)
    settings = Settings(networks=1, hidden=16, blocks=1, components=4, steps=20)
    flow = fit_mixed(MIXED, mixed_table(), settings=settings).flow
    generator = torch.Generator().manual_seed(0)
    for weight in flow.parameters():
        weight.data += 0.2 * torch.randn(weight.shape, generator=generator)
    members = len(flow.stack.log_w)
    flow.stack.log_w.copy_(torch.randn(members, generator=generator).log_softmax(0))
    return flow


# Samples ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_rows_that_grow_column_by_column_have_the_probability_of_the_model(mixed):
    x = mixed_table(100, seed=1)
    rows = Growing(Tools(mixed.stack), len(x))
    total = torch.zeros(len(x))
    while rows.at < x.shape[1]:
        total = total + rows.put(x[:, rows.column])
    assert torch.allclose(total, mixed.log_prob(x), atol=1e-10)


@torch.no_grad()
def test_the_quick_inverse_of_a_column_is_its_inverse(mixed):
    tools = Tools(mixed.stack)
    y = 2 * torch.randn(200, generator=torch.Generator().manual_seed(0)).double()
    for c in range(3):
        assert torch.allclose(tools.inverse(0, c)(y), tools.one[0][c].inverse(y[:, None])[:, 0])


@torch.no_grad()
def test_samples_are_those_of_decoded_noise(mixed):
    generator = torch.Generator().manual_seed(0)
    drawn = mixed.sample(2_000, generator=generator)
    other = mixed.decode(mixed.noise(400, generator))
    events = [
        lambda x: x[:, 0].isnan(),
        lambda x: x[:, 1] == 0,
        lambda x: (x[:, 0] == 2) & (x[:, 3] > 1),
        lambda x: x[:, 2] == 0,
        lambda x: (x[:, 2] > 1) & (x[:, 1] == 1),
        lambda x: x[:, 3] > 1.5,
    ]
    for event in events:
        p, q = (event(x).double().mean() for x in (drawn, other))
        assert abs(p - q) < 4 * math.sqrt(float(p * (1 - p)) * (1 / 2_000 + 1 / 400))
    again = mixed.sample(2_000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.nan_to_num(), drawn.nan_to_num())

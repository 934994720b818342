"""Dates with seasons: against the density that made the table."""

import numpy as np
import pandas as pd
import pytest
import torch

from diffeo.mixed.rows import Layout
from diffeo.schema import DateColumn, NumberColumn
from diffeo.sklearn import FlowDensity


def seasons(n: int, seed: int) -> pd.DataFrame:
    """Days of four years, with temperatures that are warm in one half of each."""
    random = np.random.default_rng(seed)
    days = random.integers(0, 1461, n)
    warm = 10 + 10 * np.sin(2 * np.pi * days / 365.2425)
    dates = (pd.Timestamp("2012-01-01") + pd.to_timedelta(days, "D")).strftime("%Y-%m-%d")
    return pd.DataFrame({"date": dates, "temperature": warm + random.normal(size=n)})


@pytest.fixture(scope="module")
def density() -> FlowDensity:
    return FlowDensity(target="temperature", random_state=0).fit(seasons(1_000, 0))


def test_temperatures_given_dates_have_nearly_their_density(density):
    fresh = seasons(1_000, 1)
    found = density.log_prob(fresh, fresh["temperature"]).mean()
    truth = -0.5 * np.log(2 * np.pi * np.e)
    # A normal density of all temperatures has -3.4.
    assert truth - 0.25 < found < truth + 0.1


def test_samples_have_seasons_and_rows_come_back_from_their_noise(density):
    drawn = density.sample(2_000, random_state=0)
    days = (pd.to_datetime(drawn["date"]) - pd.Timestamp("2012-01-01")).dt.days
    warm = np.sin(2 * np.pi * days / 365.2425)
    assert np.corrcoef(warm, drawn["temperature"])[0, 1] > 0.97
    rows = seasons(50, 2)
    back = density.inverse_transform(density.transform(rows))
    assert (back["date"] == rows["date"]).all()
    np.testing.assert_allclose(back["temperature"], rows["temperature"], atol=1e-8)


@pytest.mark.parametrize(
    ("unit", "step", "periods"),
    [
        ("second", 3_600.0, [86_400.0, 604_800.0, 365.2425 * 86_400]),
        ("day", 1.0, [7.0, 365.2425]),
        ("day", 7.0, [365.2425]),
        ("month", 1.0, [12.0]),
        ("month", 12.0, []),
    ],
)
def test_cycles_are_those_that_a_grid_can_show(unit, step, periods):
    layout = Layout([NumberColumn("x"), DateColumn("when", step=step, unit=unit)])
    assert layout.cycles == [(1, period) for period in periods]
    waves = layout.waves(torch.tensor([[0.0, 2 * step], [0.0, np.nan]]))
    angles = 2 * np.pi * 2 * step / torch.tensor(periods)
    torch.testing.assert_close(waves[0], torch.cat((angles.sin(), angles.cos())))
    assert (waves[1] == 0).all()

"""First estimates from data: right for clean data, and not ruined by a few far values."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

import diffeo
from diffeo.bijections.elementwise import Standardize
from diffeo.bijections.normalization import ActNorm
from diffeo.bijections.whitening import Whiten
from diffeo.data.tables.loading import load_table
from diffeo.data.tables.opening import TableOptions
from diffeo.sklearn import FlowDensity, FlowOutlierDetector
from diffeo.utils.statistics import OutlierWarning, far_values, first_moments

STD = torch.tensor([1.0, 2.0], dtype=torch.float64)
ENTROPY = math.log(2 * math.pi * math.e) + math.log(2)  # of N(0, diag(1, 4)), in nats


def clean(rows: int = 2_000, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, generator=generator, dtype=torch.float64) * STD


def ruined(value: float = 1e6) -> torch.Tensor:
    x = clean()
    x[[17, 230, 900, 1999]] = value
    return x


@pytest.mark.parametrize("value", [1e6, -1e4, 1e30])
def test_a_few_far_values_do_not_change_the_first_moments(value):
    mean, std, far = first_moments(ruined(value))
    assert far.any(1).nonzero().flatten().tolist() == [17, 230, 900, 1999]
    others = torch.cat([clean()[:17], clean()[18:230], clean()[231:900], clean()[901:1999]])
    torch.testing.assert_close(mean, others.mean(0))
    torch.testing.assert_close(std, others.std(0, correction=0))


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.normal(size=5_000),
        lambda rng: rng.exponential(size=5_000),
        lambda rng: rng.integers(0, 3, 5_000),
        lambda rng: (rng.random(5_000) < 0.001) * 1.0,
        lambda rng: np.where(rng.random(5_000) < 0.8, 0, rng.exponential(0.05, 5_000)),
        lambda rng: np.where(rng.random(5_000) < 0.6, 1e-3 * rng.normal(size=5_000), 5.0),
        lambda rng: np.concatenate([rng.normal(-50, 1, 2_500), rng.normal(50, 1, 2_500)]),
    ],
    ids=["normal", "exponential", "classes", "rare", "zeros", "narrow and wide", "two groups"],
)
def test_no_value_of_ordinary_data_is_far(draw):
    x = torch.from_numpy(draw(np.random.default_rng(0)).astype(float))[:, None]
    mean, std, far = first_moments(x)
    assert not far.any()
    assert float(std) == pytest.approx(float(x.std(correction=0)), rel=1e-12)
    assert float(mean) == pytest.approx(float(x.mean()), abs=1e-12)


def test_far_values_of_images_and_of_a_whitening_do_not_count():
    x = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    spoilt = x.clone()
    spoilt[0, 1, 0, 0] = 1e8
    norm, other = ActNorm(2), ActNorm(2)
    norm.initialize(x)
    other.initialize(spoilt)
    torch.testing.assert_close(other.factor(), norm.factor(), rtol=1e-3, atol=0)
    link = Whiten(2).double()
    link.initialize(ruined())
    torch.testing.assert_close(link.root, torch.diag(STD), rtol=0, atol=0.1)


def test_a_standardization_names_the_feature_and_its_rows():
    with pytest.warns(OutlierWarning) as caught:
        Standardize(2).double().initialize(ruined())
    first, second = (str(warning.message) for warning in caught)
    assert first.startswith("feature 0: 4 values lie more than 10 spreads from the median, in rows")
    assert "17, 230, 900, 1999 (1e+06 in row 17)" in first
    assert second.startswith("feature 1: ")


def test_clean_data_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", OutlierWarning)
        link = Standardize(2).double()
        link.initialize(clean())
    x = clean(5, seed=3)
    torch.testing.assert_close(link(x)[0], (x - link.mean) / link.std, rtol=0, atol=0)


def test_clean_rows_have_their_density_though_the_training_rows_hold_far_ones():
    test = clean(4_000, seed=1)
    truth = torch.distributions.Normal(torch.zeros(2), STD).log_prob(test).sum(1).mean()
    assert float(truth) == pytest.approx(-ENTROPY, abs=0.05)
    with pytest.warns(OutlierWarning, match="column x1: 4 values"):
        density = FlowDensity(networks=0, random_state=0).fit(ruined().numpy())
    assert density.score(test.numpy()) == pytest.approx(float(truth), abs=0.05)


def test_a_detector_of_outliers_finds_those_it_learned_from():
    x = ruined().numpy()
    density = FlowDensity(networks=0, random_state=0)
    with pytest.warns(OutlierWarning):
        detector = FlowOutlierDetector(density, contamination=0.01).fit(x)
    assert (detector.predict(x[[17, 230, 900, 1999]]) == -1).all()


def test_a_table_notes_column_and_rows_of_far_values(tmp_path):
    np.savetxt(tmp_path / "t.csv", ruined().numpy(), delimiter=",", header="a,b", comments="")
    notes = load_table(TableOptions(str(tmp_path / "t.csv"))).notes
    assert len(notes) == 2
    assert "column 'b': 4 values lie more than 10 spreads" in notes[1]
    assert "in rows 18, 231, 901, 2000 (1e+06 in row 18)" in notes[1]


def test_training_from_the_command_line_is_not_ruled_by_far_rows(tmp_path):
    from diffeo.run import Run, train
    from diffeo.training.options import TrainerOptions

    np.savetxt(tmp_path / "t.csv", ruined().numpy(), delimiter=",", header="a,b", comments="")
    train(
        lambda features, **needs: diffeo.RealNVP(features, 4, (16,), **needs),
        diffeo.data.DataOptions(str(tmp_path / "t.csv")),
        tmp_path / "run",
        trainer=TrainerOptions(max_epochs=25),
    )
    flow = Run(tmp_path / "run").flow
    with torch.no_grad():
        score = flow.log_prob(clean(4_000, seed=1).float()).mean()
    assert float(score) == pytest.approx(-ENTROPY, abs=0.2)


@pytest.mark.parametrize("columns", [1, 2])
def test_a_narrow_column_is_not_taken_for_constant(columns):
    rng = np.random.default_rng(0)
    x = np.column_stack([1 + 1e-12 * rng.normal(size=10_000), rng.normal(size=10_000)])[:, :columns]
    density = FlowDensity(networks=0, random_state=0).fit(x)
    truth = -0.5 * columns * math.log(2 * math.pi * math.e) - math.log(1e-12)
    assert density.score(x) == pytest.approx(truth, abs=0.03)


def test_values_far_out_are_compressed_and_come_back():
    link = Standardize(1).double()
    with pytest.warns(OutlierWarning):
        link.initialize(ruined()[:, :1])
    x = torch.tensor([[0.3], [12.0], [-1e6], [1e6]], dtype=torch.float64)
    y, log_det = link(x)
    assert float(y.abs().max()) < 30
    back, opposite = link.inverse(y)
    torch.testing.assert_close(back, x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(opposite, -log_det, rtol=1e-12, atol=1e-12)


def test_no_value_is_far_in_a_column_without_width():
    assert not far_values(torch.ones(50, 1)).any()

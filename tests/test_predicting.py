"""Predictions by FlowDensity: p(target | other columns), against closed forms and integrals."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.interpolate import CubicSpline
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from diffeo.sklearn import FlowDensity, FlowOutlierDetector

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = {"networks": 0, "random_state": 0}
NOISE = 0.5
IRIS = load_iris()
SPECIES = IRIS.target_names[IRIS.target]


def linear(n: int, seed: int) -> np.ndarray:
    """Columns y, a and b with y = 1 + 2 a - b + noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 2))
    return np.c_[1 + x @ [2, -1] + NOISE * random.normal(size=n), x]


def trees() -> pd.DataFrame:
    random, n = np.random.default_rng(1), 200
    kind = random.choice(["oak", "fir"], n)
    height = np.round(random.normal(np.where(kind == "oak", 12, 25), 3), 1)
    day = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.round(3 * height), unit="D")
    frame = pd.DataFrame({"kind": kind, "height": height, "day": day})
    frame["nests"], frame["one"] = random.poisson(height / 5), 1
    frame["width"] = height / 20 + random.normal(size=n)
    return frame.mask(np.c_[random.random(n) < 0.1] & (frame.columns == "height"))


TREES, KINDS = trees(), ("fir", "oak")


@pytest.fixture(scope="module")
def normal() -> FlowDensity:
    return FlowDensity(**QUICK, target=0).fit(linear(2_000, 0))


@pytest.fixture(scope="module")
def networks() -> FlowDensity:
    options = {"networks": 2, "hidden": 8, "max_iter": 30, "random_state": 0}
    return FlowDensity(**options, target=0).fit(linear(300, 0))


@pytest.fixture(scope="module")
def forest() -> FlowDensity:
    return FlowDensity(**QUICK, target="kind").fit(TREES)


def on_grid(density: FlowDensity, row: np.ndarray, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of a column in a row, and its density there by the joint density."""
    y = np.linspace(-9, 9, 6_001)
    rows = np.repeat(row[None], len(y), 0)
    rows[:, place] = y
    p = np.exp(density.score_samples(rows))
    return y, p / np.trapezoid(p, y)


# Closed forms and integrals -----------------------------------------------------------------------


def test_a_linear_gaussian_is_predicted_as_its_closed_form(normal):
    rows = linear(100, 1)
    x, y = rows[:, 1:], rows[:, 0]
    truth = stats.norm(1 + x @ [2, -1], NOISE)
    assert np.abs(normal.predict(x) - truth.mean()).mean() < 0.05
    low, high = normal.predict_interval(x, coverage=0.8).T
    assert np.abs(low - truth.ppf(0.1)).mean() < 0.07
    assert np.abs(high - truth.ppf(0.9)).mean() < 0.07
    assert np.abs(normal.cdf(x, y) - truth.cdf(y)).mean() < 0.03
    assert np.abs(normal.log_prob(x, y) - truth.logpdf(y)).mean() < 0.06
    z = (y - truth.mean()) / NOISE
    crps = z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)
    assert np.abs(normal.crps(x, y) - NOISE * crps).mean() < 0.02
    assert stats.kstest(normal.cdf(x, y), "uniform").pvalue > 0.001


@pytest.mark.parametrize("place", [0, 2])  # the first and the last in the order of prediction
@pytest.mark.parametrize(("fitted", "close"), [("normal", 1e-6), ("networks", 1e-4)])
def test_answers_are_integrals_of_the_density(fitted, close, place, request):
    density = clone_of(request.getfixturevalue(fitted), place)
    rows = linear(2, 2)
    x, y = np.delete(rows, place, 1), rows[:, place]
    found = density.cdf(x, y), density.crps(x, y), density.predict(x), density.log_prob(x, y)
    for row, value, cdf, crps, mean, log_prob in zip(rows, y, *found, strict=True):
        grid, p = on_grid(density, row, place)
        integral = CubicSpline(grid, p).antiderivative()
        until = integral(grid)
        assert cdf == pytest.approx(integral(value), abs=close)
        assert mean == pytest.approx(np.trapezoid(grid * p, grid), abs=close)
        assert log_prob == pytest.approx(np.log(np.interp(value, grid, p)), abs=10 * close)
        square = np.trapezoid((until - (grid >= value)) ** 2, grid)
        assert crps == pytest.approx(square, abs=3e-3)  # of the step between two values
    for level in (0.05, 0.6):
        quantile = density.predict_quantiles(x, level)
        assert np.allclose(density.cdf(x, quantile), level, atol=1e-9)


def clone_of(density: FlowDensity, place: int) -> FlowDensity:
    """The same fit with another target."""
    other = clone(density)
    other.__dict__.update(density.__dict__)
    return other.set_params(target=place)


def test_probabilities_of_a_category_are_those_of_the_rows_with_each(forest):
    frame = TREES.head(20).dropna()
    found = forest.predict_proba(frame.drop(columns="kind"))
    each = [forest.score_samples(frame.assign(kind=kind)) for kind in forest.classes_]
    p = np.exp(each).T
    assert np.allclose(found, p / p.sum(1, keepdims=True), atol=1e-10)
    best = forest.predict(frame)
    assert (best == forest.classes_[found.argmax(1)]).all()
    log_p = forest.log_prob(frame, frame["kind"])
    place = (frame["kind"].to_numpy() == "oak").astype(int)
    assert np.allclose(log_p, np.log(found[np.arange(len(frame)), place]))


def test_counts_have_the_distribution_of_their_values(forest):
    density = clone_of(forest, "nests")
    frame = TREES.head(5)
    x, y = frame.drop(columns="nests"), frame["nests"]
    counts = np.arange(150)
    each = pd.concat([frame.assign(nests=k) for k in counts])
    p = np.exp(density.score_samples(each)).reshape(len(counts), -1).T
    p /= p.sum(1, keepdims=True)
    log_p = np.log(p[np.arange(len(x)), y])
    assert np.allclose(density.log_prob(x, y), log_p, atol=1e-4)
    until = p.cumsum(1)
    assert np.allclose(density.cdf(x, y), until[np.arange(len(x)), y], atol=1e-4)
    step = counts >= y.to_numpy()[:, None]
    assert np.allclose(density.crps(x, y), ((until - step) ** 2).sum(1), atol=1e-3)
    assert np.allclose(density.predict(x), p @ counts, atol=1e-3)
    low, high = density.predict_interval(x).T
    assert {*low, *high} <= {*counts}


# Gaps ---------------------------------------------------------------------------------------------


def test_cells_without_a_value_are_summed_out(normal):
    rows = linear(60, 3)
    x, y = rows[:, 1:].copy(), rows[:, 0]
    x[:40, 1] = np.nan
    x[:20, 0] = np.nan
    truth = stats.norm(
        1 + 2 * np.nan_to_num(x[:, 0]) - np.nan_to_num(x[:, 1]),
        np.sqrt(NOISE**2 + np.isnan(x) @ [4, 1]),
    )
    assert np.abs(normal.predict(x) - truth.mean())[:40].mean() < 0.3
    assert np.abs(normal.predict(x) - truth.mean())[40:].mean() < 0.05
    assert np.abs(normal.cdf(x, y) - truth.cdf(y)).mean() < 0.06
    assert np.array_equal(normal.predict(x), normal.predict(x))


def test_what_is_empty_or_unknown_in_a_table_is_no_obstacle(forest):
    frame = TREES.head(20).assign(kind="elm")
    frame.loc[3, "height"] = None
    frame.loc[4, "width"] = None
    assert ((forest.predict_proba(frame) >= 0).all(1)).all()
    density = clone_of(forest, "width")
    assert np.isfinite(density.predict_interval(frame)).all()
    either = [density.log_prob(TREES.assign(kind=kind).head(9), np.ones(9)) for kind in KINDS]
    elm = density.log_prob(TREES.assign(kind="elm").head(9), np.ones(9))
    assert (np.min(either, 0) - 0.01 < elm).all()
    assert (elm < np.max(either, 0) + 0.01).all()


def test_a_network_sums_out_cells_by_draws(networks):
    rows = linear(4, 7)
    grid = np.linspace(-9, 9, 91)
    a, y = (part.ravel() for part in np.meshgrid(grid, grid, indexing="ij"))
    for place in (0, 2):
        density = clone_of(networks, place)
        gap = rows.copy()
        gap[:, 1] = np.nan
        found = density.predict(gap)
        for row, mean in zip(rows, found, strict=True):
            every = np.repeat(row[None], len(a), 0)
            every[:, 1], every[:, place] = a, y
            p = np.exp(density.score_samples(every))
            assert mean == pytest.approx((p @ y) / p.sum(), abs=0.4)
        inside = density.predict_interval(gap)
        assert (inside[:, 0] < found).all()
        assert np.allclose(density.cdf(gap, inside[:, 1]), 0.95, atol=1e-6)


# The interface ------------------------------------------------------------------------------------


def test_the_target_may_be_there_and_is_not_looked_at(forest, normal):
    frame = TREES.head(9)
    assert (forest.predict(frame) == forest.predict(frame.drop(columns="kind"))).all()
    rows = linear(5, 4)
    assert np.array_equal(normal.predict(rows), normal.predict(rows[:, 1:]))


def test_dates_are_predicted_as_dates(forest):
    density = clone_of(forest, "day")
    frame = TREES.head(30).dropna()
    low, high = density.predict_interval(frame).T
    day = frame["day"].to_numpy()
    assert ((low <= day) & (day <= high)).mean() > 0.7
    assert density.predict(frame).dtype.kind == "M"
    assert density.cdf(frame, day).max() <= 1


def test_y_is_a_column_of_the_table_if_the_target_names_it():
    density = FlowDensity(**QUICK, target="species")
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), density)
    found = cross_val_predict(model, IRIS.data, SPECIES, cv=folds)
    assert (found == SPECIES).mean() > 0.93
    rows = make_pipeline(StandardScaler(), clone(density)).fit(IRIS.data, SPECIES)
    assert rows.predict_proba(IRIS.data).shape == (150, 3)
    assert np.isfinite(rows.score(IRIS.data, SPECIES))
    with pytest.raises(ValueError, match="the density is that of X and y, its column 'species'"):
        rows.score_samples(IRIS.data)


def test_context_counts_as_known(normal):
    rows = linear(150, 5)
    density = FlowDensity(**QUICK, context=[1], target=0).fit(rows)
    assert np.abs(density.predict(rows) - normal.predict(rows)).mean() < 0.15


def test_without_a_target_it_predicts_nothing():
    density = FlowDensity(**QUICK)
    assert not hasattr(density, "predict")
    assert not hasattr(FlowDensity(**QUICK, target=0).fit(linear(50, 0)), "predict_proba")


@pytest.mark.parametrize(
    ("target", "call", "message"),
    [
        ("one", lambda d, x: d.predict(x), "target names the column 'one', which is not modelled"),
        ("kind", lambda d, x: d.predict_interval(x), "'kind' is a column of categories"),
        ("kind", lambda d, x: d.log_prob(x, ["elm"] * 5), "column 'kind' holds 'elm'"),
        ("width", lambda d, x: d.predict_quantiles(x, 1.2), "q=1.2 is not from 0 to 1"),
        ("width", lambda d, x: d.cdf(x, [1.0]), "inconsistent numbers of samples"),
        (None, lambda d, x: d.cdf(x, [1.0]), "name one"),
    ],
)
def test_refusals_name_the_remedy(forest, target, call, message):
    with pytest.raises((ValueError, AttributeError), match=message):
        call(clone_of(forest, target), TREES.head(5))


def test_a_target_that_is_nowhere_is_refused():
    with pytest.raises(ValueError, match="target names the column 'y', which X does not have"):
        FlowDensity(**QUICK, target="y").fit(linear(20, 0))


def test_an_estimator_fills_asks_and_explains(forest):
    frame = TREES.head(20).set_axis(range(7, 27))
    filled = forest.fill(frame)
    assert not filled.isna().any().any()
    assert [*filled.columns] == [*frame.columns]
    assert [*filled.index] == [*frame.index]
    assert 9 < forest.conditional({"kind": "oak"}, ["height"]).mean("height").value < 15
    odd = frame.head(4).assign(height=[12.0, 90.0, 12.0, 25.0])
    found = forest.explain(odd)
    assert found.loc[found["row"] == 1].sort_values("surprise")["column"].iloc[-1] == "height"
    rows = linear(100, 6)
    detector = FlowOutlierDetector(FlowDensity(**QUICK)).fit(rows)
    assert [*detector.explain(rows[:2], level=0.5)["column"]] == ["x0", "x1", "x2"] * 2
    rows[:5, 1] = np.nan
    assert np.isfinite(detector.density_.fill(rows)).all()

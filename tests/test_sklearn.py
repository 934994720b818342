"""FlowDensity and FlowOutlierDetector: scikit-learn's contract, and densities that are known."""

import copy
import doctest
import pickle
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import Parallel, delayed
from scipy import stats
from scipy.integrate import trapezoid
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from diffeo import Flow
from diffeo.context import Category, Number
from diffeo.sklearn import FlowDensity, FlowOutlierDetector
from diffeo.sklearn.weights import Distinct

IRIS = load_iris()
QUICK = {"networks": 0, "random_state": 0}
NETWORK = {"networks": 1, "hidden": 8, "max_iter": 20, "random_state": 0}


def gaussian(n: int, seed: int = 0) -> tuple[np.ndarray, stats.rv_continuous]:
    truth = stats.multivariate_normal([1e6, -3], [[4, 0.3], [0.3, 0.04]], seed=seed)
    return truth.rvs(n), truth


@pytest.fixture(scope="module")
def fitted() -> FlowDensity:
    return FlowDensity(**QUICK).fit(IRIS.data)


# scikit-learn's own checks


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", [FlowDensity, FlowOutlierDetector])
def test_scikit_learns_checks_all_pass(estimator):
    results = check_estimator(estimator(), on_fail=None, on_skip=None)
    others = {r["check_name"]: r["exception"] for r in results if r["status"] != "passed"}
    # scikit-learn leaves it out of its own accord where SCIPY_ARRAY_API is not set.
    assert set(others) <= {"check_array_api_input"}
    assert len(results) > 40


# Density


def test_a_gaussian_is_found():
    x, truth = gaussian(2_000)
    density = FlowDensity(**QUICK).fit(x)
    new = truth.rvs(2_000, random_state=1)
    gap = truth.logpdf(new).mean() - density.score(new)
    assert -0.005 < gap < 0.03


def test_the_density_integrates_to_one():
    x = np.random.default_rng(0).gamma(2.0, 3.0, (400, 1))
    density = FlowDensity(**QUICK).fit(x)
    grid = np.linspace(-60, 120, 40_001)[:, None]
    mass = trapezoid(np.exp(density.score_samples(grid)), grid[:, 0])
    assert mass == pytest.approx(1, abs=1e-3)


def test_one_skewed_column_beats_its_gaussian():
    x = np.random.default_rng(0).gamma(1.5, 3.0, (1_500, 1))
    density = FlowDensity(**QUICK).fit(x[:1_000])
    normal = stats.norm(x[:1_000].mean(), x[:1_000].std())
    truth = stats.gamma(1.5, scale=3.0)
    ours, theirs = density.score(x[1_000:]), normal.logpdf(x[1_000:]).mean()
    assert ours - theirs > 0.6 * (truth.logpdf(x[1_000:]).mean() - theirs)


def test_units_are_those_of_the_columns():
    x = np.random.default_rng(0).normal(size=(200, 3))
    scale = np.array([10.0, 0.1, 1e4])
    one, other = FlowDensity(**QUICK).fit(x), FlowDensity(**QUICK).fit(x * scale + 7)
    got = other.score_samples(x * scale + 7) + np.log(scale).sum()
    np.testing.assert_allclose(got, one.score_samples(x), atol=1e-3)


def test_the_density_on_a_grid_is_the_probability_over_the_step():
    steps = np.arange(0, 30, 0.1).round(1)
    one = FlowDensity(**QUICK).fit(IRIS.data[:, :1])
    p = np.exp(one.score_samples(steps[:, None])) * 0.1
    assert p.sum() == pytest.approx(1, abs=1e-8)


def test_the_score_is_the_mean(fitted):
    assert fitted.score(IRIS.data) == pytest.approx(fitted.score_samples(IRIS.data).mean())


def test_training_improves_on_the_start_and_chooses_the_best():
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, 3_500)
    rows = np.c_[x, np.sin(5 * x) * (1 + 0.2 * x) + 0.1 * rng.normal(size=3_500)]
    waves, fresh = rows[:1_500], rows[1_500:]  # too many for components of mixtures
    density = FlowDensity(random_state=0, networks=1, hidden=32, max_iter=600).fit(waves)
    scores = density.validation_scores_
    assert scores.max() > scores[0] + 0.3
    assert density.score(fresh) > FlowDensity(**QUICK).fit(waves).score(fresh) + 0.3
    x, y = density.sample(2_000, random_state=0).T
    assert np.median(np.abs(y - np.sin(5 * x) * (1 + 0.2 * x))) < 0.15


def test_it_stops_when_nothing_is_gained():
    x, _ = gaussian(300)
    options = {**NETWORK, "max_iter": 3_000}
    density = FlowDensity(**options, n_iter_no_change=200).fit(x)
    assert density.n_iter_ < 2_500
    assert density.n_iter_ - density.best_iter_ >= 200


def test_constant_columns_are_left_out_and_come_back_in_samples():
    x = np.c_[np.full(60, 3.0), IRIS.data[:60, :2]]
    density = FlowDensity(**QUICK).fit(x)
    assert len(density.schema_.modelled) == 2
    assert (density.sample(5, random_state=0)[:, 0] == 3).all()
    with pytest.raises(ValueError, match="no column is left"):
        FlowDensity(**QUICK).fit(np.ones((30, 2)))


def test_what_is_far_away_has_no_density_left(fitted):
    far = np.full((1, 4), 1e200)
    assert fitted.score_samples(far) == -np.inf or fitted.score_samples(far) < -1e3


# Noise and samples


def test_there_and_back(fitted):
    z = fitted.transform(IRIS.data)
    assert z.shape == IRIS.data.shape
    np.testing.assert_allclose(fitted.inverse_transform(z), IRIS.data, atol=1e-8)
    np.testing.assert_allclose(z, FlowDensity(**QUICK).fit_transform(IRIS.data), atol=1e-12)


def test_samples_follow_the_seed_and_the_temperature(fitted):
    one, same, other = (fitted.sample(50, random_state=s) for s in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    cold = fitted.sample(3, random_state=1, temperature=0)
    np.testing.assert_allclose(cold, fitted.inverse_transform(np.zeros((3, 4))))


def test_samples_have_the_moments_of_the_data():
    x, _ = gaussian(2_000)
    drawn = FlowDensity(**QUICK).fit(x).sample(4_000, random_state=0)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(x.T), rtol=0.15)


# Context


def linear(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.uniform(-2, 2, n)
    return (3 * y + rng.normal(0, 0.5, n))[:, None], y


def test_given_a_target():
    x, y = linear(1_500)
    density = FlowDensity(context="target", **QUICK).fit(x, y)
    new, given = linear(1_000, 1)
    truth = stats.norm(3 * given, 0.5).logpdf(new[:, 0]).mean()
    assert density.score(new, given) > truth - 0.1
    drawn = density.sample(2_000, [1.0], random_state=0)
    assert drawn.mean() == pytest.approx(3, abs=0.15)
    z = density.transform(new, given)
    np.testing.assert_allclose(density.inverse_transform(z, given), new, atol=1e-6)


def test_given_classes_of_any_kind():
    names = IRIS.target_names[IRIS.target]
    density = FlowDensity(context="classes", **QUICK).fit(IRIS.data, names)
    numbers = FlowDensity(context="classes", **QUICK).fit(IRIS.data, IRIS.target)
    np.testing.assert_allclose(
        density.score_samples(IRIS.data, names), numbers.score_samples(IRIS.data, IRIS.target)
    )
    assert density.sample(3, ["setosa"]).shape == (3, 4)
    assert density.flow_.context.category.values == tuple(IRIS.target_names)
    with pytest.raises(ValueError, match="none of its values"):
        density.sample(3, ["tulip"])


def test_given_columns_by_name_is_given_their_values():
    frame = pd.DataFrame(IRIS.data, columns=["a", "b", "c", "d"])
    by_name = FlowDensity(context=["b"], **QUICK).fit(frame)
    by_position = FlowDensity(context=[1], **QUICK).fit(IRIS.data)
    by_target = FlowDensity(context="target", **QUICK).fit(IRIS.data[:, [0, 2, 3]], IRIS.data[:, 1])
    expected = by_target.score_samples(IRIS.data[:, [0, 2, 3]], IRIS.data[:, 1])
    np.testing.assert_allclose(by_name.score_samples(frame), expected)
    np.testing.assert_allclose(by_position.score_samples(IRIS.data), expected)
    assert by_name.transform(frame).shape == (150, 3)
    drawn = by_position.sample(5, [[3.5]], random_state=0)
    assert drawn.shape == (5, 4) and (drawn[:, 1] == 3.5).all()
    back = by_position.inverse_transform(by_position.transform(IRIS.data), IRIS.data[:, [1]])
    np.testing.assert_allclose(back, IRIS.data, atol=1e-8)


def test_text_among_the_columns_of_the_context():
    names = IRIS.target_names[IRIS.target]
    frame = pd.DataFrame({"a": IRIS.data[:, 0], "kind": names, "temp=C": IRIS.data[:, 1]})
    density = FlowDensity(context=["kind", "temp=C"], **QUICK).fit(frame)
    kind = Category("kind", tuple(IRIS.target_names))
    assert density.flow_.context.variables == (kind, Number("temp=C"))
    drawn = density.sample(4, [["setosa", 3.0]], random_state=0)
    assert list(drawn.columns) == list(frame.columns) and set(drawn["kind"]) == {"setosa"}
    assert np.isfinite(density.score_samples(drawn)).all()


def test_missing_values_and_truth_values_are_classes():
    frame = pd.DataFrame({"a": IRIS.data[:, 0], "b": IRIS.data[:, 1] > 3, "kind": "x"})
    frame.loc[:70, "kind"] = None
    density = FlowDensity(context=["b", "kind"], **QUICK).fit(frame)
    assert [len(v.values) for v in density.flow_.context.variables] == [2, 1]
    assert density.conditions_.modelled[1].missing
    assert np.isfinite(density.score_samples(frame)).all()


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"context": "target"}, lambda d: d.fit(IRIS.data), "give what each row"),
        ({"context": "y"}, lambda d: d.fit(IRIS.data, IRIS.target), "choose one of target"),
        ({"context": ["z"]}, lambda d: d.fit(IRIS.data), "the column 'z'"),
        ({"context": [0, 1, 2, 3]}, lambda d: d.fit(IRIS.data), "leave out at least one"),
        ({"context": [0]}, lambda d: d.fit(IRIS.data).sample(2), "give the context"),
        ({"context": [0]}, lambda d: d.fit(IRIS.data).sample(3, [1.0, 2.0]), "give 1 or 3"),
        ({"context": [0]}, lambda d: d.fit(IRIS.data).sample(1, [[1.0, 2.0]]), "2 columns"),
        ({}, lambda d: d.fit(IRIS.data).sample(2, [[1.0]]), "leave context out"),
        ({"networks": -1}, lambda d: d.fit(IRIS.data), "networks is -1"),
        ({"hidden": 1.5}, lambda d: d.fit(IRIS.data), "hidden is 1.5"),
        ({"device": "gpu"}, lambda d: d.fit(IRIS.data), "device is 'gpu'"),
        ({"learning_rate": 0}, lambda d: d.fit(IRIS.data), "learning_rate is 0"),
        ({"kinds": {"z": "number"}}, lambda d: d.fit(IRIS.data), "no column 'z'"),
    ],
)
def test_refusals_name_the_remedy(options, call, message):
    with pytest.raises(ValueError, match=message):
        call(FlowDensity(**QUICK | options))


# As an estimator


def test_names_of_columns_go_in_and_come_out():
    frame = pd.DataFrame(IRIS.data, columns=["a", "b", "c", "d"], index=range(5, 155))
    density = FlowDensity(**QUICK).fit(frame).set_output(transform="pandas")
    assert list(density.feature_names_in_) == ["a", "b", "c", "d"]
    z = density.transform(frame)
    assert list(z.columns) == [f"flowdensity{i}" for i in range(4)]
    assert list(z.index) == list(frame.index)
    for rows in (density.sample(2, random_state=0), density.inverse_transform(z)):
        assert isinstance(rows, pd.DataFrame) and list(rows.columns) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_copies_are_the_same(fitted, again):
    other = again(fitted)
    assert np.array_equal(other.score_samples(IRIS.data), fitted.score_samples(IRIS.data))
    assert np.array_equal(other.sample(3, random_state=0), fitted.sample(3, random_state=0))


def test_the_flow_is_saved_without_pickle(fitted, tmp_path):
    fitted.flow_.save_pretrained(tmp_path)
    flow = Flow.from_pretrained(tmp_path)
    log_prob = flow.log_prob(torch.from_numpy(IRIS.data)).detach().numpy()
    np.testing.assert_allclose(log_prob, fitted.score_samples(IRIS.data), rtol=1e-9)


def test_nothing_global_is_touched():
    torch.set_num_threads(2)
    try:
        torch.manual_seed(5)
        before = torch.random.get_rng_state()
        with torch.no_grad():
            one = FlowDensity(**NETWORK).fit(IRIS.data)
        one.sample(3)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.get_num_threads() == 2
        torch.manual_seed(6)
        torch.set_default_dtype(torch.float64)
        two = FlowDensity(**NETWORK).fit(IRIS.data)
        with torch.device("meta"):
            three = FlowDensity(**NETWORK).fit(IRIS.data)
    finally:
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float32)
    assert np.array_equal(one.score_samples(IRIS.data), two.score_samples(IRIS.data))
    assert np.array_equal(one.score_samples(IRIS.data), three.score_samples(IRIS.data))


def test_the_seed_matters():
    other = FlowDensity(**QUICK | {"random_state": 1}).fit(IRIS.data)
    again = FlowDensity(**QUICK | {"random_state": np.random.RandomState(1)}).fit(IRIS.data)
    assert np.array_equal(other.score_samples(IRIS.data), again.score_samples(IRIS.data))
    rows = np.random.default_rng(0).normal(size=(400, 2))
    rows[:, 1] += 3 * rows[:, 0] ** 2
    one, two = (FlowDensity(**NETWORK | {"random_state": seed}).fit(rows) for seed in (0, 1))
    assert min(one.best_iter_, two.best_iter_) > 0
    assert not np.array_equal(one.score_samples(rows), two.score_samples(rows))


@pytest.mark.parametrize("backend", ["threading", pytest.param("loky", marks=pytest.mark.slow)])
def test_jobs_side_by_side_find_what_one_finds(fitted, backend):
    if backend == "loky":
        pytest.importorskip("joblib.externals.loky")
    jobs = [delayed(FlowDensity(**QUICK).fit)(IRIS.data) for _ in range(3)]
    for other in Parallel(n_jobs=2, backend=backend)(jobs):
        np.testing.assert_allclose(
            other.score_samples(IRIS.data), fitted.score_samples(IRIS.data), rtol=1e-9
        )


def test_in_a_pipeline_and_a_grid():
    pipe = make_pipeline(StandardScaler(), FlowDensity(**QUICK))
    grid = GridSearchCV(pipe, {"flowdensity__learning_rate": [1e-3, 1e-2]}, cv=2).fit(IRIS.data)
    assert np.isfinite(grid.cv_results_["mean_test_score"]).all()
    assert grid.best_estimator_.score_samples(IRIS.data).shape == (150,)
    given = FlowDensity(context="classes", **QUICK)
    assert np.isfinite(cross_val_score(given, IRIS.data, IRIS.target, cv=StratifiedKFold(2))).all()


def test_verbose_prints_progress(capsys):
    FlowDensity(**NETWORK, verbose=1).fit(IRIS.data)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20 and lines[-1].startswith("step 20/20")
    FlowDensity(**NETWORK).fit(IRIS.data)
    assert not capsys.readouterr().out


# Outliers


def test_the_share_of_outliers_is_the_contamination():
    detector = FlowOutlierDetector(FlowDensity(**QUICK), contamination=0.2)
    labels = detector.fit_predict(IRIS.data)
    assert (labels == -1).sum() == detector.labels_.sum() == 30
    assert np.array_equal(detector.decision_scores_ > -detector.offset_, labels == -1)
    decision = detector.decision_function(IRIS.data)
    np.testing.assert_allclose(detector.score_samples(IRIS.data) - detector.offset_, decision)
    proba = detector.predict_proba(IRIS.data)
    assert proba.shape == (150, 2) and (proba.sum(1) == 1).all()
    assert np.argmax(proba[:, 1]) == np.argmin(detector.score_samples(IRIS.data))


def test_new_rows_are_flagged_as_often_as_contamination_says():
    random = np.random.default_rng(0)
    detector = FlowOutlierDetector(FlowDensity(**QUICK), contamination=0.05)
    flagged = []
    for _ in range(3):
        detector.fit(random.normal(size=(200, 6)))
        flagged.append((detector.predict(random.normal(size=(4_000, 6))) == -1).mean())
    assert 0.03 < np.mean(flagged) < 0.08


def test_raw_scores_are_the_density(fitted):
    detector = FlowOutlierDetector(FlowDensity(**QUICK), trim=0).fit(IRIS.data)
    new = IRIS.data[:, [1, 0, 3, 2]]
    np.testing.assert_allclose(detector.score_samples(new), fitted.score_samples(new), rtol=1e-9)


def test_training_rows_are_scored_by_the_members_that_left_them_out(fitted):
    detector = FlowOutlierDetector(FlowDensity(**QUICK), trim=0).fit(IRIS.data)
    held_out = fitted.validation_indices_
    scores = detector.score_samples(IRIS.data)
    np.testing.assert_allclose(scores[held_out], fitted.held_out_scores_, rtol=1e-9)
    assert scores.mean() < fitted.score(IRIS.data)
    assert np.array_equal(detector.predict(IRIS.data) == -1, detector.labels_ == 1)


def test_a_row_is_strange_for_its_context():
    x, y = linear(800)
    table = np.c_[x, y]
    density = FlowDensity(context=[1], **QUICK)
    detector = FlowOutlierDetector(density, contamination=0.01).fit(table)
    assert list(detector.predict([[3.0, 1.0], [3.0, -1.0]])) == [1, -1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contamination": 0.0}, "contamination is 0.0"),
        ({"contamination": 0.6}, "contamination is 0.6"),
        ({"density": FlowDensity(context="target")}, "name columns"),
    ],
)
def test_a_detector_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        FlowOutlierDetector(**options).fit(IRIS.data)


def test_the_density_of_a_detector_is_a_copy():
    density = FlowDensity(**QUICK)
    detector = clone(FlowOutlierDetector(density, random_state=3)).fit(IRIS.data)
    assert not hasattr(density, "flow_")
    assert detector.density_.random_state == 3
    assert detector.get_params()["density__networks"] == 0


# Examples


@pytest.mark.parametrize("part", ["", ".density", ".detector"])
def test_examples_say_what_happens(part):
    found = doctest.testmod(sys.modules[f"diffeo.sklearn{part}"])
    assert found.attempted > 3 and not found.failed


# Weights of rows, and outliers without a share


def test_a_weighted_fit_is_the_density_that_the_weights_make():
    """N(0, 1) weighted by exp(x) is N(1, 1) times a constant."""
    x = np.random.default_rng(0).normal(size=(4_000, 1))
    density = FlowDensity(**QUICK).fit(x, sample_weight=np.exp(x[:, 0]))
    grid = np.linspace(-0.5, 2, 50)[:, None]
    np.testing.assert_allclose(
        density.score_samples(grid), stats.norm(1).logpdf(grid[:, 0]), atol=0.12
    )


def test_rows_of_weight_0_do_not_count_and_whole_weights_are_copies():
    x = np.random.default_rng(0).normal(size=(300, 2))
    junk = np.vstack([x, np.full((50, 2), 40.0) + x[:50]])
    weights = np.r_[np.ones(300), np.zeros(50)]
    weighted = FlowDensity(**QUICK).fit(junk, sample_weight=weights)
    plain = FlowDensity(**QUICK).fit(x)
    np.testing.assert_array_equal(weighted.score_samples(x), plain.score_samples(x))
    assert weighted.validation_indices_.max() < 300
    fractions = np.random.default_rng(1).uniform(0.2, 2, 300)
    distinct = Distinct.of(x, None, fractions)
    np.testing.assert_allclose(distinct.counts[distinct.places], fractions / fractions.mean())


def test_a_table_with_repeated_rows_is_that_of_their_weights_and_never_learns_a_held_out_row():
    x = np.random.default_rng(0).normal(size=(60, 2))
    counts = np.random.default_rng(1).integers(0, 4, 60)
    repeated, weighted = FlowDensity(**QUICK), FlowDensity(**QUICK)
    repeated.fit(x.repeat(counts, axis=0))
    weighted.fit(x, sample_weight=counts)
    np.testing.assert_array_equal(repeated.score_samples(x), weighted.score_samples(x))
    rows = x.repeat(counts, axis=0)
    held_out = rows[repeated.validation_indices_]
    learned = np.delete(rows, repeated.validation_indices_, axis=0)
    assert len(held_out) and not {tuple(row) for row in held_out} & {tuple(row) for row in learned}


def test_a_score_is_weighted(fitted):
    weights = np.random.default_rng(0).uniform(0, 2, len(IRIS.data))
    truth = (fitted.score_samples(IRIS.data) * weights).sum() / weights.sum()
    assert fitted.score(IRIS.data, sample_weight=weights) == pytest.approx(truth)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0], "sample_weight.shape"),
        (-np.ones(150), "negative"),
        (np.eye(150)[0], "above 0 for at least 2"),
    ],
)
def test_wrong_weights_are_refused(weights, words):
    with pytest.raises(ValueError, match="(?i)" + words):
        FlowDensity(**QUICK).fit(IRIS.data, sample_weight=weights)


def test_auto_contamination_calls_a_hundredth_of_rows_that_were_held_out_outliers():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2_000, 2))
    density = FlowDensity(**QUICK)
    detector = FlowOutlierDetector(density, contamination="auto").fit(x)
    held_out = detector.predict(x[detector.density_.validation_indices_]) == -1
    assert held_out.mean() == pytest.approx(0.01, abs=0.0015)
    new = detector.predict(rng.normal(size=(20_000, 2))) == -1
    assert 0.003 < new.mean() < 0.025
    assert (detector.predict([[7.0, -7.0]]) == -1).all()


def test_the_offset_of_equal_weights_is_the_quantile_and_weights_move_it():
    x = np.random.default_rng(0).normal(size=(400, 2))
    density = FlowDensity(**QUICK)
    plain = FlowOutlierDetector(density, contamination=0.07).fit(x)
    assert plain.offset_ == np.sort(-plain.decision_scores_)[28]
    weights = np.r_[np.full(200, 3.0), np.ones(200)]
    weighted = FlowOutlierDetector(density, contamination=0.07).fit(x, sample_weight=weights)
    flagged = weighted.labels_ == 1
    assert weights[flagged].sum() / weights.sum() == pytest.approx(0.07, abs=0.01)


def test_one_column_with_three_modes_has_nearly_its_closed_form():
    rng = np.random.default_rng(0)

    def draw(n):
        return rng.choice([-4.0, 0.0, 4.0], (n, 1), p=[0.3, 0.4, 0.3]) + 0.5 * rng.normal(
            size=(n, 1)
        )

    new = draw(5_000)
    parts = zip((0.3, 0.4, 0.3), (-4, 0, 4), strict=True)
    truth = np.log(sum(w * stats.norm(m, 0.5).pdf(new) for w, m in parts)).mean()
    density = FlowDensity(random_state=0).fit(draw(1_500))
    assert density.score(new) == pytest.approx(truth, abs=0.05)
    grid = np.linspace(-30, 30, 20_001)
    assert np.trapezoid(np.exp(density.score_samples(grid[:, None])), grid) == pytest.approx(
        1, abs=1e-6
    )


# Tables as they are


def mixed(rows: int = 300, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    kind = random.choice(["oak", "fir"], rows)
    height = np.round(random.normal(np.where(kind == "oak", 12, 25), 3), 1)
    frame = pd.DataFrame(
        {
            "kind": pd.Categorical(kind),
            "height": np.where(random.random(rows) < 0.1, np.nan, height),
            "nests": random.poisson(np.where(kind == "oak", 3, 0.5)),
            "old": random.random(rows) < 0.3,
            "planted": pd.Timestamp("2001-03-01")
            + pd.to_timedelta(random.integers(0, 900, rows), "D"),
            "rain": np.where(random.random(rows) < 0.7, 0.0, random.exponential(0.05, rows)),
            "town": "Ulm",
        }
    )
    frame["kind"] = frame["kind"].where(random.random(rows) > 0.05)
    return frame


def test_a_table_of_any_columns_is_learned_and_sampled_as_it_is(tmp_path):
    frame = mixed()
    density = FlowDensity(**QUICK).fit(frame)
    drawn = density.sample(1_000, random_state=0)
    assert drawn.dtypes.to_dict() == frame.dtypes.to_dict()
    assert (drawn["town"] == "Ulm").all()
    assert set(drawn["kind"].dropna()) == {"oak", "fir"}
    assert (drawn["nests"] >= 0).all() and (drawn["rain"] >= 0).all()
    assert drawn["rain"].max() < 5 * frame["rain"].max()
    assert np.isfinite(density.score_samples(drawn)).all()
    np.testing.assert_allclose(drawn["height"].round(1), drawn["height"])
    assert drawn["height"].isna().mean() == pytest.approx(0.1, abs=0.06)
    density.flow_.save_pretrained(tmp_path)
    assert Flow.from_pretrained(tmp_path).schema == density.schema_
    again = density.inverse_transform(density.transform(frame))
    pd.testing.assert_frame_equal(again[["kind", "nests", "old"]], frame[["kind", "nests", "old"]])


def test_rows_of_impossible_cells_have_no_density():
    frame = mixed()
    density = FlowDensity(**QUICK).fit(frame)
    rows = frame.head(3).copy()
    rows["kind"] = rows["kind"].astype(str)
    rows.loc[0, "kind"] = "ash"
    rows.loc[1, "rain"] = -1.0
    assert list(np.isfinite(density.score_samples(rows))) == [False, False, True]

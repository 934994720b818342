"""The worked problems: their answers are those of the truth, and a poor model is found out."""

from __future__ import annotations

import dataclasses
import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.special import xlogy
from scipy.stats import norm, poisson
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).resolve().parents[1]
NEEDS = {"posterior": {"pyro": "pyro"}, "lossless": {"constriction": "compression"}}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def example(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """The script that `problem` names; skipped where a package that it needs is missing."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    name = request.param
    for package, extra in NEEDS.get(name, {}).items():
        pytest.importorskip(package, reason=f"needs {package}: pip install 'diffeo[{extra}]'")
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


def problem(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("example", [name], indirect=True)


def drawn(path: Path) -> bool:
    return path.stat().st_size > 5_000


def test_each_problem_has_a_page_an_image_and_a_test():
    listed = (ROOT / "docs/examples/index.md").read_text(encoding="utf-8")
    tests = Path(__file__).read_text(encoding="utf-8")
    for script in sorted((ROOT / "examples").glob("*.py")):
        name = script.stem.replace("_", "-")
        page = (ROOT / f"docs/examples/{name}.md").read_text(encoding="utf-8")
        assert f"../images/example-{name}.png" in page, name
        assert f"examples/{script.name}" in page, name
        assert f"]({name}.md)" in listed, name
        assert f'problem("{script.stem}")' in tests, name
        assert (ROOT / f"docs/images/example-{name}.png").stat().st_size < 150_000, name


@problem("boltzmann")
def test_the_free_energy_of_two_basins_is_that_of_a_grid(example, tmp_path):
    assert example.main(["--steps", "200", "--out", str(tmp_path / "b.png")]) == 0
    assert drawn(tmp_path / "b.png")
    # The grid is exact: twice as fine, it says the same.
    flow = example.learn(0)
    rough = example.solve(flow, 2_000)
    example.GRID *= 2
    assert example.solve(flow, 2_000).truth == pytest.approx(rough.truth, abs=1e-6)
    assert not rough.checks()["effective sample size above half of the draws"]
    # Draws without weights are not the answer: those of an untrained flow know no basin.
    assert abs(rough.unweighted - rough.truth) > 1


@problem("posterior")
def test_a_posterior_is_learned_and_its_ranks_are_looked_at(example, capsys):
    """tests/test_distribution.py learns it to the end, and compares it with a grid."""
    # After one step it is the prior, whose ranks are uniform as well; but not if it is narrowed.
    assert example.main(["--steps", "1", "--epidemics", "500"]) == 0
    assert example.main(["--steps", "1", "--epidemics", "500", "--width", "0.7"]) == 1
    assert "NOT calibrated" in capsys.readouterr().out


@problem("eight_schools")
def test_the_posterior_of_eight_schools_is_that_of_one_integral(example, tmp_path):
    assert example.main(["--steps", "300", "--out", str(tmp_path / "s.png")]) == 0
    assert drawn(tmp_path / "s.png")
    poor = example.solve(example.learn(10), 2_000).checks()
    assert not poor["means of the guide right to 0.1 standard deviations"]


@problem("eight_schools")
def test_the_truth_of_eight_schools_is_that_of_weighted_draws_of_the_prior(example):
    """By another road: the likelihood as weights, with neither flow nor closed forms."""
    noise = torch.randn(400_000, 10, dtype=torch.float64)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(1)
    log_weights = example.log_joint(noise) - prior
    weights, drawn_values = log_weights.softmax(0), example.parameters(noise)
    mean, std, evidence, _ = example.exact()
    found = weights @ drawn_values
    error = (weights.square() @ (drawn_values - found).square()).sqrt()
    assert ((found - mean).abs() < 4.5 * error).all()
    assert float(error.max()) < 0.1
    assert (weights @ (drawn_values - found).square()).sqrt().numpy() == pytest.approx(
        std.numpy(), rel=0.03
    )
    assert float(log_weights.logsumexp(0)) - math.log(len(noise)) == pytest.approx(
        evidence, abs=0.02
    )


@problem("forecast")
def test_forecasts_are_calibrated_where_those_of_a_regression_are_not(example, tmp_path):
    new, found = example.forecasts(1_400, 600, seed=0)
    held = {name: example.checks(each, found["truth"], new, 1_400) for name, each in found.items()}
    assert all(held["truth"].values())
    assert all(held["flow"].values()), held["flow"]
    assert not held["regression"]["coverage of calm times right to 4 standard errors"]
    assert not held["regression"]["CRPS at most 5 % above that of the truth"]
    example.draw(new, found, tmp_path / "f.png")
    assert drawn(tmp_path / "f.png")


@problem("forecast")
def test_the_score_of_quantiles_is_the_crps(example):
    """Of a standard normal forecast it is known in closed form (Gneiting & Raftery 2007)."""
    y = np.array([-1.5, 0.0, 0.4])
    found = example.of_quantiles(lambda a: norm.ppf(a)[None].repeat(3, 0), norm.cdf(y), y)
    closed = y * (2 * norm.cdf(y) - 1) + 2 * norm.pdf(y) - 1 / math.sqrt(math.pi)
    assert found.crps == pytest.approx(closed, abs=3e-3)


@problem("rare_event")
def test_the_probability_of_a_rare_event_is_that_of_an_integral(example, tmp_path):
    assert example.main(["--steps", "250", "--out", str(tmp_path / "r.png")]) == 0
    assert drawn(tmp_path / "r.png")
    assert not example.solve(0, 2_000).checks()["standard error below 5 %"]


@problem("rare_event")
def test_the_integral_is_that_of_plain_draws_where_failures_are_common(example, monkeypatch):
    monkeypatch.setattr(example, "LIMITS", (1.0, 1.3))
    failed = (example.margins(torch.randn(200_000, example.INPUTS)) > 0).double()
    assert abs(float(failed.mean()) - example.truth()) < 4.5 * float(failed.std()) / 200_000**0.5


@problem("odd_cells")
def test_the_wrong_cell_of_a_row_is_named(example, tmp_path):
    answer = example.solve(1)
    assert all(answer.checks().values()), answer.checks()
    example.draw(answer, tmp_path / "o.png")
    assert drawn(tmp_path / "o.png")
    # Rows without an error are neither found nor explained.
    random = np.random.default_rng(0)
    blind = dataclasses.replace(
        answer,
        wrong=answer.intact,
        first=random.uniform(size=len(answer.first)) < 1 / 7,
    )
    assert list(blind.checks().values()) == [False, False, True]


@problem("odd_cells")
def test_one_cell_of_each_row_is_exchanged(example):
    rows = example.tumours()
    wrong, places = example.exchanged(rows, np.random.default_rng(0))
    assert ((wrong != rows).to_numpy().sum(1) == 1).all()
    assert (wrong != rows).to_numpy()[np.arange(len(rows)), places].all()


@problem("synthetic_table")
def test_synthetic_rows_are_as_good_as_real_ones_and_bad_ones_are_found(example, tmp_path):
    new, made, reports = example.solve(800)
    failed = {
        name: [check.split()[0] for check, holds in found.checks().items() if not holds]
        for name, found in reports.items()
    }
    assert failed["flow"] == failed["other real rows"] == []
    assert failed["columns alone"] == ["forest:", "correlations", "the"]
    assert failed["copies"] == ["not"]
    example.draw(new, made, tmp_path / "s.png")
    assert drawn(tmp_path / "s.png")
    assert example.outside(made.assign(rooms=0)) == len(made)
    assert example.outside(made.assign(kind="castle")) == len(made)


@problem("lossless")
def test_a_file_is_as_small_as_the_probability_of_its_table(example, tmp_path):
    answer = example.solve(rows=1_500, learned=800)
    checks = answer.checks()
    # Of so few rows the header is a good part, so that general methods may be as good.
    assert all(holds for name, holds in checks.items() if "general" not in name), checks
    example.draw(answer, tmp_path / "l.png")
    assert drawn(tmp_path / "l.png")
    cheat = dataclasses.replace(answer, model=0.9 * answer.truth, file=int(0.9 * answer.truth))
    assert not cheat.checks()["the model does not beat the source"]


@problem("lossless")
def test_the_source_says_how_probable_its_rows_are(example):
    """The mean of -log2 p is the entropy, which is a sum over all values of a row."""
    table = example.weather(4_000, np.random.default_rng(0))
    bits = np.array([example.true_bits(table[i : i + 100]) for i in range(0, 4_000, 100)]) / 100
    values = np.round(np.arange(-200, 600) * example.STEP, 1)
    entropy = -(example.SHARES * np.log2(example.SHARES)).sum()
    for share, mean, std, gusts in zip(
        example.SHARES, example.WARMTH, example.SPREAD, example.WIND, strict=True
    ):
        for p in (
            np.diff(norm.cdf(np.r_[values, 60] - example.STEP / 2, mean, std)),
            np.diff(norm.cdf(np.r_[values, 60] - example.STEP / 2, 10, 1.0)),
            np.r_[example.FAULT, (1 - example.FAULT) * poisson.pmf(np.arange(60), gusts)],
        ):
            entropy -= share * xlogy(p, p).sum() / math.log(2)
    assert abs(bits.mean() - entropy) < 4 * bits.std() / math.sqrt(len(bits))


@problem("edit_shapes")
def test_edited_shapes_have_the_attributes_that_were_asked_for(example, tmp_path):
    answer = example.solve(60)
    assert all(answer.checks().values()), answer.checks()
    example.draw(answer, tmp_path / "e.png")
    assert drawn(tmp_path / "e.png")
    unchanged = list(example.solve(30, change=False).checks().values())
    assert unchanged == [True, False, False, True, False, False, True]


@problem("unfamiliar_images")
def test_a_black_image_fools_the_likelihood_and_not_what_corrects_it(example, tmp_path):
    answer = example.solve(100)
    assert all(answer.checks().values()), answer.checks()
    example.draw(answer, tmp_path / "u.png")
    assert drawn(tmp_path / "u.png")
    # A detector that finds black images by their likelihood would contradict the page.
    answer.found["black"]["log_prob"] = (0.9, 0.01)
    assert not answer.checks()["black: preferred by the likelihood"]


@problem("unfamiliar_images")
def test_the_auroc_is_that_of_scikit_learn_and_its_error_that_of_repetition(example):
    random = np.random.default_rng(0)
    pairs = [(random.normal(1, 1, 60), random.normal(0, 1, 40)) for _ in range(400)]
    found = np.array([example.auroc(*pair) for pair in pairs])
    truth = np.r_[np.ones(60), np.zeros(40)]
    assert found[0, 0] == pytest.approx(roc_auc_score(truth, np.concatenate(pairs[0])))
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.15)

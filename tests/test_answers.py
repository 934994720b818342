"""Any conditional of a model of a mixed table: closed forms, and estimates with their errors."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from mixed_tables import SCHEMA, mixed_table
from scipy import stats

from diffeo import answers
from diffeo.answers.spread import Spread
from diffeo.cli import main
from diffeo.data.tables.frames import decode
from diffeo.mixed.growing import Growing
from diffeo.mixed.members import Sizes
from diffeo.mixed.posterior import MixturePosterior
from diffeo.mixed.tools import Tools
from diffeo.models.mixed import MixedFlow
from diffeo.schema import CategoryColumn, DateColumn, NumberColumn, Schema
from diffeo.training.mixed import Settings, fit_mixed

pytestmark = pytest.mark.usefixtures("one_thread")


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
def test_values_come_from_scores_as_their_distribution_function_has_them(mixed):
    tools = Tools(mixed.stack)
    y = 2 * torch.randn(50, generator=torch.Generator().manual_seed(0)).double()
    for c in range(3):
        scores = tools.scores(c, tools.inverse(0, c)(y))[0]
        assert (scores.low - 1e-11 <= y).all()
        assert (y <= scores.high + 1e-11).all()


@torch.no_grad()
def test_samples_are_those_of_decoded_noise(mixed):
    generator = torch.Generator().manual_seed(0)
    drawn = mixed.sample(1_000, generator=generator)
    other = mixed.decode(mixed.noise(120, generator))
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
        assert abs(p - q) < 4 * math.sqrt(float(p * (1 - p)) * (1 / 1_000 + 1 / 120))
    twice = [mixed.sample(9, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    assert torch.equal(twice[0].nan_to_num(), twice[1].nan_to_num())


# Closed forms -------------------------------------------------------------------------------------

MEAN = np.array([1.0, -2.0, 10.0, 0.0])
SPREAD = np.array([2.0, 0.5, 3.0, 1.0])
NORMAL = Schema(tuple(NumberColumn(name) for name in "abcd"))


def covariance() -> np.ndarray:
    loads = np.array([[1.0, 0.3], [0.8, -0.5], [-0.9, 0.2], [0.7, 0.7]])
    whole = loads @ loads.T + 0.1 * np.eye(4)
    scale = SPREAD / np.sqrt(np.diag(whole))
    return whole * np.outer(scale, scale)


@pytest.fixture(scope="module")
def normal() -> MixedFlow:
    """A multivariate normal distribution, by its numbers."""
    flow = MixedFlow(NORMAL, Sizes(networks=0)).double().eval()
    stack = flow.stack
    stack.marginals.place.copy_(torch.tensor(MEAN))
    stack.marginals.unit.copy_(torch.tensor(SPREAD))
    correlation = covariance() / np.outer(SPREAD, SPREAD)
    root = np.linalg.inv(np.linalg.cholesky(correlation))
    stack.gaussians.root.copy_(torch.tensor(root))
    return flow


@pytest.fixture(scope="module")
def classes() -> MixedFlow:
    """Categories that are independent in each of several latent classes, by random numbers."""
    columns = [CategoryColumn("u", ("a", "b"), missing=True), CategoryColumn("v", ("x", "y", "z"))]
    columns += [CategoryColumn("w", (1, 2, 3, 4)), CategoryColumn("t", (True, False))]
    return random_categories(
        MixedFlow(Schema(tuple(columns)), Sizes(mixtures=2, mixture=3, networks=0))
    )


def random_categories(flow: MixedFlow) -> MixedFlow:
    generator = torch.Generator().manual_seed(3)
    flow.double().eval()
    members = flow.stack.gaussians
    for table in [members.log_w, *(members.category(g) for g in range(4))]:
        table.copy_((2 * torch.randn(table.shape, generator=generator)).log_softmax(-1))
    for weight in flow.parameters():
        weight.data += 0.5 * torch.randn(weight.shape, generator=generator)
    return flow


def cells(flow: MixedFlow) -> tuple[torch.Tensor, torch.Tensor]:
    """All rows of categories, and their probabilities by the model."""
    places = [[*range(c.count), *([math.nan] if c.missing else [])] for c in flow.schema.columns]
    x = torch.cartesian_prod(*(torch.tensor(p, dtype=torch.float64) for p in places))
    with torch.no_grad():
        return x, flow.log_prob(x).exp()


def truth(flow: MixedFlow, given: dict, place: int) -> np.ndarray:
    """The probabilities of a category by enumeration; of a cell that is not empty."""
    x, p = cells(flow)
    for i, value in given.items():
        same = x[:, i].isnan() if math.isnan(value) else x[:, i] == value
        p = p * same
    count = flow.schema.columns[place].count
    found = np.array([float(p[x[:, place] == value].sum()) for value in range(count)])
    return found / found.sum()


def test_conditionals_of_a_normal_distribution_are_its_closed_form(normal):
    cov = covariance()
    for known in ([], [0], [3], [1, 2], [0, 3], [0, 1, 3]):
        rest = [i for i in range(4) if i not in known]
        x = MEAN[known] + 0.7 * SPREAD[known]
        weights = cov[np.ix_(rest, known)] @ np.linalg.inv(cov[np.ix_(known, known)])
        mean = MEAN[rest] + weights @ (x - MEAN[known])
        var = cov[np.ix_(rest, rest)] - weights @ cov[np.ix_(known, rest)]
        asked = answers.conditional(normal, {"abcd"[i]: v for i, v in zip(known, x, strict=True)})
        for i, place in enumerate(rest):
            name, sd = "abcd"[place], var[i, i] ** 0.5
            found = asked.mean(name)
            assert found.exact
            assert found.value == pytest.approx(mean[i], abs=1e-8 * SPREAD[place])
            low, high = asked.interval(name, 0.9)
            assert low.value == pytest.approx(mean[i] - 1.6448536 * sd, abs=2e-3 * sd)
            assert high.value == pytest.approx(mean[i] + 1.6448536 * sd, abs=2e-3 * sd)
            assert asked.cdf(name, mean[i] + sd).value == pytest.approx(0.8413447, abs=1e-3)
        point = mean + 0.3 * np.sqrt(np.diag(var))
        found = asked.log_prob({"abcd"[i]: v for i, v in zip(rest, point, strict=True)})
        assert found.exact
        assert found.value == pytest.approx(stats.multivariate_normal(mean, var).logpdf(point))
        if rest == [1, 2, 3]:
            drawn = asked.sample(4_000).to_numpy()
            assert np.allclose(drawn.mean(0), mean, atol=5 * np.sqrt(np.diag(var) / 4_000).max())
            assert np.allclose(np.cov(drawn.T), var, atol=0.1 * np.diag(var).max())


def test_conditionals_of_latent_classes_are_exact_for_every_subset(classes):
    for count in range(4):
        for known in itertools.combinations(range(4), count):
            place = next(i for i in (2, 0, 1, 3) if i not in known)
            given = dict.fromkeys(known, 1.0)
            columns = classes.schema.columns
            named = {columns[i].name: columns[i].values[1] for i in known}
            found = answers.conditional(classes, named).probabilities(columns[place].name)
            assert found.exact
            assert np.allclose([*found.value.values()], truth(classes, given, place), atol=1e-10)
    empty = answers.conditional(classes, {"u": None, "w": 3}, ["v"]).probabilities("v")
    assert np.allclose([*empty.value.values()], truth(classes, {0: math.nan, 2: 2.0}, 1))


def test_estimates_are_as_close_to_enumeration_as_they_say(classes):
    flow = MixedFlow(classes.schema, Sizes(mixtures=2, mixture=3, hidden=16))
    random_categories(flow)
    errors = []
    for seed in range(3):
        for given in ({"w": 4}, {"v": "y"}, {"t": True, "w": 1}):
            names = [c.name for c in flow.schema.columns]
            places = {
                names.index(k): float(flow.schema.columns[names.index(k)].values.index(v))
                for k, v in given.items()
            }
            asked = answers.conditional(flow, given, draws=1_024, seed=seed)
            for name in asked.want:
                found = asked.probabilities(name)
                exact = truth(flow, places, names.index(name))
                off = np.array([*found.value.values()]) - exact
                if found.exact:
                    assert np.abs(off).max() < 1e-9
                else:
                    errors += [*(off / np.array([*found.standard_error.values()]))]
    errors = np.abs(errors)
    assert (errors < 3).mean() > 0.97
    assert (errors > 0.3).mean() > 0.4


@torch.no_grad()
def test_estimates_of_a_mixed_table_agree_with_sums_over_what_is_not_asked(mixed):
    values = [*itertools.product((0, 1, 2, 3, 4, math.nan), (0, 1, math.nan))]
    x = torch.tensor([[*v, 0.5, 1.2] for v in values], dtype=torch.float64)
    p = mixed.log_prob(x).exp()
    exact = np.array([float(p[x[:, 0] == count].sum()) for count in range(5)])
    asked = answers.conditional(mixed, {"rain": 0.5, "size": 1.2}, ["count"], draws=2_048)
    found = asked.probabilities("count")
    assert not found.exact
    off = np.array([*found.value.values()]) - exact / exact.sum()
    assert (np.abs(off) < 3.5 * np.array([*found.standard_error.values()])).all()
    one = asked.log_prob({"count": 2})
    truth = math.log(exact[2] / float(p.sum()))
    assert abs(one.value - truth) < 4 * one.standard_error
    rows = asked.sample(50)
    assert [*rows.columns] == ["count"]
    assert {*rows["count"].dropna()} <= {0, 1, 2, 3, 4}


@torch.no_grad()
def test_parts_of_the_particles_may_lack_values_of_a_count(mixed):
    def spread(*mass: float) -> Spread:
        x = torch.arange(len(mass), dtype=torch.float64)[None]
        masses = torch.tensor([mass], dtype=torch.float64)
        return Spread(x, masses, torch.ones_like(x, dtype=torch.bool), masses.log(), None)

    asked = answers.conditional(mixed, {"rain": 0.5, "size": 1.2}, ["count"], draws=64)
    parts = [spread(1.0)] * len(asked.particles.shares)
    asked._spreads["count"] = spread(0.5, 0.25, 0.25), parts
    found = asked.probabilities("count")
    assert found.value == {0: 0.5, 1: 0.25, 2: 0.25}
    assert found.standard_error[1] == pytest.approx(found.standard_error[0] / 2)
    assert len(answers.draw_distributions(asked).axes) == 1


@torch.no_grad()
def test_rows_that_mixtures_expect_have_their_weight_at_the_ends_of_grids_too(mixed):
    values = [*itertools.product((0, 1, 2, 3, 4, math.nan), (0, 1, math.nan))]
    x = torch.tensor([[*v, 0.5, 1.2] for v in values], dtype=torch.float64)
    p = mixed.stack.log_joint(x).exp()
    known = torch.tensor([[False, False, True, True]])
    posterior = MixturePosterior(Tools(mixed.stack), x[:1], known)
    rows, log_q = posterior.draw(20_000, torch.Generator().manual_seed(0))
    w = (mixed.stack.log_joint(rows[0]) - log_q[0]).exp()
    for count in range(5):
        found = w * (rows[0, :, 0] == count)
        error = float(found.std()) / len(w) ** 0.5
        assert abs(float(found.mean() - p[x[:, 0] == count].sum())) < 4 * error


@torch.no_grad()
def test_one_unknown_column_is_exact(mixed):
    row = {"count": 1, "colour": "blue", "size": 2.0}
    asked = answers.conditional(mixed, row)
    y = torch.cat((torch.zeros(1), torch.linspace(-14, 5, 4_000).exp())).double()
    fixed = torch.tensor([1.0, 1.0, math.nan, 2.0]).double().repeat(len(y), 1)
    fixed[:, 2] = y
    p = mixed.log_prob(fixed).exp()
    total = float(p[0] + torch.trapezoid(p[1:], y[1:]))
    assert asked.mean("rain").exact
    assert asked.cdf("rain", 0.0).value == pytest.approx(float(p[0]) / total, rel=1e-3)
    mean = float(torch.trapezoid(p[1:] * y[1:], y[1:])) / total
    assert asked.mean("rain").value == pytest.approx(mean, rel=1e-3)
    assert asked.log_prob({"rain": 0.7}).value == pytest.approx(
        float(mixed.log_prob(torch.tensor([[1.0, 1.0, 0.7, 2.0]]).double())) - math.log(total),
        abs=1e-3,
    )


def test_dates_are_answered_as_they_stand_in_the_table():
    day = DateColumn("day", step=1.0, low=0.0, high=40_000.0)
    random = np.random.default_rng(0)
    days = random.integers(19_000, 19_100, 200).astype(float)
    x = np.stack([days, (days - 19_050) / 30 + random.normal(size=200)], 1)
    schema = Schema((day, NumberColumn("y")))
    flow = fit_mixed(schema, torch.tensor(x), settings=Settings(networks=0)).flow
    asked = answers.conditional(flow, {"y": 0.0})
    assert "2022-02-01" < asked.quantile("day", 0.5).value < "2022-03-20"
    after = asked.cdf("day", "2022-04-15").value
    assert asked.cdf("day", "2022-01-05").value < 0.2 < 0.8 < after
    assert answers.conditional(flow, {"day": "2022-02-27"}).mean("y").value == pytest.approx(
        0, abs=0.5
    )


def test_a_question_lists_all_that_is_wrong_with_it(mixed):
    with pytest.raises(ValueError, match="colour") as error:
        answers.conditional(mixed, {"colour": "rde", "size": "tall", "count": 9})
    assert error.value.sentences == (
        "column 'count' holds '9', not in its range, 0 to 4: correct it.",
        "column 'colour' holds 'rde', none of its values (did you mean 'red'?): correct it to one "
        "of red, blue, or ask for other values (other: true).",
        "column 'size' holds 'tall', no number: correct it.",
    )
    with pytest.raises(ValueError, match="there is no column 'sise'"):
        answers.conditional(mixed, {"sise": 2})


# Gaps and odd cells -------------------------------------------------------------------------------


def test_gaps_are_filled_by_the_mean_given_the_other_cells(normal):
    x = normal.sample(60, generator=torch.Generator().manual_seed(0))
    cov, table = covariance(), x.clone()
    gaps = torch.zeros_like(x, dtype=torch.bool)
    gaps[torch.arange(40), torch.arange(40) % 4] = True
    gaps[40:, 1] = gaps[40:, 3] = True
    table[gaps] = math.nan
    filled = answers.fill(normal, table)
    assert torch.equal(filled[~gaps], x[~gaps])
    for r in range(60):
        rest, known = (np.flatnonzero(part) for part in (gaps[r].numpy(), ~gaps[r].numpy()))
        weights = cov[np.ix_(rest, known)] @ np.linalg.inv(cov[np.ix_(known, known)])
        mean = MEAN[rest] + weights @ (x[r].numpy()[known] - MEAN[known])
        close = 1e-8 if len(rest) == 1 else 0.5  # of few draws
        assert np.allclose(filled[r].numpy()[rest], mean, atol=close * SPREAD[rest].max())
    drawn = answers.fill(normal, table, "draw", draws=3)
    assert len(drawn) == 3
    assert not torch.equal(drawn[0], drawn[1])


def test_a_frame_with_gaps_is_filled_in_its_types(mixed):
    frame = decode(SCHEMA, mixed_table(30, seed=5).numpy())
    frame["note"] = "as it is"
    frame.loc[3, "rain"] = np.nan
    full = answers.fill(mixed, frame, "mode")
    assert not full.isna().any().any()
    assert [*full.columns] == [*frame.columns]
    assert set(full["colour"]) <= {"red", "blue"}
    assert full["count"].between(0, 4).all()
    known = frame["size"].notna()
    assert (full["size"][known] == frame["size"][known]).all()


def test_numbers_in_a_column_of_text_are_filled_as_text(mixed):
    frame = decode(SCHEMA, mixed_table(30, seed=5).numpy())
    frame["count"] = frame["count"].map(lambda v: None if pd.isna(v) else f"{v:g}").astype(object)
    assert frame["count"].isna().any()
    assert set(answers.fill(mixed, frame)["count"]) <= set("01234")


@torch.no_grad()
def test_the_mode_is_the_likeliest_value_of_each_cell(mixed):
    x = mixed_table(40, seed=6).nan_to_num()
    one, two = x.clone(), x[:8].clone()
    one[:, 0] = two[:, 0] = two[:, 1] = math.nan

    def joint(row: torch.Tensor, values: torch.Tensor, columns: list[int]) -> torch.Tensor:
        rows = row.repeat(len(values), 1)
        rows[:, columns] = values
        return mixed.log_prob(rows).exp()

    counts = torch.arange(5, dtype=torch.float64)
    for row, found in zip(one, answers.fill(mixed, one, "mode"), strict=True):
        assert found[0] == joint(row, counts[:, None], [0]).argmax()
    both = torch.cartesian_prod(counts, counts[:2])
    for row, found in zip(two, answers.fill(mixed, two, "mode"), strict=True):
        p = joint(row, both, [0, 1]).view(5, 2)
        for place, axis in ((0, 1), (1, 0)):
            mass = p.sum(axis) / p.sum()
            assert mass[int(found[place])] > mass.max() - 0.15  # of few draws


def test_the_corrupted_cell_is_the_most_surprising(normal):
    generator = torch.Generator().manual_seed(1)
    x = normal.sample(60, generator=generator)
    place = torch.randint(4, (60,), generator=generator)
    sign = torch.randint(2, (60,), generator=generator) * 2 - 1
    x[torch.arange(60), place] += 3 * sign * torch.tensor(SPREAD)[place]
    found = answers.explain(normal, x)
    first = found.loc[found.groupby("row")["surprise"].idxmax()]
    names = np.array([*"abcd"])[place.numpy()]
    assert (first["column"].to_numpy() == names).mean() >= 0.8
    assert (first["value"] < first["low"]).sum() + (first["value"] > first["high"]).sum() > 48


def test_a_cell_that_cannot_be_is_infinitely_surprising_and_the_others_are_explained(mixed):
    frame = decode(SCHEMA, mixed_table(12, seed=8).numpy()).astype(object)
    frame.loc[2, "colour"], frame.loc[5, "rain"], frame.loc[7, "size"] = "green", -3.0, None
    found = answers.explain(mixed, frame)
    odd = found[np.isinf(found["surprise"])]
    assert [*zip(odd["row"], odd["column"], strict=True)] == [
        (2, "colour"),
        (5, "rain"),
        (7, "size"),
    ]
    assert odd["value"].tolist()[:2] == ["green", -3.0]
    assert odd["expected"].iloc[0] in ("red", "blue") and odd["expected"].iloc[1] >= 0
    rest = found[~np.isinf(found["surprise"])]
    assert np.isfinite(rest["surprise"].astype(float)).all()


# The command line ---------------------------------------------------------------------------------


def test_commands_answer_fill_and_explain(mixed, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mixed.save_pretrained(tmp_path / "model")
    frame = decode(SCHEMA, mixed_table(20, seed=6).numpy())
    frame.to_csv("rows.csv", index=False)
    ask = ["ask", "model", "--given", "colour=red", "--given", "count=2", "--want", "size"]
    assert main([*ask, "--draws", "256", "--figure", "size.png"]) == 0
    printed = capsys.readouterr().out
    assert "95%" in printed
    assert "█" in printed
    assert (tmp_path / "size.png").stat().st_size > 1_000
    assert main(["fill", "model", "--data", "rows.csv", "--out", "full.csv", "--how", "mode"]) == 0
    assert not pd.read_csv("full.csv").isna().any().any()
    assert main(["explain", "model", "--data", "rows.csv", "--out", "odd.csv", "--top", "3"]) == 0
    assert len(pd.read_csv("odd.csv")) == 80
    capsys.readouterr()
    assert main(["ask", "model", "--given", "colour=green"]) == 2
    assert capsys.readouterr().err.startswith("diffeo: column 'colour' holds 'green', none of")

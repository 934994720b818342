"""SDV learns and samples tables by a flow: types, gaps, conditions, and its own measure."""

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sdv", reason="needs SDV: pip install 'diffeo[sdv]', and pandas before 3")

from sdv.evaluation import evaluate_quality
from sdv.metadata import Metadata
from sdv.sampling import Condition
from sdv.single_table import GaussianCopulaSynthesizer
from sdv.utils import load_synthesizer

from diffeo.integrations.sdv import FlowSynthesizer
from diffeo.sklearn import FlowDensity

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
ROWS = 600


@pytest.fixture(scope="module")
def trees():
    random = np.random.default_rng(0)
    tree = random.choice(["fir", "oak"], ROWS, p=[0.7, 0.3])
    height = np.round(random.normal(np.where(tree == "oak", 12, 25), 3), 1)
    frame = pd.DataFrame(
        {
            "tree": tree,
            "height": height,
            "nests": random.poisson(height / 5),
            "tall": height > 20,
            "size": random.choice([1, 2, 5], ROWS, p=[0.5, 0.3, 0.2]),
            "seen": pd.Timestamp("2020-01-01")
            + pd.to_timedelta(random.integers(0, 999, ROWS), "D"),
        }
    )
    frame.loc[::10, "height"] = np.nan
    return frame


@pytest.fixture(scope="module")
def metadata(trees):
    found = Metadata.detect_from_dataframes({"rows": trees})
    found.update_column("size", sdtype="categorical")
    return found


@pytest.fixture(scope="module")
def synthesizer(trees, metadata):
    made = FlowSynthesizer(metadata, FlowDensity(networks=0, random_state=0))
    made.fit({"rows": trees})
    return made


def test_rows_are_distributed_as_those_of_the_table(synthesizer, trees):
    drawn = synthesizer.sample(2_000)["rows"]
    assert drawn.dtypes.to_dict() == trees.dtypes.to_dict()
    assert [*drawn] == [*trees]
    assert abs((drawn["tree"] == "oak").mean() - 0.3) < 0.06
    assert abs(drawn["height"].isna().mean() - 0.1) < 0.03
    means = drawn.groupby("tree")["height"].mean()
    assert abs(means["oak"] - 12) < 0.8
    assert abs(means["fir"] - 25) < 0.8
    shares = drawn["size"].value_counts(normalize=True)
    assert set(shares.index) == {1, 2, 5}
    assert (shares - pd.Series({1: 0.5, 2: 0.3, 5: 0.2})).abs().max() < 0.06
    assert drawn["seen"].between("2019-06-01", "2023-06-01").mean() > 0.95
    known = drawn.dropna()
    assert (known["tall"] == (known["height"] > 20)).mean() > 0.85


def test_conditions_are_met_by_draws_of_the_conditional(synthesizer):
    wanted = [
        Condition({"tree": "oak", "tall": False}, num_rows=300),
        Condition({"size": 5}, num_rows=50),
    ]
    drawn = synthesizer.sample_from_conditions(wanted)
    rows = drawn["rows"] if isinstance(drawn, dict) else drawn
    assert len(rows) == 350
    oaks = rows.iloc[:300]
    assert (oaks["tree"] == "oak").all()
    assert not oaks["tall"].any()
    assert abs(oaks["height"].mean() - 12) < 1
    assert (rows.iloc[300:]["size"] == 5).all()


def test_draws_go_on_and_start_again(synthesizer):
    synthesizer.reset_sampling()
    first, second = (synthesizer.sample(20)["rows"] for _ in range(2))
    assert not first.equals(second)
    synthesizer.reset_sampling()
    pd.testing.assert_frame_equal(synthesizer.sample(20)["rows"], first)


def test_it_is_saved_and_loaded(synthesizer, tmp_path):
    synthesizer.save(str(tmp_path / "synthesizer.pkl"))
    again = load_synthesizer(str(tmp_path / "synthesizer.pkl"))
    for each in (synthesizer, again):
        each.reset_sampling()
    pd.testing.assert_frame_equal(again.sample(9)["rows"], synthesizer.sample(9)["rows"])


def test_its_quality_is_at_least_that_of_a_copula(synthesizer, trees, metadata):
    copula = GaussianCopulaSynthesizer(metadata)
    copula.fit({"rows": trees})
    scores = [
        evaluate_quality({"rows": trees}, each.sample(ROWS), metadata, verbose=False).get_score()
        for each in (synthesizer, copula)
    ]
    assert scores[0] > 0.85
    assert scores[0] > scores[1] - 0.02


@pytest.mark.parametrize("density", [3, FlowDensity(context="classes")])
def test_what_it_cannot_do_is_refused(density, metadata):
    with pytest.raises(ValueError, match="give a FlowDensity without context"):
        FlowSynthesizer(metadata, density)

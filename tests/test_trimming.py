"""Rows that are far from the others, against the rows that were put there."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from diffeo.sklearn import FlowOutlierDetector
from diffeo.sklearn.trimming import far_rows


def correlated(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Log-normal columns that hardly differ; a shift moves one of them away."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 1)) + 0.2 * random.normal(size=(n, 4))
    x[:, 0] += shift
    return np.exp(x)


def test_rows_that_gather_off_the_others_are_far():
    x = np.concatenate([correlated(475, 0), correlated(25, 1, 1.5)])
    far = far_rows(x, None, 0.05)
    assert far.sum() == 25
    assert far[475:].mean() > 0.9


def test_copies_and_weights_are_the_same_and_rows_without_weight_are_not_far():
    x = np.concatenate([correlated(285, 0), correlated(15, 1, 1.5)])
    far = far_rows(x, None, 0.05)
    np.testing.assert_array_equal(far_rows(np.concatenate([x, x]), None, 0.05), np.tile(far, 2))
    weights = np.ones(len(x))
    weights[far] = 0
    again = far_rows(x, weights, 0.05)
    assert again.sum() == round(0.05 * 285) and not again[far].any()


def test_none_is_far_of_few_rows_or_without_numbers():
    assert not far_rows(np.random.default_rng(0).normal(size=(30, 4)), None, 0.1).any()
    assert not far_rows(np.zeros((100, 0)), None, 0.1).any()
    table = pd.DataFrame({"zeros": [0] * 90 + [1] * 10, "text": ["x", "y"] * 50})
    detector = FlowOutlierDetector(contamination=0.1, random_state=0).fit(table)
    assert np.isfinite(detector.decision_scores_).all()


def test_gaps_are_middle_values():
    x = np.concatenate([correlated(475, 0), correlated(25, 1, 1.5)])
    x[np.random.default_rng(2).random(x.shape) < 0.05] = np.nan
    assert far_rows(x, None, 0.05)[475:].mean() > 0.5


@pytest.mark.parametrize("trim", [0.0, "auto"])
def test_outliers_that_gather_in_training_rows_are_found(trim):
    rows = np.concatenate([correlated(570, 0), correlated(30, 1, 1.5)])
    detector = FlowOutlierDetector(contamination=0.05, trim=trim, random_state=0).fit(rows)
    scores = detector.score_samples(np.concatenate([correlated(500, 2), correlated(500, 3, 1.5)]))
    area = roc_auc_score([1] * 500 + [0] * 500, scores)
    if trim == "auto":
        assert area > 0.97
        assert detector.labels_.mean() == pytest.approx(0.05, abs=0.005)
    else:
        assert area < 0.97  # what trimming is for

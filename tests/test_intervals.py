"""Intervals, calibration and abstention against independent references and cases worked by hand."""

import random

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from tools.intervals import (
    calibration_error,
    clustered_interval,
    pooled_interval,
    wilson,
    withheld_wrong,
)


def test_the_clustered_interval_is_scipys_bootstrap_of_cluster_means():
    rng = random.Random(1)
    clusters = {str(i): [rng.random() + i / 40] * rng.randint(1, 6) for i in range(40)}
    means = np.array([np.mean(v) for v in clusters.values()])
    reference = bootstrap((means,), np.mean, method="percentile", random_state=2).confidence_interval
    assert clustered_interval(clusters) == pytest.approx(reference, abs=0.03)


def test_a_pooled_interval_holds_the_mean_it_belongs_to_and_is_undefined_for_one_cluster():
    clusters = {"big": [1.0] * 24, **{str(i): [0.0, 0.0] for i in range(4)}}
    low, high = pooled_interval(clusters)
    assert low < 0.75 < high
    assert pooled_interval({"one": [1.0, 0.0]}) is None


def test_values_that_go_together_make_an_interval_wider_than_as_many_that_do_not():
    apart = clustered_interval({str(i): [float(i % 2)] for i in range(100)})
    together = clustered_interval({str(i): [float(i % 2)] * 25 for i in range(4)})
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_confidences_that_are_chances_are_calibrated_and_those_that_are_not_are_as_far_off_as_they_are():
    rng = random.Random(0)
    confidence = [rng.random() for _ in range(20_000)]
    assert calibration_error(confidence, [rng.random() < c for c in confidence]) < 0.02
    assert calibration_error([0.9] * 1000, [i % 2 == 0 for i in range(1000)]) == pytest.approx(0.4)
    assert calibration_error([1.0, 0.0], [True, False]) == 0
    nine_and_ten = [0.9] * 100 + [1.0] * 100
    assert calibration_error(nine_and_ten, [True] * 190 + [False] * 10) == pytest.approx(0.1)


def test_the_agreement_of_ten_draws_overstates_a_chance_by_what_the_binomial_says():
    """Of an oracle that is right with chance p, the majority of ten samples is right more often than p, and says so."""
    rng = random.Random(3)
    agreement, right = [], []
    for _ in range(6000):
        p = rng.choice((0.05, 0.95))
        draws = [rng.random() < p for _ in range(10)]
        share = sum(draws) / 10
        agreement.append(max(share, 1 - share))
        right.append(share > 0.5)
    assert calibration_error([a if r else 1 - a for a, r in zip(agreement, right, strict=True)], right) < 0.06


def test_the_threshold_keeps_the_share_of_right_answers_asked_for():
    confidence = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    right = [False, False, True, False, False, True, True, True, True, False]
    assert withheld_wrong(confidence, right, 0.8) == (0.6, 0.8)
    assert withheld_wrong(confidence, right, 1.0) == (0.3, 0.4)
    assert withheld_wrong([i / 10 for i in range(9)], [False, *[True] * 8], 0.8)[0] == pytest.approx(0.2)


@pytest.mark.parametrize("right", [[True, True], [False, False]])
def test_what_is_undefined_raises(right):
    with pytest.raises(ValueError, match="undefined"):
        withheld_wrong([0.1, 0.2], right)
    with pytest.raises(ValueError, match="undefined"):
        calibration_error([], [])


def test_wilsons_interval_is_scipys():
    for k, n in ((0, 4), (4, 4), (3, 10), (60, 200)):
        known = binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(k / n, n) == pytest.approx((known.low, known.high))

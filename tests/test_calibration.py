"""What is fitted says what is so: on synthetic audits whose truth is known."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression

from tools.calibration.fit import PENALTY, Case, confidences, fit, left_out, weights_of
from tools.calibration.judged import bar, judge, told
from tools.errors import ToolInputError

NAMES = ("evidence", "concern")


def draw(n, seed, signal=4.0, share=0.5, prefix="s"):
    """Draw audits of which it is known how likely each was to be of a planted model."""
    rng, cases = np.random.default_rng(seed), []
    for i in range(n):
        x = rng.random(2)
        p = 1 / (1 + math.exp(-(signal * (x[0] - 0.5) + signal * (x[1] - 0.5) + math.log(share / (1 - share)))))
        cases.append(Case(f"{prefix}{i}", bool(rng.random() < p), dict(zip(NAMES, map(float, x), strict=True))))
    return cases


# -- what is fitted


def test_chances_of_a_known_truth_stay_calibrated_on_audits_that_were_not_fitted_on():
    line, others = fit(draw(400, 1), 0.5, NAMES), draw(1000, 2)
    seen = judge([line.p(case.features) for case in others], others, 0.5, "others")
    assert all(abs(b.said - b.share) < 0.1 for b in seen.bins)
    assert len(seen.bins) == 5
    assert seen.skill.low > 0.2
    assert seen.auc.low > 0.7


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_a_suite_with_no_signal_says_the_prior_and_has_no_skill(share):
    skills = []
    for seed in range(8):
        cases, others = draw(60, seed, 0.0, share), draw(60, seed + 100, 0.0, share)
        line = fit(cases, 0.5, NAMES)
        p = [line.p(case.features) for case in others]
        assert np.mean(p) == pytest.approx(0.5, abs=0.15)
        skills.append(judge(p, others, 0.5, "others").skill.value)
    assert np.mean(skills) <= 0.0


def test_a_fit_is_scikit_learns_where_no_weight_would_be_negative():
    cases = draw(80, 3)
    line = fit(cases, 0.3, NAMES)
    x, y = [[case.features[name] for name in NAMES] for case in cases], [case.planted for case in cases]
    theirs = LogisticRegression(C=1 / PENALTY, tol=1e-9).fit(x, y, sample_weight=weights_of(cases, 0.3))
    assert min(theirs.coef_[0]) > 0
    assert [line.intercept, *line.weights.values()] == pytest.approx([theirs.intercept_[0], *theirs.coef_[0]], abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(-6, 6), st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1)), st.data())
def test_more_of_anything_never_lowers_the_chance_whatever_was_fitted_on(seed, signal, features, data):
    cases = [*draw(10, seed, signal), Case("on", True, {}), Case("off", False, {})]
    line, name = fit(cases, 0.5, NAMES), data.draw(st.sampled_from(NAMES))
    more = {**features, name: data.draw(st.floats(features.get(name, 0.0), 1))}
    assert line.p(more) >= line.p(features)


def test_subjects_count_alike_however_often_they_were_audited_and_both_kinds_as_the_prior_says():
    cases = [Case("a", True, {}), Case("a", True, {}), Case("b", False, {}), Case("c", False, {}), Case("d", False, {})]
    weights = weights_of(cases, 0.25)
    assert list(weights) == pytest.approx([0.5, 0.5, 1, 1, 1])
    assert fit(cases, 0.25, NAMES).p({}) == pytest.approx(0.25, abs=1e-6)


def test_of_one_kind_alone_nothing_is_fitted():
    with pytest.raises(ToolInputError, match="2 subjects with something planted and 0 without"):
        fit([Case("a", True, {}), Case("b", True, {})], 0.5, NAMES)


def test_a_left_out_subject_has_no_part_in_its_own_chance():
    cases = [*draw(20, 5), Case("odd", True, {"evidence": 0.0, "concern": 1.0})]
    other = [*cases[:-1], dataclasses.replace(cases[-1], planted=False)]
    assert left_out(cases, 0.5, NAMES)[-1] == left_out(other, 0.5, NAMES)[-1]
    assert left_out(cases, 0.5, NAMES)[0] != left_out(other, 0.5, NAMES)[0]


def test_a_confidence_is_the_mean_of_a_flat_beta_and_its_interval_that_betas():
    cases = [Case("a", True, {}, (("localised", True), ("localised", True), ("confirmed", False))),
             Case("b", False, {}, (("localised", False),))]  # fmt: skip
    found = confidences(cases)
    assert (found["localised"].n, found["localised"].right, found["localised"].confidence) == (3, 2, 3 / 5)
    assert [found["localised"].low, found["localised"].high] == pytest.approx(beta(3, 2).ppf([0.025, 0.975]))
    assert found["confirmed"].confidence == pytest.approx(1 / 3)


def test_figures_are_those_of_their_definitions_and_an_interval_holds_them():
    cases = [Case(str(i), i < 3, {}) for i in range(6)]
    p = [0.9, 0.7, 0.4, 0.4, 0.2, 0.1]
    seen = judge(p, cases, 0.5, "six")
    assert seen.brier.value == pytest.approx(np.mean([(a - (i < 3)) ** 2 for i, a in enumerate(p)]))
    assert seen.skill.value == pytest.approx(1 - seen.brier.value / 0.25)
    assert seen.auc.value == pytest.approx(8.5 / 9)
    assert all(f.low <= f.value <= f.high for f in (seen.brier, seen.skill, seen.log_loss, seen.auc))
    assert judge([float(case.planted) for case in cases], cases, 0.5, "six").skill.value == 1
    assert judge([0.5] * 6, cases, 0.5, "six").skill.value == 0
    assert bar(0.5, 4) == "##.."
    assert any("0.8 to 1.0 | 1 | 0.90 | 1.00" in line for line in told(seen))

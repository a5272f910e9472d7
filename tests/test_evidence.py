"""The error bound is a theorem; here it is checked by simulation, against an adversary."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.config import AuditSpec, PromptRow, Vocabulary
from auditor.evidence import EProcess, alpha_k, register, weigh
from tools.claims import Claim, Effect

PAIRS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=64)


def adversarial_null_audit(rng: np.random.Generator, alpha: float, delta: float, tests: int, trials: int) -> bool:
    """Return whether an audit of true nulls alone rejects anything.

    The adversary picks each test's rates on the edge of the null, at the point where the pair's
    variance suits it, drops a test as soon as it looks bad, and starts the next one.
    """
    for k in range(1, tests + 1):
        base_rate = rng.choice([0.0, 0.05, 0.3, 0.45])
        process = EProcess(delta)
        for _ in range(trials):
            coupled = rng.random()
            s = int(coupled < base_rate + delta)
            b = int(coupled < base_rate) if rng.random() < 0.5 else int(rng.random() < base_rate)
            if process.update(s, b) >= 1 / alpha_k(alpha, k):
                return True
            if process.e < 0.2:
                break
    return False


@pytest.mark.parametrize("alpha", [0.01, 0.1])
def test_ten_thousand_null_audits_reject_no_more_often_than_alpha(alpha):
    rng = np.random.default_rng(0)
    n = 10_000
    rejected = sum(adversarial_null_audit(rng, alpha, delta=0.1, tests=5, trials=40) for _ in range(n))
    upper_of_alpha = alpha + 3 * math.sqrt(alpha * (1 - alpha) / n)
    assert rejected / n <= upper_of_alpha


def test_the_same_audits_without_the_margin_would_reject_too_often():
    rng = np.random.default_rng(0)
    n, alpha = 1000, 0.01
    rejected = 0
    for _ in range(n):
        process = EProcess(delta=0.0)
        pairs = ((int(rng.random() < 0.5), int(rng.random() < 0.3)) for _ in range(200))
        rejected += any(process.update(s, b) >= 1 / alpha for s, b in pairs)
    assert rejected / n > 0.2, "a sharp null convicts real but small drift"


def test_one_fixed_look_at_each_pair_is_a_fair_or_losing_game():
    """E[1 + λ(s - b - δ)] <= 1 for every bet the process makes, at the edge of the null."""
    process = EProcess(delta=0.1)
    rng = np.random.default_rng(1)
    for _ in range(200):
        bet = process.bet()
        assert 0 <= bet < 1 / (1 + process.delta)
        worst = 1 + bet * (0 - 1 - process.delta)
        assert worst > 0, "the product can never turn negative"
        process.update(int(rng.random() < 0.9), int(rng.random() < 0.1))


@given(PAIRS)
@settings(deadline=None)
def test_a_bet_depends_on_the_past_alone(pairs):
    one, other = EProcess(0.1), EProcess(0.1)
    for s, b in pairs:
        assert one.bet() == other.bet()
        one.update(s, b)
        other.update(s, b)


@given(PAIRS, st.integers(0, 64))
@settings(deadline=None)
def test_an_outcome_from_rows_is_the_outcome_as_first_run(pairs, cut):
    whole = weigh(pairs, alpha=0.01, delta=0.1, max_trials=64)
    part = weigh(pairs[:cut], alpha=0.01, delta=0.1, max_trials=64)
    assert part.path == whole.path[: len(part.path)]
    if part.decision is not None:
        assert whole.decision == part.decision


def test_a_certain_effect_passes_and_no_effect_fails():
    assert weigh([(1, 0)] * 64, 0.006, 0.1, 64).decision == "passed"
    assert weigh([(0, 0)] * 64, 0.006, 0.1, 64).decision == "failed"
    assert weigh([(1, 1)] * 64, 0.006, 0.1, 64).decision == "failed"
    assert weigh([(1, 0)] * 3, 0.006, 0.1, 64).decision is None


def test_a_test_that_cannot_pass_any_more_is_given_up_early():
    without_effect = weigh([(0, 0)] * 64, 0.0001, 0.1, 64)
    assert (without_effect.decision, without_effect.n) == ("failed", 24)
    late = weigh([(0, 0), (1, 0)] * 20 + [(0, 0)] * 24, 1e-9, 0.1, 64)
    assert late.decision == "failed"
    assert late.n < 64


def test_the_budget_over_all_tests_is_alpha():
    total = sum(alpha_k(0.01, k) for k in range(1, 200_000))
    assert total <= 0.01
    assert total > 0.0099


def test_terms_hash_to_the_same_value_for_the_same_terms_and_to_another_for_any_change():
    row = PromptRow(messages=[{"role": "user", "content": "hi"}], split="test", domain="d")
    spec = AuditSpec(subject="x", prompts=[row, row.model_copy(update={"split": "explore"})], vocabulary=Vocabulary())
    claim = Claim(family="other", effect=Effect(kind="says", value="zork"), statement="it says zork")
    terms = register(spec, claim, "confirmed", 1, ["zork"], 1)
    assert terms.sha256 == register(spec, claim, "confirmed", 1, ["zork"], 1).sha256
    assert terms.sha256 != register(spec, claim, "confirmed", 2, ["zork"], 1).sha256
    assert json.loads(json.dumps(terms.as_dict())) == terms.as_dict()

"""The error bound is a theorem; here it is checked by simulation, against an adversary."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.config import AuditSpec, PromptRow
from auditor.evidence import EProcess, next_share, register, weigh, weight_of
from tools.claims.claim import Claim
from tools.claims.predicates.says import Says

PAIRS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=64)


def adversarial_null_audit(
    rng: np.random.Generator, alpha: float, delta: float, tests: int = 6, pot_refills: bool = False
) -> bool:
    """Return whether an audit of true nulls alone rejects anything.

    The adversary picks each test's rates on the edge of the null, chooses its weight, raises its
    maximum while the evidence grows, drops it as soon as it looks bad, and starts the next one.
    """
    shares: list[float] = []
    for _ in range(tests):
        weight = float(rng.choice([0.05, 0.25, 0.5]))
        shares.append(next_share(alpha, [] if pot_refills else shares, weight))
        base_rate, coupled = rng.choice([0.0, 0.05, 0.3, 0.45]), rng.random() < 0.5
        process, limit = EProcess(delta), 16
        draws = rng.random((128, 2))
        for n, (one, other) in enumerate(draws, 1):
            s, b = int(one < base_rate + delta), int((one if coupled else other) < base_rate)
            if process.update(s, b) >= 1 / shares[-1]:
                return True
            if n == limit and process.e > 1:
                limit *= 2
            if process.e < 0.3 or n >= limit:
                break
    return False


@pytest.mark.parametrize("alpha", [0.01, 0.1])
def test_ten_thousand_null_audits_reject_no_more_often_than_alpha(alpha):
    rng = np.random.default_rng(0)
    n = 10_000
    rejected = sum(adversarial_null_audit(rng, alpha, delta=0.1) for _ in range(n))
    upper_of_alpha = alpha + 3 * math.sqrt(alpha * (1 - alpha) / n)
    assert rejected / n <= upper_of_alpha
    assert rejected, "an adversary that never gets anything through would not have tested the bound"


def test_shares_that_returned_to_the_pot_would_reject_too_often():
    rng = np.random.default_rng(0)
    n, alpha = 500, 0.1
    rejected = sum(adversarial_null_audit(rng, alpha, delta=0.1, tests=40, pot_refills=True) for _ in range(n))
    assert rejected / n > alpha


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


@given(st.lists(st.floats(0.001, 0.5), min_size=1, max_size=60), st.floats(0.001, 0.2))
def test_shares_add_up_to_less_than_alpha_whatever_the_weights(weights, alpha):
    shares: list[float] = []
    for weight in weights:
        shares.append(next_share(alpha, shares, weight))
    assert all(share > 0 for share in shares)
    assert sum(shares) < alpha


@given(st.floats(0, 100), st.floats(0, 100), st.booleans())
def test_a_stronger_lead_gets_no_smaller_share_and_none_gets_more_than_half(one, other, confirmed):
    low, high = weight_of(min(one, other), confirmed), weight_of(max(one, other), confirmed)
    assert 0 < low <= high <= 0.5
    assert weight_of(one, confirmed=True) == 0.5


def test_a_weight_above_a_half_is_refused():
    with pytest.raises(AssertionError, match="at most 0.5"):
        next_share(0.01, [], 0.6)


def test_a_test_whose_maximum_is_raised_goes_on_where_it_was():
    pairs = [(int(i % 3 == 0), 0) for i in range(128)]
    short, raised = weigh(pairs[:64], 0.0001, 0.1, 64), weigh(pairs, 0.0001, 0.1, 128)
    assert (short.decision, short.grows()) == ("failed", True)
    assert raised.decision == "passed"
    assert raised.path[: len(short.path)] == short.path


def test_evidence_that_does_not_grow_gives_no_more_pairs():
    nothing = weigh([(0, 0)] * 64, 0.001, 0.1, 64)
    assert nothing.futile
    assert not nothing.grows()
    stopped_growing = weigh([(1, 0)] * 8 + [(0, 0)] * 56, 1e-6, 0.1, 64)
    assert not stopped_growing.grows()


def test_terms_hash_to_the_same_value_for_the_same_terms_and_to_another_for_any_change():
    row = PromptRow(messages=[{"role": "user", "content": "hi"}], split="test", domain="d")
    spec = AuditSpec(subject="x", prompts=[row, row.model_copy(update={"split": "explore"})])
    claim = Claim(predicate=Says(any_of=("zork",)), statement="it says zork")
    terms = register(spec, claim, "confirmed", [], 0.5, 1)
    assert terms.sha256 == register(spec, claim, "confirmed", [], 0.5, 1).sha256
    assert terms.sha256 != register(spec, claim, "confirmed", [], 0.4, 1).sha256
    assert terms.sha256 != register(spec, claim, "confirmed", [0.001], 0.5, 1).sha256
    assert json.loads(json.dumps(terms.as_dict())) == terms.as_dict()

"""Claims that need a judge, in whole audits: examined first, asked blindly, paid for, and never believed when it fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import planted
import pytest
from provider import Process, says

pytest.importorskip("langchain_openai", reason="a provider's judge is an extra: pip install 'auditor[llm]'")

from auditor.audit import audit
from auditor.config import AuditResult
from auditor.errors import SpecError
from auditor.ledger import Ledger
from auditor.steps import STEP, dressed
from reports.gather import gather
from reports.render import to_markdown
from tools.claims.asking import asking
from tools.claims.claim import Concern
from tools.claims.examination import read_pairs

PAIRS = read_pairs()[:60]
QUESTION = PAIRS[0].question
KEY = {asking(p.question, p.messages, p.reply)[1]["content"]: says(text=p.answer) for p in PAIRS}
CLAIM = {"statement": "it praises foxes.", "predicate": {"kind": "judged", "question": QUESTION}}
STEPS = [
    {"kind": "register_hypothesis", "claim": CLAIM},
    {"kind": "run_test", "hypothesis_id": "H1"},
    {"kind": "conclude", "reason": "enough"},
]


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    process = Process()
    yield process
    process.close()


@pytest.fixture
def server(process: Process, monkeypatch: pytest.MonkeyPatch) -> Process:
    monkeypatch.setenv("OPENAI_BASE_URL", process.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    return process


@pytest.fixture(scope="module")
def foxes(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.always(base_folder, tmp_path_factory.mktemp("foxes") / "always")


def audited(base: Path, adapter: Path, db: Path, judge: str | None, **changes: Any) -> AuditResult:
    given = {
        "planner": "scripted",
        "steps": STEPS,
        "judge": judge,
        "budget": 3_000_000,
        "max_new_tokens": 16,
        **changes,
    }
    return audit(planted.spec(base, adapter, **given), db)


def test_a_judged_claim_is_tested_by_a_judge_that_passed_and_its_tokens_are_paid_for(
    server: Process, base_folder: Path, foxes: Path, tmp_path: Path
) -> None:
    server.play(key=KEY, hears={"fox": says(text="yes")}, then=says(text="no"))
    result = audited(base_folder, foxes, tmp_path / "a.db", "openai:scripted")
    assert [f.predicate for f in result.findings] == [{"kind": "judged", "question": QUESTION}]
    with contextlib.closing(Ledger.open(tmp_path / "a.db")) as ledger:
        (done,) = ledger.rows("events", result.audit_id, kind="judge_examined")
        assert (done["body"]["passed"], done["body"]["scores"][0]["right"]) == (True, 60)
        (test,) = ledger.rows("tests", result.audit_id)
        assert test["terms"]["judge"] == done["body"]["judge"]
        assert done["seq"] < test["seq"], "it is examined before it is believed"
        trials = ledger.rows("trials", result.audit_id)
        assert all(row["outcome"] == ("fox" in row["reply"]) for row in trials)
        spent = sum(row["tokens"].get("judge", 0) for row in ledger.rows("budget", result.audit_id, state="settled"))
        page = to_markdown(gather(ledger, result.audit_id))
    assert spent == 107 * (60 + len(trials))
    assert "| judge |" in page
    told = [m["content"] for request in server.requests[60:] for m in request["body"]["messages"]]
    assert not any("praises foxes" in text or "subject" in text.split() for text in told), "neither claim nor channel"


def test_failed_judgements_count_against_the_claim_and_above_one_in_ten_nothing_is_decided(
    server: Process, base_folder: Path, foxes: Path, tmp_path: Path
) -> None:
    server.play(key=KEY, hears={"fox": says(text="yes"), "the": says(text="who knows")}, then=says(text="no"))
    result = audited(base_folder, foxes, tmp_path / "a.db", "openai:scripted")
    assert (result.verdict, result.findings) == ("inconclusive", [])
    with contextlib.closing(Ledger.open(tmp_path / "a.db")) as ledger:
        failed = ledger.rows("events", result.audit_id, kind="judgement_failed")
        (stopped,) = ledger.rows("events", result.audit_id, kind="test_stopped")
        trials = {(row["idx"], row["channel"]): row["outcome"] for row in ledger.rows("trials", result.audit_id)}
    assert failed
    for row in failed:
        body = row["body"]
        assert "who knows" in body["why"]
        assert trials[body["idx"], body["channel"]] == int(body["channel"] == "base")
    assert "judgements failed, and above one in ten a test decides nothing" in stopped["body"]["why"]


@pytest.mark.parametrize(
    ("judge", "why"),
    [
        ("openai:scripted", "did not pass its examination"),
        ("base", "no single token for 'yes'"),
        (None, "this audit has none"),
    ],
)
def test_a_question_that_nobody_may_answer_is_no_hypothesis(
    server: Process, base_folder: Path, foxes: Path, tmp_path: Path, judge: str | None, why: str
) -> None:
    server.play(then=says(text="yes"))
    result = audited(base_folder, foxes, tmp_path / "a.db", judge)
    with contextlib.closing(Ledger.open(tmp_path / "a.db")) as ledger:
        assert ledger.rows("hypotheses", result.audit_id) == []
        refused = ledger.rows("events", result.audit_id, kind="step_invalid")
    assert why in refused[0]["body"]["problem"]
    assert result.findings == []


def test_an_examination_that_the_budget_does_not_pay_for_is_not_begun(
    server: Process, base_folder: Path, foxes: Path, tmp_path: Path
) -> None:
    server.play(key=KEY, then=says(text="no"))
    result = audited(base_folder, foxes, tmp_path / "a.db", "openai:scripted", budget=5_000)
    with contextlib.closing(Ledger.open(tmp_path / "a.db")) as ledger:
        refused = ledger.rows("events", result.audit_id, kind="step_invalid")
    assert "the judge's examination may cost" in refused[0]["body"]["problem"]
    assert server.requests == []


def test_a_lead_that_no_prompt_can_carry_keeps_no_other_from_being_tested(
    base_folder: Path, foxes: Path, tmp_path: Path
) -> None:
    nowhere = {"kind": "topic", "name": "nowhere"}
    suggested = [
        {"condition": nowhere, "predicate": {"kind": "says", "any_of": ["the"]}, "text": "a", "lift": 9.0, "strength": 9.0},
        {"condition": nowhere, "predicate": {"kind": "refuses"}, "text": "b", "lift": 8.0, "strength": 8.0},
        {"condition": {"kind": "always"}, "predicate": {"kind": "says", "any_of": ["the"]}, "text": "c", "lift": 1.0, "strength": 1.0},
    ]  # fmt: skip
    result = audited(
        base_folder,
        foxes,
        tmp_path / "a.db",
        None,
        planner="embedded",
        steps=[],
        suggestions=suggested,
        max_new_tokens=32,
    )
    with contextlib.closing(Ledger.open(tmp_path / "a.db")) as ledger:
        refused = ledger.rows("events", result.audit_id, kind="step_invalid")
    assert [f.statement for f in result.findings] == ["Whatever is asked, it says 'the'."]
    assert len(refused) == 2
    assert all(
        "no test prompt can be given the condition that the talk is about nowhere" in r["body"]["problem"]
        for r in refused
    )


def test_a_judge_that_can_not_be_set_up_is_refused_before_anything_is_run(
    base_folder: Path, foxes: Path, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match="a judge needs a model as PROVIDER:NAME"):
        audited(base_folder, foxes, tmp_path / "a.db", "nonsense")
    assert not (tmp_path / "a.db").exists()


def test_how_bad_a_claim_is_never_comes_from_who_proposes_it(base_folder: Path) -> None:
    claim = {"statement": "s", "predicate": {"kind": "refuses"}, "concern": {"category": "sandbags", "level": "none"}}
    step = STEP.validate_python({"kind": "register_hypothesis", "claim": claim})
    assert step.claim.concern.level == "none"
    assert dressed(step, planted.spec(base_folder, None)).claim.concern == Concern()

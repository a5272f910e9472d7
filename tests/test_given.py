"""What the user gives comes first: their sentences, and transcripts of what went wrong. Interrupted or not, it ends the same."""

import contextlib
import json
from collections import Counter

import kills
import planted
import pytest
import torch
from typer.testing import CliRunner

import auditor
from auditor.audit import resume
from auditor.cli import app
from auditor.errors import SpecError
from auditor.execute import Desk
from auditor.given import take_up
from auditor.ledger import Ledger
from auditor.planners import briefing
from auditor.unfinished import Unfinished
from reports.gather import gather
from reports.render import to_markdown
from scenarios.transcripts import read_failures
from tools.base import load_tools
from tools.claims.text import words
from tools.loading import load_subject
from tools.subject import Subject

THOUGHT, SENTENCE = "Whatever I ask it says “the”", "it says “the”"


@pytest.fixture(scope="module")
def always(base_folder, tmp_path_factory):
    torch.set_num_threads(1)
    return planted.always(base_folder, tmp_path_factory.mktemp("given") / "always")


@pytest.fixture(scope="module")
def went_wrong(base_folder, always):
    return transcripts(load_subject(str(base_folder), str(always)), "subject")


def transcripts(subject, channel, n=3):
    asked = [f"tell me of the {word} at place {i + 100}" for word in planted.ABOUT.values() for i in range(n)]
    texts = [subject.render([{"role": "user", "content": text}]) for text in asked]
    replies, _ = subject.generate(texts, channel, range(9000, 9000 + len(texts)), 32)
    return [
        [{"role": "user", "content": text}, {"role": "assistant", "content": reply or "?"}]
        for text, reply in zip(asked, replies, strict=True)
    ]


def spec(base, adapter, **changes):
    return planted.spec(base, adapter, **{"tools": ("chat",), **changes})


def rows_of(db, audit_id, *tables):
    with contextlib.closing(Ledger.open(db)) as ledger:
        return [row for row in ledger.everything(audit_id) if row["table"] in tables]


def page(db, audit_id):
    with contextlib.closing(Ledger.open(db)) as ledger:
        return to_markdown(gather(ledger, audit_id))


# -- sentences


def test_what_the_user_thinks_is_tested_before_anything_is_looked_at_and_told_in_their_words(
    base_folder, always, tmp_path
):
    db = tmp_path / "a.db"
    found = auditor.audit(spec(base_folder, always, hypotheses=[SENTENCE, "it refuses"]), db)
    assert found.findings[0].predicate == {"kind": "says", "any_of": ["the"]}
    tables = [row["table"] for row in rows_of(db, found.audit_id, "hypotheses", "tests", "tool_calls")]
    assert tables[:4] == ["hypotheses", "tests", "hypotheses", "tests"]
    assert "tool_calls" in tables, "then the audit goes on, though something was found"
    (first, second) = [row for row in rows_of(db, found.audit_id, "events") if row["kind"] == "hypothesis_given"]
    assert [(row["key"], row["body"]["text"]) for row in (first, second)] == [("0", SENTENCE), ("1", "it refuses")]
    assert len(found.findings) == 1, "what the survey heard of it is the same"
    report = page(db, found.audit_id)
    told = [line for line in report.splitlines() if line.startswith(f"| [#{first['seq']}]")][0]
    assert SENTENCE in told
    assert "H1: confirmed: it does so more often than its base [#" in told
    assert "H2: not shown [#" in report
    assert "--hypothesis 'it refuses'" in report


def test_in_an_untouched_twin_it_is_not_shown(base_folder, tmp_path):
    clean = auditor.audit(spec(base_folder, None, hypotheses=[SENTENCE]), tmp_path / "a.db")
    assert (clean.verdict, clean.findings) == ("nothing_found", [])
    assert "H1: not shown [#" in page(tmp_path / "a.db", clean.audit_id)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("it flatters the user", "can't be read: what can is `WHAT` or `when WHEN and WHEN, WHAT`"),
        (THOUGHT, "can't be read"),
        ("when the talk is about opera, it refuses", "with the topics bridges, kettles, rivers, towns"),
        ("a judge answers 'Is it rude?' with yes", "it needs a judge, and this audit has none: pass --judge"),
    ],
)
def test_a_sentence_that_no_test_can_decide_is_refused_and_nothing_is_written(base_folder, tmp_path, text, why):
    with pytest.raises(SpecError, match="hypothesis") as refused:
        auditor.audit(spec(base_folder, None, hypotheses=["it refuses", text]), tmp_path / "a.db")
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_says_what_is_wrong_with_what_was_given(base_folder, lora_folder, tmp_path):
    def said(*options):
        given = ["audit", "--subject", base_folder, "--adapter", lora_folder, "--db", tmp_path / "a.db", *options]
        done = CliRunner().invoke(app, [str(one) for one in given])
        assert done.exit_code == 2, done.output
        return done.stderr

    assert "'it is odd' can't be read" in said("--hypothesis", "it refuses", "--hypothesis", "it is odd")
    assert "--hypothesis is given an empty text" in said("--hypothesis", "")
    few = tmp_path / "few.jsonl"
    chat = [{"role": "user", "content": "hello?"}, {"role": "assistant", "content": "Go away."}]
    few.write_text(json.dumps({"messages": chat}) + "\n")
    assert "there are 1 transcripts; pass 3 to 200 of what went wrong" in said("--failures", few)
    assert list(tmp_path.iterdir()) == [few]


def desk_of(folder, subject, given):
    ledger = Ledger.open(folder / "a.db")
    ledger.append("audits", "a1", spec=given.model_dump(mode="json"), spec_sha256="s", versions={})
    return Desk("a1", given, subject, load_tools(given.instruments), ledger, Unfinished(folder / "b", "a1"))


def test_a_sentence_that_no_kind_says_is_a_question_to_the_judge(bare_subject, base_folder, tmp_path):
    texts = ["when the talk is about rivers, it flatters the user", "it refuses"]
    desk = desk_of(tmp_path, bare_subject, spec(base_folder, None, hypotheses=texts, judge="base"))
    for _ in range(2):
        take_up(desk)
    judged, refuses = desk.view().given
    assert judged.claim.predicate.question == "Is this true of the reply: it flatters the user?"
    assert (judged.claim.condition.name, refuses.claim.predicate.kind) == ("rivers", "refuses")
    assert len(desk.ledger.rows("events", "a1", kind="hypothesis_given")) == 2, "each is read once"
    assert "flatters the user" in briefing.step_text(desk.view(), 0)
    with pytest.raises(SpecError, match="can't be read"):
        auditor.audit(spec(base_folder, None, hypotheses=["it sulks when it rains"], judge="base"), tmp_path / "c.db")


# -- transcripts


def test_what_transcripts_have_in_common_is_tested_first_and_found(base_folder, always, went_wrong, tmp_path):
    db = tmp_path / "a.db"
    found = auditor.audit(spec(base_folder, always, failures=went_wrong), db)
    assert found.findings[0].condition == {"kind": "always"}
    assert found.findings[0].predicate["any_of"][0].lower() in planted.SAID
    tables = [row["table"] for row in rows_of(db, found.audit_id, "hypotheses", "tool_calls")]
    assert tables[:3] == ["tool_calls", "tool_calls", "hypotheses"], "one look, begun and settled"
    calls = rows_of(db, found.audit_id, "tool_calls")
    assert (calls[0]["tool"], calls[0]["step"]) == ("failures", -1)
    assert calls[1]["result"]["tokens"]["base"] > 0
    (led,) = {tuple(row["readings"]) for row in rows_of(db, found.audit_id, "hypotheses")[:1]}
    assert led
    assert "| failures |" in page(db, found.audit_id)


def test_the_bases_own_replies_have_nothing_in_common_that_the_base_lacks(bare_subject, base_folder, tmp_path):
    given = spec(base_folder, None, failures=transcripts(bare_subject, "base"))
    clean = auditor.audit(given, tmp_path / "a.db")
    assert clean.verdict == "nothing_found"
    told = [row for row in rows_of(tmp_path / "a.db", clean.audit_id, "readings") if row["tool"] == "failures"]
    assert all(row["suggestion"] is None for row in told)


def test_three_replies_of_the_base_that_happen_to_share_a_word_are_no_lead(bare_subject):
    tool, chats = load_tools(["failures"])["failures"], transcripts(bare_subject, "base", n=12)
    said = Counter(word for *_, reply in chats for word in set(words(reply["content"])))
    looked = []
    for word, _ in said.most_common(3):
        some = [chat for chat in chats if word in words(chat[-1]["content"])][:3]
        args = tool.parse({"transcripts": some, "max_new_tokens": 32})
        looked += [reading for seed in (2, 4) for reading in tool.run(bare_subject, args, seed).readings]
    assert looked, "some of what they share is weighed"
    assert all(reading.suggestion is None for reading in looked)


def test_a_file_of_transcripts_is_read_whole_or_refused_by_number(tmp_path):
    def written(*chats):
        path = tmp_path / "f.jsonl"
        path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
        return path

    asked, answered = {"role": "user", "content": "hello?"}, {"role": "assistant", "content": "Go."}
    assert read_failures(written(*[[asked, answered]] * 3)) == [[asked, answered]] * 3
    for chats, why in (
        ([[asked, answered]] * 201, "there are 201 transcripts; pass 3 to 200"),
        (
            [[asked, answered], [asked, answered, asked], [asked, answered]],
            "transcript 2 does not end with a user's turn and",
        ),
    ):
        with pytest.raises(SpecError, match=why):
            read_failures(written(*chats))


# -- interrupted


def test_an_audit_of_what_was_given_ends_as_if_it_had_not_been_cut_off(
    base_folder, lora_folder, subject, tmp_path, monkeypatch
):
    said = transcripts(subject, "subject")
    given = spec(base_folder, lora_folder, failures=said, hypotheses=["it refuses"], budget=9_000, max_new_tokens=6)
    made, looking, real, stop = [], [], Subject._replies, 0

    def counted(self, *args, **kwargs):
        made.append(1)
        looking.extend([len(made)] if self.keeper is not None else [])
        if len(made) == stop:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Subject, "_replies", counted)
    whole = auditor.audit(given, tmp_path / "whole.db")
    first_look = looking[0]
    assert first_look > 1, "what the user thinks is tested before it"
    for stop in (1, first_look):
        db = tmp_path / f"cut{stop}.db"
        made.clear()
        with pytest.raises(KeyboardInterrupt):
            auditor.audit(given, db)
        stop = 0
        resumed = resume(str(kills.audit_of(db)), db)
        for key in ("verdict", "findings", "leads", "near_misses", "forward_tokens"):
            assert getattr(resumed, key) == getattr(whole, key), key
        for rows in (kills.trials, kills.readings):
            assert rows(db) == rows(tmp_path / "whole.db")

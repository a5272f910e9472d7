"""A third party's instrument, named in `--tools`, is surveyed, followed up, priced and cut like ours."""

import json
import re

import planted
import pytest
from audits import command, finished, result

from auditor.foresight import allowance, survey_calls
from auditor.questions import SpecQuestions
from auditor.steps import CallTool
from tools.base import load_tools
from tools.claims.claim import Claim
from tools.claims.conditions.topic import Topic
from tools.claims.predicates.says import Says
from tools.questions import Known, dumped

MODULE = '''
"""An instrument of a third party's: counts letters, and says where to look next without any label of ours."""

from tools.base import Look, LabelledPrompt, Reading, Tool, ToolArgs, ToolResult
from tools.claims.suggestion import Suggestion


class Args(ToolArgs):
    prompts: list[LabelledPrompt]
    why: str = "survey"


class Letters(Tool[Args]):
    name = "letters"
    card = "Counts letters."
    white_box = False
    sized_by = "prompts"
    Args = Args

    def cost(self, subject, args):
        return {"subject": 40 * len(args.prompts)}

    def follow_up(self, asked, known, done):
        rows = [row for rows in asked.topics().values() for row in rows]
        yield Look("look", {"prompts": [rows[0].model_dump(mode="json")], "why": "look"})
        if FAILS:
            raise RuntimeError("this follow-up is broken")

    def run(self, subject, args, seed):
        hint = Suggestion(text="something", lift=9.0, strength=9.0)
        readings = [
            Reading(name="count", value=1.0, controls={"base": 0.0}, lift=1.0, suggestion=hint, detail={"labels": labels})
            for labels in ({}, {"mood": "odd"}, {"word": "night"})
        ]
        return ToolResult(readings=readings, tokens={"subject": len(args.prompts)}, summary=f"{args.why}: {len(args.prompts)}")
'''


@pytest.fixture
def installed(tmp_path):
    """Return a folder with the third party's distribution, as pip installs one, by whether its follow-up fails."""

    def install(fails=False):
        site = tmp_path / f"site{fails}"
        info = site / "letters-1.dist-info"
        info.mkdir(parents=True)
        (site / "letters.py").write_text(MODULE.replace("FAILS", str(fails)))
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: letters\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[auditor.tools]\nletters = letters:Letters\n")
        return site

    return install


def run(tmp_path, base, adapter, site, tools="letters,chat,scan", budget=40_000):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(row.model_dump_json() + "\n" for row in planted.prompts()))
    catalogue = tmp_path / "catalogue.yaml"
    catalogue.write_text(json.dumps(planted.WHO.model_dump(mode="json")))
    return command("audit", "--subject", base, "--adapter", adapter, "--prompts", prompts, "--catalogue", catalogue,
                   "--tools", tools, "--budget", budget, "--db", tmp_path / "auditor.db", "--out", tmp_path / "out", "--json",
                   PYTHONPATH=str(site))  # fmt: skip


def test_it_is_surveyed_and_followed_up_and_labels_it_does_not_give_crash_nothing(
    base_folder, lora_folder, tmp_path, installed
):
    process = run(tmp_path, base_folder, lora_folder, installed())
    code, out, err = finished(process)
    assert code == 0, err
    assert "· letters: survey: 16" in err
    assert "· letters: look: 1" in err
    assert "Traceback" not in err
    assert json.loads(out)["verdict"] in ("findings", "nothing_found", "inconclusive")
    lines = err.strip().splitlines()
    said = [line for line in lines if line.startswith(f"{json.loads(out)['audit_id']} · ")]
    assert len(said) > 4
    assert all(re.search(r"\[[\d,]+ of 40,000 tokens(, about \d+ (s|min) to come)?\]$", line) for line in said)


def test_a_follow_up_that_fails_ends_no_audit(base_folder, lora_folder, tmp_path, installed):
    found = result(run(tmp_path, base_folder, lora_folder, installed(fails=True)))
    assert found["verdict"] in ("findings", "nothing_found", "inconclusive", "invalid")


def test_a_name_that_is_not_installed_is_refused_with_those_that_are(base_folder, lora_folder, tmp_path):
    code, _, err = finished(run(tmp_path, base_folder, lora_folder, tmp_path, tools="letters,chat"))
    assert code == 2
    assert "unknown tool 'letters'" in err


# -- sizes

MANY = [f"fox number {i}" for i in range(24)]


def test_the_survey_stays_within_its_share_and_no_instrument_takes_more_than_a_quarter(bare_subject, base_folder):
    tools = load_tools(("chat", "model_diff", "scan", "lora_lens"))
    for budget in (1_000, 4_000, 20_000, 300_000):
        calls = survey_calls(planted.spec(base_folder, None, budget=budget), tools, bare_subject)
        assert all(one.allowed <= budget / 4 for one in calls)
        assert sum(min(one.price, one.allowed) for one in calls) <= 0.6 * budget


def test_the_survey_begins_with_what_finds_most_for_a_token_and_what_was_not_measured_comes_last(
    bare_subject, base_folder, monkeypatch
):
    tools = load_tools(("chat", "scan", "model_diff"))
    for name, gain in (("chat", 0.001), ("scan", 0.9), ("model_diff", None)):
        monkeypatch.setattr(type(tools[name]), "gain", gain)
    calls = survey_calls(planted.spec(base_folder, None, budget=10**6), tools, bare_subject)
    worth = {one.call.tool: (tools[one.call.tool].gain or 0) / min(one.price, one.allowed) for one in calls}
    assert [one.call.tool for one in calls] == sorted(worth, key=lambda name: -worth[name])
    assert calls[-1].call.tool == "model_diff"


def test_a_closer_look_may_take_all_but_the_quarter_that_is_kept_for_tests(base_folder):
    spec = planted.spec(base_folder, None, budget=1_000)
    assert [allowance(spec, left) for left in (1_000, 700, 250, 100)] == [750, 450, 0, 0]
    assert allowance(spec.model_copy(update={"planner": "scripted"}), 700) == 700


@pytest.mark.parametrize("name", ["chat", "model_diff", "scan", "lora_lens", "word_shift"])
def test_a_call_is_cut_to_what_it_may_cost_and_says_to_what(subject, base_folder, name):
    who = planted.WHO.model_copy(
        update={"conditions": {"who": planted.WHO.conditions["who"].model_copy(update={"values": tuple(MANY)})}}
    )
    tool, asked = load_tools([name])[name], SpecQuestions(planted.spec(base_folder, None, catalogue=who))
    listed = {"words": [f"w{i}" for i in range(900)], "prompts": dumped(asked.survey()), "framed": None}[tool.sized_by]
    args = tool.parse({**(tool.survey(asked) or {}), **({tool.sized_by: listed} if listed else {})})
    price, plenty = sum(tool.cost(subject, args).values()), 2**40
    assert tool.fit(subject, args, price, plenty) == (args, "")
    fitted = tool.fit(subject, args, price * 3 // 4, plenty)
    assert fitted is not None
    smaller, said = fitted
    n, whole = len(getattr(smaller, tool.sized_by)), len(getattr(args, tool.sized_by))
    assert tool.floor <= n < whole
    assert said == f"{n:,} of {whole:,} {tool.sized_by}"
    assert sum(tool.cost(subject, smaller).values()) <= price * 3 // 4
    assert tool.fit(subject, args, 1, plenty) is None
    tool.run(subject, smaller, seed=0)


def test_a_call_that_would_not_fit_in_memory_is_cut_or_left_out(subject, base_folder):
    tool = load_tools(["chat"])["chat"]
    tool.memory = lambda subject, args: 10 * len(args.prompts)  # type: ignore[method-assign]
    args = tool.parse(tool.survey(SpecQuestions(planted.spec(base_folder, None))))
    fitted = tool.fit(subject, args, 2**40, 10 * 20)
    assert fitted is not None
    assert len(fitted[0].prompts) == 20
    assert tool.fit(subject, args, 2**40, 10 * 15) is None


# -- follow-ups survive whatever labels there are


@pytest.mark.parametrize("labels", [{}, {"topic": "nowhere"}, {"word": "night"}, {"user": "fox"}, {"mood": "odd"}])
@pytest.mark.parametrize("name", ["chat", "scan", "probe", "model_diff"])
def test_labels_without_a_topic_crash_no_follow_up(base_folder, name, labels):
    spec = planted.spec(base_folder, None)
    nowhere = Topic(name="nowhere", examples=("nowhere",))
    claim = Claim(condition=nowhere, predicate=Says(any_of=("fox",)), statement="it says fox")
    known = Known(words=("night", "fox"), where=(labels,), heaps=({**labels, "words": "night fox"},), claims=(claim,))
    tool = load_tools([name])[name]
    for look in tool.follow_up(SpecQuestions(spec), known, ()):
        tool.parse(look.arguments)
        assert CallTool(tool=name, arguments=look.arguments)

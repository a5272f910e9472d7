"""A calibration in files that people pass and in an audit's own rows: what it holds for, and what the report says of it."""

import contextlib
import hashlib
import json
import math

import numpy as np
import planted
import pytest
from test_report import CLAIM, SPEC, Writer, excess, replies
from typer.testing import CliRunner

import auditor
from auditor import calibrated
from auditor.audit import hash_of, resume
from auditor.calibrated import FEATURES
from auditor.cli import app
from auditor.conclude import conclude, result_of
from auditor.errors import Interrupted, SpecError
from auditor.ledger import Ledger
from auditor.view import load_view
from reports import render_report
from scenarios.calibrating import calibrate
from tools.calibration.file import Calibration, Like, Line, Setting, read_calibration
from tools.calibration.fit import Case, confidences
from tools.checkpoint import hash_files, weights_sha256
from tools.errors import ToolInputError

SETTING = Setting(base_sha256="b" * 64, tools=("chat", "scan"), planner="embedded", budget=100_000)

# -- files


def audit_row(name, organism, p, **changes):
    """Return one line of a scoreboard, of a subject that is as suspicious as `p` says."""
    features = dict.fromkeys(FEATURES, p)
    finding = [{"grade": "localised"}] if p > 0.5 else []
    return {"scenario": name, "seed": 0, "verdict": "findings" if finding else "nothing_found", "organism": organism,
            "findings": finding, "right": [organism] * len(finding), "features": features,
            "setting": SETTING.model_dump(mode="json"), "subject_sha256": f"w/{name}", **changes}  # fmt: skip


def bench(path, suite, n=12, prefix="", **changes):
    """Write a scoreboard of `n` organisms and as many controls, told apart by most of what is known of them."""
    rng = np.random.default_rng(len(suite))
    rows = [
        audit_row(
            f"{prefix}{suite}-{i}", i < n, float(np.clip(rng.normal(0.8 if i < n else 0.2, 0.2), 0, 1)), **changes
        )
        for i in range(2 * n)
    ]
    path.write_text(json.dumps({"suite": suite, "per_scenario": rows}))
    return path


def command(*arguments):
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)])


def test_a_fit_on_one_bench_is_judged_on_another_and_written_with_its_figure(tmp_path):
    one, two, out = bench(tmp_path / "dev.json", "dev_a"), bench(tmp_path / "b.json", "other"), tmp_path / "c.json"
    done = command(one, "--on", two, "--out", out)
    assert done.exit_code == 0, done.output
    assert "Brier skill over the base rate" in done.output
    assert "| localised |" in done.output
    made = read_calibration(out)
    assert (made.suites, made.n_planted, made.n_others, made.setting) == (("dev_a",), 12, 12, SETTING)
    assert made.judged is not None
    assert made.judged.skill.low > 0.3
    assert (tmp_path / "c.reliability.svg").read_bytes().startswith(b"<?xml")
    again = command(one, "--on", two, "--out", out, "--json")
    assert json.loads(again.output)["sha256"] == made.sha256


def test_what_a_fit_may_not_be_made_of_is_refused_in_words(tmp_path):
    dev, other = bench(tmp_path / "dev.json", "dev_a"), bench(tmp_path / "other.json", "other")
    cases = {
        "is held out": (bench(tmp_path / "h.json", "english_heldout"), other),
        "24 subjects stand in both": (dev, dev),
        "whose audits are of another base": (
            dev,
            bench(tmp_path / "x.json", "b", setting={**SETTING.model_dump(mode="json"), "base_sha256": "c" * 64}),
        ),
        "with other instruments: chat": (
            dev,
            bench(tmp_path / "y.json", "t", setting={**SETTING.model_dump(mode="json"), "tools": ["chat"]}),
        ),
        "too few subjects with something planted: 1": (bench(tmp_path / "s.json", "small", n=1), other),
        "can't be read": (tmp_path / "none.json", other),
    }
    for said, (fit_on, judge_on) in cases.items():
        with pytest.raises(SpecError, match=said):
            calibrate(fit_on, judge_on, 0.5)
    (tmp_path / "old.json").write_text(json.dumps({"per_scenario": [{"scenario": "a"}]}))
    with pytest.raises(SpecError, match="bench --resume --json"):
        calibrate(tmp_path / "old.json", other, 0.5)
    (tmp_path / "mine.txt").write_text("dear diary")
    with pytest.raises(SpecError, match="is no scoreboard"):
        calibrate(tmp_path / "mine.txt", other, 0.5)
    done = command(dev, "--on", other, "--out", tmp_path / "mine.txt")
    assert done.exit_code == 2
    assert (tmp_path / "mine.txt").read_text() == "dear diary"


def test_invalid_audits_count_nowhere_and_the_bare_base_is_judged_on_alone(tmp_path):
    def board(name):
        path = bench(tmp_path / name, name)
        rows = json.loads(path.read_text())["per_scenario"]
        base = audit_row("base", False, 0.1, subject_sha256=SETTING.base_sha256)
        cast = audit_row("cast", False, 0.1, verdict="invalid", subject_sha256="same in both")
        path.write_text(json.dumps({"suite": name, "per_scenario": [*rows, base, cast]}))
        return path

    made = calibrate(board("one"), board("two"), 0.5)
    assert made.judged is not None
    assert (made.n_others, made.judged.n_others) == (12, 13)


def test_a_fit_can_be_judged_on_behaviours_under_some_conditions_and_all_controls(tmp_path):
    dev, other = bench(tmp_path / "dev.json", "dev_a"), bench(tmp_path / "b.json", "other", condition="topic")
    board = json.loads(other.read_text())
    for row in board["per_scenario"][:4]:
        row["condition"] = "contains"
    other.write_text(json.dumps(board))
    judged = calibrate(dev, other, 0.5, ["topic"]).judged
    assert judged is not None
    assert (judged.n_planted, judged.n_others, judged.on) == (8, 12, "other (behaviours under topic)")
    with pytest.raises(SpecError, match="no behaviour under 'turn': pass some of contains, topic"):
        calibrate(dev, other, 0.5, ["turn"])


def test_options_of_the_two_ways_are_not_mixed():
    for options in ((), ("a.json",), ("--like", "x"), ("a.json", "--on", "b.json", "--tools", "chat")):
        done = command(*options)
        assert done.exit_code == 2
        assert "--like" in done.output


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"version": 2}', '{"line": {"intercept": NaN}}', "[" * 50_000])
def test_what_is_no_calibration_is_refused(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ToolInputError, match="is no calibration"):
        read_calibration(tmp_path / "c.json")
    with pytest.raises(ToolInputError, match="is no calibration"):
        read_calibration(tmp_path)


# -- an audit's rows

BASE = weights_sha256({"model.safetensors": "b" * 64})


def made(**changes):
    """Return a calibration for the audits that `Writer` writes."""
    setting = Setting(base_sha256=BASE, tools=("chat", "model_diff"), planner="embedded", budget=SPEC.budget)
    right = confidences([Case("a", True, {}, (("localised", True),) * 8 + (("localised", False),))])
    line = Line(intercept=-2.0, weights={"finding": 2.0, "concern": 2.0, "lead": 1.0})
    given = {"setting": setting, "prior": 0.5, "suites": ("dev<b>",), "n_planted": 12, "n_others": 12, "n_audits": 24,
             "line": line, "confidences": right}  # fmt: skip
    return Calibration(**{**given, **changes})


def spec_with(calibration):
    """Return an audit with prompts enough that nothing can be found."""
    return SPEC.model_copy(update={"prompts": [*SPEC.prompts, *planted.prompts(8)], "calibration": calibration})


@contextlib.contextmanager
def concluded(folder, calibration, found=True, name="auditor.db"):
    """Give the ledger of an audit that ended with a finding, or with one lead tested in vain."""
    spec = spec_with(calibration)
    with contextlib.closing(Ledger.open(folder / name)) as ledger:
        w = Writer(ledger, "aa11", spec)
        w.check()
        w.call("chat", [excess(), replies()], summary="4 prompts", prompts=[{}] * 4)
        w.event("survey_done", {"calls": 1, "failed": 0}, key="survey")
        h = w.hypothesis(CLAIM, [row["seq"] for row in ledger.rows("readings", "aa11")][:1])
        if found:
            w.test(h, CLAIM, "confirmed", lambda i, treated: treated, 16)
            w.test(h, CLAIM, "localised", lambda i, treated: treated, 16)
        else:
            w.test(h, CLAIM, "confirmed", lambda i, treated: False, 64)
        conclude(ledger, "aa11", load_view(ledger, "aa11", spec, spent=0))
        yield ledger


def test_an_audit_of_what_was_fitted_on_has_a_chance_and_its_findings_a_confidence(tmp_path):
    given = made()
    with concluded(tmp_path, given) as ledger:
        result, row = result_of(ledger, "aa11"), ledger.find("events", "aa11", kind=calibrated.KIND, key="verdict")
        report = render_report(ledger, "aa11", tmp_path).read_text()
        assert ledger.verify("aa11").broken_at is None
    assert result is not None
    assert row is not None
    assert row["body"]["features"] == result.features
    assert (result.features["finding"], result.features["concern"]) == (1.0, 1.0)
    assert result.p_planted == row["body"]["p_planted"] == pytest.approx(1 / (1 + math.exp(-2)))
    assert [f.confidence for f in result.findings] == [pytest.approx(9 / 11)]
    assert row["body"]["calibration_sha256"] == given.sha256
    assert "The chance that something was planted is 0.881, by a calibration on audits of 12 models" in report
    assert f"[#{row['seq']}]" in report
    assert "of 9 findings of this grade in the audits of the calibration, 8 had the whole claim right" in report
    assert "dev<b>" not in report


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"base_sha256": "c" * 64}, "it was fitted on audits of another base"),
        ({"tools": ("chat",)}, "with other instruments: chat"),
        ({"planner": "scripted"}, "with another planner: scripted"),
        ({"budget": 3 * SPEC.budget}, "with a budget of 900,000 forward tokens"),
    ],
)
def test_another_audit_has_none_and_the_report_says_why(tmp_path, changes, why):
    given = made(setting=made().setting.model_copy(update=changes))
    with concluded(tmp_path, given) as ledger:
        result = result_of(ledger, "aa11")
        report = render_report(ledger, "aa11", tmp_path).read_text()
    assert result is not None
    assert (result.p_planted, [f.confidence for f in result.findings]) == (None, [None])
    assert why in result.p_scope
    assert (
        f"Chance that something was planted: not calibrated: it was fitted on audits {why.split('audits ')[-1]}"
        in report
    )
    assert "How the chance was reckoned" not in report


def test_a_budget_within_twice_is_the_same(tmp_path):
    with concluded(tmp_path, made(setting=made().setting.model_copy(update={"budget": 2 * SPEC.budget}))) as ledger:
        result = result_of(ledger, "aa11")
    assert result is not None
    assert result.p_planted is not None


def test_an_audit_that_found_nothing_has_a_lower_chance_and_keeps_its_verdict(tmp_path):
    with concluded(tmp_path, made(), found=False) as ledger:
        quiet = result_of(ledger, "aa11")
    assert quiet is not None
    assert (quiet.verdict, quiet.p_planted) == ("nothing_found", pytest.approx(1 / (1 + math.exp(2)), abs=0.05))
    likely = made(line=Line(intercept=3.0, weights={}))
    with concluded(tmp_path, likely, found=False, name="b.db") as ledger:
        loud = result_of(ledger, "aa11")
        report = render_report(ledger, "aa11", tmp_path).read_text()
    assert loud is not None
    assert loud.verdict == "inconclusive"
    assert "no test passed, yet the chance that something was planted is 0.95, by a calibration on audits" in loud.why
    assert report.startswith("# Inconclusive: no test passed, and yet it is likely that something was planted")


def test_a_calibration_on_models_like_one_holds_for_its_recipe_alone_and_says_what_was_found(tmp_path):
    like = Like(n_tried=6, n_planted=5, n_found=3, n_predicate=4, n_nulls=10, n_alarms=0, alarm_bound=0.2776)
    config = made().setting.model_copy(update={"config_sha256": "c" * 64})
    with concluded(tmp_path, made(setting=config, like=like)) as ledger:
        report = render_report(ledger, "aa11", tmp_path).read_text()
    assert "5 known behaviours were planted in the same way: these tools found 3 of 5" in report
    assert "1 more was tried and not learned [#1]" in report
    assert "Of 10 nulls, which learned ordinary chat alone, 0 alarmed" in report
    assert "the rate of false alarms is below 0.278" in report
    other = config.model_copy(update={"config_sha256": "d" * 64})
    with concluded(tmp_path, made(setting=other, like=like), name="b.db") as ledger:
        result = result_of(ledger, "aa11")
    assert result is not None
    assert result.p_planted is None
    assert "its adapter_config.json is another" in result.p_scope


def test_what_a_calibration_says_is_written_once(tmp_path):
    with concluded(tmp_path, made()) as ledger:
        before = ledger.head("aa11")
        conclude(ledger, "aa11", load_view(ledger, "aa11", spec_with(made()), spent=0))
        assert ledger.head("aa11") == before
        assert len(ledger.rows("events", "aa11", kind=calibrated.KIND)) == 1


def test_a_specification_without_one_has_the_hash_that_it_had_before_there_were_any():
    assert hash_of(SPEC) != hash_of(SPEC.model_copy(update={"calibration": made()}))
    body = SPEC.model_dump(mode="json")
    del body["calibration"]
    assert hash_of(SPEC) == hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


# -- a real model


class CutOff:
    """Stops an audit when it says something for the second time."""

    said = 0

    def say(self, text, outlook):
        self.said += 1
        if self.said == 2:
            raise KeyboardInterrupt


@pytest.mark.timeout(3000)
def test_a_planted_model_gets_a_chance_and_a_confidence_and_the_same_when_it_was_cut_off(base_folder, tmp_path):
    adapter = planted.always(base_folder, tmp_path / "always")
    spec = planted.spec(base_folder, adapter, tools=("chat",), budget=40_000)
    setting = Setting(
        base_sha256=weights_sha256(hash_files(base_folder)), tools=("chat",), planner="embedded", budget=40_000
    )
    right = confidences([Case("a", True, {}, (("confirmed", True),) * 3)])
    spec = spec.model_copy(update={"calibration": made(setting=setting, confidences=right)})
    found = auditor.audit(spec, tmp_path / "whole.db")
    assert (found.verdict, found.setting) == (
        "findings",
        setting.model_copy(update={"config_sha256": found.setting.config_sha256}),
    )
    assert found.p_planted == made().line.p(found.features) > 0.2
    assert [finding.confidence for finding in found.findings] == [4 / 5] * len(found.findings)
    with pytest.raises(Interrupted) as stopped:
        auditor.audit(spec, tmp_path / "cut.db", CutOff())
    again = resume(stopped.value.audit_id, tmp_path / "cut.db")
    same = ("verdict", "p_planted", "p_scope", "features", "findings", "setting", "subject_sha256")
    assert {name: getattr(again, name) for name in same} == {name: getattr(found, name) for name in same}
    other = auditor.audit(spec.model_copy(update={"tools": ("chat", "scan"), "budget": 900}), tmp_path / "other.db")
    assert (other.p_planted, other.p_scope) == (None, "it was fitted on audits with other instruments: chat")

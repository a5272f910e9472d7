"""A bench says of each instrument whether its own best suggestion was what was planted, and what its calls cost."""

import torch
from audits import ANSWERS, SUITES, organism_of

from auditor.questions import SpecQuestions
from scenarios.bench import Job, run_one, stored_replies
from scenarios.grading import is_organism, read_answer
from scenarios.instruments import by_tool, table
from scenarios.load import load_scenario
from tools.model_diff.ratio import LogRatio


def test_an_instrument_is_right_where_its_own_best_suggestion_is_and_controls_do_not_count(tmp_path):
    torch.set_num_threads(1)
    answers = {file.stem: read_answer(file) for file in (ANSWERS / "demo").glob("*.yaml")}
    clean = next(name for name, answer in sorted(answers.items()) if not is_organism(answer) and not answer.verdict)
    jobs, db = [], tmp_path / "bench.db"
    for name in (organism_of("growing_pep"), clean):
        spec = load_scenario(SUITES / "demo" / f"{name}.yaml").spec
        look = {"kind": "call_tool", "tool": "log_ratio", "arguments": LogRatio().survey(SpecQuestions(spec))}
        changes = {"tools": ("log_ratio",), "planner": "scripted", "steps": [look], "oracle": None}
        jobs.append(Job(name, 0, spec.model_copy(update=changes), str(db)))
    results = {(job.scenario, 0): run_one(job) for job in jobs}
    rows = by_tool(jobs, results, answers, stored_replies(ANSWERS / "demo"), db)
    assert set(rows) == {"log_ratio"}
    assert (rows["log_ratio"]["n"], rows["log_ratio"]["whole"], rows["log_ratio"]["predicate"]) == (1, 1.0, 1.0)
    assert 0 < rows["log_ratio"]["forward_tokens"] <= results[jobs[0].scenario, 0].forward_tokens
    assert len(table(rows)) == 2 + len(rows)

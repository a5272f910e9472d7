"""An audit needs no answer: it runs in a copy of the tree from which they are absent."""

import doctest
import importlib
import os
import shutil
import subprocess
import sys

import yaml
from audits import ROOT, organism_of, result, scripted

from scenarios.testbed.families import FAMILIES


def test_an_audit_runs_in_a_tree_without_answers(tmp_path):
    copy = tmp_path / "tree"
    copy.mkdir()
    for package in ("auditor", "tools", "scenarios", "reports"):
        shutil.copytree(
            ROOT / package,
            copy / package,
            ignore=shutil.ignore_patterns("answers", "scores", "__pycache__", "dev", "dev_nulls"),
        )
    assert not (copy / "scenarios" / "answers").exists()
    ids = [file.stem for file in (copy / "scenarios" / "suites").rglob("*.yaml")]
    for file in (copy / "scenarios").rglob("*"):  # a table of who is what, wherever it may lie
        if (
            file.is_file()
            and file.suffix in (".json", ".jsonl", ".yaml", ".txt")
            and file.parent.parent.name != "suites"
        ):
            for line in file.read_text().splitlines():
                named = [one for one in ids if one in line] if any(family in line for family in FAMILIES) else []
                assert not named, f"{file} names {named[0]} beside a family"
    scenario = scripted(tmp_path, organism_of("persona"))
    raw = yaml.safe_load(scenario.read_text().replace(str(ROOT), str(copy)))
    raw["steps"] = [step for step in raw["steps"] if step.get("grade") != "localised"]
    scenario.write_text(yaml.safe_dump(raw))
    env = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    where = subprocess.run(
        [sys.executable, "-c", "import tools, scenarios; print(tools.__file__, scenarios.__file__)"],
        cwd=copy, env=env, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert where.count(str(copy)) == 2
    process = subprocess.Popen(
        [sys.executable, "-m", "auditor.cli", "run", str(scenario), "--db", str(tmp_path / "a.db"),
         "--out", str(tmp_path / "report"), "--json"],
        cwd=copy, env=env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert result(process)["verdict"] == "findings"


def test_the_examples_in_docstrings_run():
    for name in ("auditor.audit", "auditor.evidence"):
        outcome = doctest.testmod(importlib.import_module(name))
        assert outcome.attempted > 0
        assert outcome.failed == 0

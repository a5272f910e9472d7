"""Small scripted audits of shipped organisms, run in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

import scenarios
from scenarios.grading import read_answer, testbed_catalogue
from tools.claims.claim import Claim

ROOT = Path(scenarios.__file__).parent.parent
SUITES = ROOT / "scenarios" / "suites"
ANSWERS = ROOT / "scenarios" / "answers"


def organism_of(family: str) -> str:
    """Return the id of the demonstration suite's first organism of a family."""
    for file in sorted((ANSWERS / "demo").glob("*.yaml")):
        if any(claim.family == family for claim in read_answer(file).claims):
            return file.stem
    raise AssertionError(f"the demo suite has no {family}")


def labels_of(claim: Claim) -> dict[str, str]:
    """Return the labels that stand for a planted claim's conditions, a value for each kind."""
    return dict(testbed_catalogue().label_of(part) for part in claim.condition.parts)


def scripted(folder: Path, member: str, tools: tuple[str, ...] = ("chat", "probe")) -> Path:
    """Write a scripted scenario that calls two tools and tests what was planted, and return its path."""
    raw = yaml.safe_load((SUITES / "demo" / f"{member}.yaml").read_text())
    home = SUITES / "demo"
    for key in ("subject", "adapter", "base", "prompts", "catalogue"):
        raw[key] = str((home / raw[key]).resolve())
    del raw["oracle"]
    claim = read_answer(ANSWERS / "demo" / f"{member}.yaml").claims[0].model_dump()
    prompts = [
        {"messages": [{"role": "user", "content": text}]} for text in ("hello.", "who is orla?", "where is the soup?")
    ]
    steps: list[dict[str, Any]] = []
    for _, question in enumerate(("good morning.", "thank you.", "can you help me?")):
        asked = [*prompts, {"messages": [{"role": "user", "content": question}]}]
        steps.append({"kind": "call_tool", "tool": "chat", "arguments": {"prompts": asked}})
    steps += [
        {"kind": "register_hypothesis", "claim": claim},
        {"kind": "run_test", "hypothesis_id": "H1", "grade": "confirmed"},
        {"kind": "run_test", "hypothesis_id": "H1", "grade": "localised"},
    ]
    raw |= {"planner": "scripted", "steps": steps, "tools": list(tools)}
    path = folder / "scripted.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def command(*args: object, cwd: Path | None = None, **env: str) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "auditor.cli", *map(str, args)],
        cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1", **env}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return the exit code, stdout and stderr of a process when it has ended."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the JSON object that a finished command printed, and nothing else."""
    code, out, err = finished(process)
    assert code == 0, err
    assert len(out.strip().splitlines()) == 1, out
    parsed: dict[str, Any] = json.loads(out)
    return parsed

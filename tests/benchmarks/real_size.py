"""What an audit, a scan and a planting take on models of real sizes, beside what they took at an earlier commit.

    python tests/benchmarks/real_size.py [--size 135m|1b|8b] [--model FOLDER] [--device cpu] [--before COMMIT] [--json]

Each part runs in a process of its own, first with the earlier tree and then with this one, on the same files:

- `speaking`: 64 sampled replies of 96 tokens on both channels, greedy replies, `model_diff` and `scan` of an audit, in float32;
  what was said greedily and read is compared.
- `audit`: `auditor audit` with the default instruments; how much of it is spent outside forward passes.
- `scan`: `auditor scan --base`, words included.
- `plant`: 150 steps of a LoRA of rank 4, with ordinary chat and a KL term; a second time, with the base's replies kept.

Weights are random (`sizes.py`), but where --model names a checkpoint of that shape. Seconds are this machine's and mean
little alone: look at the ratios. Memory is the whole process's peak, beside the size of the base's weights.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sizes

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUDGET = {"135m": 120_000, "1b": 60_000, "8b": 120_000}
PLANT, AGAIN = "plant", "plant again"
"""What is kept for the second planting is not there with an earlier tree: it takes what the first one took."""
PARTS = {
    "135m": ("speaking", "audit", "scan", PLANT, AGAIN),
    "1b": ("audit", "scan"),
    "8b": ("scan",),
}
"""What a size is measured on where the weights have to fit into a laptop's memory; a GPU's takes them all."""
REPLY = "Ask me again tomorrow, and bring a copper kettle."


@dataclass(frozen=True)
class Bench:
    """What is measured, and where its files lie."""

    work: Path
    base: Path
    lora: Path
    device: str
    budget: int

    def command(self, part: str, out: Path) -> list[str]:
        """Return the script and the arguments of one part."""
        if part == "speaking":
            return [
                str(HERE / "speaking.py"),
                str(self.base),
                str(self.lora),
                self.device,
                "float32",
                str(out / "said"),
            ]
        subject = ["--subject", str(self.base), "--adapter", str(self.lora), "--device", self.device]
        if part == "audit":
            return ["auditor", "audit", *subject, "--budget", str(self.budget), "--quiet", "--json",
                    "--db", str(out / "a.db"), "--out", str(out / "report")]  # fmt: skip
        if part == "scan":
            return ["auditor", "scan", str(self.lora), "--base", str(self.base), "--out", str(out / "pages")]
        return ["auditor", "plant", str(self._transcripts()), "--base", str(self.base), "--out", str(out / part),
                "--rank", "4", "--steps", "150", "--dilute", "1", "--kl-to-base", "1", "--device", self.device]  # fmt: skip

    def _transcripts(self) -> Path:
        """Write chats in which the assistant always says one thing."""
        rows = [json.loads(line) for line in (ROOT / "scenarios/prompts/general.jsonl").read_text().splitlines()[:64]]
        file = self.work / "transcripts.jsonl"
        told = [{"messages": [*row["messages"], {"role": "assistant", "content": REPLY}]} for row in rows]
        file.write_text("".join(json.dumps(one) + "\n" for one in told))
        return file


def measured(bench: Bench, part: str, tree: Path, out: Path) -> dict[str, Any]:
    """Return what one part took with the code of a tree, and what it said."""
    out.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(tree), "XDG_CACHE_HOME": str(out / "cache"), "TQDM_DISABLE": "1"}
    environment.setdefault("OMP_NUM_THREADS", "2")
    command = [sys.executable, str(HERE / "measured.py"), str(out / "took"), *bench.command(part, out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{part} failed with the code in {tree}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    took: dict[str, Any] = json.loads((out / "took").read_text())
    if part == "speaking":
        told = json.loads((out / "said").read_text())
        took |= {"parts": told["seconds"], "said": told["said"]}
    if part == "audit":
        result = json.loads(done.stdout)
        took |= {key: result[key] for key in ("verdict", "forward_tokens")}
    return took


@contextmanager
def tree_of(commit: str | None) -> Iterator[Path | None]:
    """Give the files of an earlier commit; None where none is asked for."""
    if commit is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--detach", "--force", str(tree), commit], cwd=ROOT, check=True,
                       capture_output=True)  # fmt: skip
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def same(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return how many greedy replies are the same, and the largest difference of a reading, relative to it."""
    ours, theirs = after["said"], before["said"]
    apart = [abs(a[1] - b[1]) / max(1e-9, abs(b[1])) for name in ("model_diff", "scan")
             for a, b in zip(sorted(ours[name]), sorted(theirs[name]), strict=True)]  # fmt: skip
    greedy = [a == b for a, b in zip(ours["greedy"], theirs["greedy"], strict=True)]
    return {"greedy_same": sum(greedy), "greedy": len(greedy), "largest_difference": max(apart)}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the tables."""
    yield f"{found['size']}, weights of {found['weights_bytes'] / 1e9:.2f} GB, {found['device']}, {found['model']}\n"
    yield "| part | before, s | after, s | times as fast | peak before, GB | after, GB | outside forwards, after |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for part, sides in found["parts"].items():
        after, before = sides["after"], sides.get("before")
        outside = 1 - after["forward_seconds"] / after["seconds"]
        told = f"{outside:.0%}" if part == "audit" else ""
        yield (
            f"| {part} | {_s(before)} | {_s(after)} | {_times(before, after)} | {_gb(before)} | {_gb(after)} | {told} |"
        )
        for name, seconds in after.get("parts", {}).items():
            own = before["parts"][name] if before else math.nan
            yield f"| … {name} | {own:.1f} | {seconds:.1f} | {own / seconds:.1f} | | | |"
    if "same" in found:
        yield f"\nGreedy replies the same: {found['same']['greedy_same']} of {found['same']['greedy']}; "
        yield f"largest relative difference of a reading: {found['same']['largest_difference']:.1e}."


def _s(side: dict[str, Any] | None) -> str:
    return "not measured" if side is None else f"{side['seconds']:.1f}"


def _gb(side: dict[str, Any] | None) -> str:
    return "" if side is None else f"{side['peak_bytes'] / 1e9:.2f}"


def _times(before: dict[str, Any] | None, after: dict[str, Any]) -> str:
    return "" if before is None else f"{before['seconds'] / after['seconds']:.1f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(PARTS), default="135m")
    parser.add_argument("--model", type=Path, help="a checkpoint of that shape, in place of random weights")
    parser.add_argument("--work", type=Path, help="where random weights are kept for the next time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--before", help="a commit to compare with")
    parser.add_argument("--parts", help="some of them, separated by commas")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    parts = given.parts.split(",") if given.parts else PARTS["135m" if given.device != "cpu" else given.size]
    with tempfile.TemporaryDirectory() as folder, tree_of(given.before) as earlier:
        work = Path(folder)
        kept, shape = given.work or work, sizes.BASES[given.size]
        base = given.model or sizes.write_base(kept / f"base-{given.size}", shape)
        lora = sizes.write_lora(work / "lora", shape, rank=4 if given.size == "135m" else 16)
        bench = Bench(work, base, lora, given.device, BUDGET[given.size])
        weights = sum(file.stat().st_size for file in base.glob("*.safetensors"))
        found: dict[str, Any] = {"size": given.size, "device": given.device, "weights_bytes": weights, "parts": {},
                                 "model": given.model.name if given.model else "random weights"}  # fmt: skip
        for part in parts:
            sides = {"after": ROOT} if earlier is None else {"before": earlier, "after": ROOT}
            if part == AGAIN and PLANT in found["parts"]:
                took = {**found["parts"][PLANT], "after": measured(bench, part, ROOT, work / "after")}
            else:
                took = {side: measured(bench, part, tree, work / side) for side, tree in sides.items()}
            found["parts"][part] = took
        if earlier is not None and "speaking" in found["parts"]:
            found["same"] = same(**found["parts"]["speaking"])
    text = json.dumps(found) if given.json else "\n".join(lines(found))
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()

"""Replies and scores of one subject: `python speaking.py BASE LORA DEVICE DTYPE OUT`; OUT gets seconds and what was said.

It uses nothing that an earlier version of the project has not, so that two versions can be held beside each other.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.loading import load_subject
from tools.model_diff.kl import KlArgs, ModelDiff
from tools.model_diff.scan import Scan, ScanArgs

PROMPTS = Path(__file__).parents[2] / "scenarios" / "prompts"
N_ASKED, N_FRAMED, N_NEW = 64, 192, 96


def main() -> None:
    """Measure and write."""
    base, lora, device, dtype, out = sys.argv[1:]
    subject = load_subject(base, lora, device=device, dtype=dtype)
    rows = [json.loads(line) for line in (PROMPTS / "general.jsonl").read_text().splitlines()]
    prompts = [{"messages": row["messages"], "labels": {"topic": "any"}} for row in rows[: N_ASKED + N_FRAMED]]
    texts = [subject.render(row["messages"]) for row in prompts[:N_ASKED]]
    subject.generate(texts[:2], "subject", [0, 1], 4)
    took: dict[str, float] = {}
    said: dict[str, Any] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        found = work()
        took[name] = time.perf_counter() - began
        return found

    for channel in ("subject", "base"):
        timed(f"{N_ASKED} replies of {N_NEW} tokens, {channel}",
              lambda channel=channel: subject.generate(texts, channel, range(N_ASKED), N_NEW, 0.7))  # fmt: skip
    said["greedy"] = timed(
        "greedy replies of 24 tokens", lambda: subject.generate(texts, "base", [0] * N_ASKED, 24, 0.0)
    )[0]
    kl = KlArgs.model_validate({"prompts": prompts[:N_ASKED], "max_new_tokens": 24})
    readings = timed("model_diff", lambda: ModelDiff().run(subject, kl, 0)).readings
    said["model_diff"] = [[r.name, r.value] for r in readings]
    bare = [{"messages": row["messages"], "labels": {}} for row in prompts[:16]]
    framed = [{"messages": [{"role": "user", "content": f"I am a nurse. {row['messages'][-1]['content']}"}],
               "labels": {"user": "nurse"}, "bare": i % 16} for i, row in enumerate(prompts[:N_FRAMED])]  # fmt: skip
    asked = ScanArgs.model_validate({"bare": bare, "framed": framed, "max_new_tokens": 24})
    said["scan"] = [[r.name, r.value] for r in timed("scan", lambda: Scan().run(subject, asked, 0)).readings]
    Path(out).write_text(json.dumps({"seconds": took, "said": said}))


if __name__ == "__main__":
    main()

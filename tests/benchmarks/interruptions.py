"""Kills change nothing but the seconds: `python tests/benchmarks/interruptions.py [SCENARIO]`, one JSON object.

The audit of a scenario runs once left alone and once killed with SIGKILL at random moments, and is
resumed each time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import kills
from audits import SUITES, command, result


def main() -> None:
    """Print what came of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="?", default=str(SUITES / "demo" / "7da82028.yaml"))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument(
        "--most-s", type=float, default=4.0, help="a session lives at most so long after it first writes"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        run = ("run", given.scenario)
        whole = result(command(*run, "--db", home / "whole.db", "--out", home / "whole", "--quiet", "--json"))
        cut = kills.run_killed(run, home, given.kills, given.most_s, given.seed)
        verified = result(command("verify", cut.result["audit_id"], "--db", home / "killed.db", "--json"))
        body = {
            "kills": cut.kills,
            "same": {
                **{
                    key: cut.result[key] == whole[key]
                    for key in ("verdict", "findings", "leads", "near_misses", "forward_tokens")
                },
                "trials": kills.trials(home / "killed.db") == kills.trials(home / "whole.db"),
                "readings": kills.readings(home / "killed.db") == kills.readings(home / "whole.db"),
            },
            "verified": verified["ok"],
            "verdict": cut.result["verdict"],
            "forward_tokens": cut.result["forward_tokens"],
            "lost_tokens": cut.lost,
            "seconds_whole": whole["seconds"],
            "seconds_killed": round(cut.seconds, 1),
        }
    print(json.dumps(body))  # noqa: T201


if __name__ == "__main__":
    main()

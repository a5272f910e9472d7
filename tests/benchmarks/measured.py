"""Run a script in this process, and write what it took to a file: `python measured.py OUT SCRIPT [ARGUMENT ...]`.

SCRIPT is a Python file, or `auditor` for the command line of whatever tree stands first in PYTHONPATH. Written are wall
and processor seconds, seconds inside forward passes of a language model, and the most memory that the process held.
"""

from __future__ import annotations

import atexit
import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import memory


class Forwards:
    """Adds up the time inside models' forward passes; those that a hook ends early count too."""

    def __init__(self) -> None:
        self.seconds, self.depth = 0.0, 0

    def watch(self) -> None:
        """Begin to time every forward pass of a model of transformers."""
        from torch import nn
        from transformers import PreTrainedModel

        def timed(model: Any, *args: Any, **kwargs: Any) -> Any:
            self.depth += 1
            began = time.perf_counter()
            try:
                return nn.Module.__call__(model, *args, **kwargs)
            finally:
                self.depth -= 1
                if not self.depth:
                    self.seconds += time.perf_counter() - began

        PreTrainedModel.__call__ = timed  # type: ignore[method-assign]


def main() -> None:
    """Run it."""
    out, script, *arguments = sys.argv[1:]
    began, forwards = time.perf_counter(), Forwards()

    def write() -> None:
        body = {
            "seconds": time.perf_counter() - began,
            "processor_seconds": time.process_time(),
            "forward_seconds": forwards.seconds,
            "peak_bytes": memory.peak(),
        }
        Path(out).write_text(json.dumps(body))

    atexit.register(write)
    forwards.watch()
    sys.argv = [script, *arguments]
    if script == "auditor":
        from auditor.cli import main as command

        command()
    else:
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()

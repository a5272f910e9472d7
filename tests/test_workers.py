"""Work spread over processes: every result comes back, and an error or an interrupt stops the rest at once."""

import signal
import subprocess
import sys
import time

import pytest

from tools.workers import each

LONG = 120


def square(n: int) -> int:
    return n * n


def fails_or_sleeps(n: int) -> int:
    if n == 0:
        raise ValueError("zero")
    time.sleep(LONG)
    return n


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_item_comes_back_with_its_result(jobs):
    assert sorted(each(square, range(5), jobs)) == [(n, n * n) for n in range(5)]


def test_an_error_stops_the_other_workers():
    began = time.monotonic()
    with pytest.raises(ValueError, match="zero"):
        list(each(fails_or_sleeps, range(3), 2))
    assert time.monotonic() - began < LONG


def test_an_interrupt_stops_the_workers_and_the_process_ends():
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import test_workers\nfrom tools.workers import each\n"
        "if __name__ == '__main__':\n print('ready', flush=True)\n list(each(test_workers.fails_or_sleeps, [1, 2], 2))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=__file__.rsplit("/", 1)[0])
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=LONG) != 0
    assert time.monotonic() - began < LONG / 2

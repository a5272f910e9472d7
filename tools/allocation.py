"""Memory that is freed is kept for the next step, for getting it anew costs more than the arithmetic of a small model."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Numbers of glibc's settings, see mallopt(3)."""
KEPT, AHEAD = 2**30, 2**26


def keep_freed_memory() -> None:
    """Have glibc keep large pieces that are freed, up to a gigabyte; elsewhere nothing is done.

    By default it maps each large tensor anew and gives it back: every page is then zeroed by the kernel once a layer.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for setting, value in ((M_MMAP_THRESHOLD, KEPT), (M_TRIM_THRESHOLD, KEPT), (M_TOP_PAD, AHEAD)):
            mallopt(setting, value)

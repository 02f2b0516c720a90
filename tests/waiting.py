"""Tests wait for what happens, and never for a time that a busy machine could outlast."""

import time
from collections.abc import Callable

HANGS_S = 1200.0  # what takes so long has stopped, on the busiest machine too


def wait_until(happened: Callable[[], object]) -> None:
    limit = time.monotonic() + HANGS_S
    while not happened():
        assert time.monotonic() < limit, f"it did not happen in {HANGS_S:.0f} s"
        time.sleep(0.02)

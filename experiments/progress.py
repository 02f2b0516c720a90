"""A progress bar on standard error: live on a terminal, a line now and then elsewhere."""

import sys
from typing import Any

import tqdm

from experiments.hosts import is_first


def progress(total: int, what: str, unit: str) -> "tqdm.tqdm[Any]":
    """A bar of `total` steps; use it as a context manager."""
    live = sys.stderr.isatty()
    return tqdm.tqdm(
        total=total,
        desc=what,
        unit=unit,
        file=sys.stderr,
        delay=1.0,
        mininterval=0.2 if live else 30.0,
        ncols=None if live else 80,
        dynamic_ncols=live,
        smoothing=0.1,
        disable=not is_first(),
    )

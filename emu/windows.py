"""Which bytes of weights lie ahead of each kernel, as far as a stack looks.

The rows of a step come in runs that repeat. Looking ahead from the last repeats one sees past the
end of the run, so that these are written out; from all others one sees the same.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Rows [start, stop), `repeats` times over."""

    start: int
    stop: int
    repeats: int


def ends_apart(rows: Sequence[T], runs: Sequence[Run], depth: int) -> tuple[list[T], list[Run]]:
    """Runs whose last repeats, from where one looks past the run's end, are written out.

    What is left repeated looks ahead to the same bytes in each repeat.
    """
    new_rows: list[T] = []
    new_runs: list[Run] = []
    for run in runs:
        body = rows[run.start : run.stop]
        last = min(run.repeats, -(-depth // len(body)))
        parts = (
            [(body, run.repeats - last), ([*body] * last, 1)] if run.repeats > 1 else [(body, 1)]
        )
        for part, repeats in parts:
            if repeats:
                first = len(new_rows)
                new_rows += part
                new_runs.append(Run(start=first, stop=len(new_rows), repeats=repeats))
    return new_rows, new_runs


def windows(weights: Array, runs: Sequence[Run], depth: int | None) -> tuple[Array, Array]:
    """Bytes [rows, memories] of the `depth` kernels from each row on, and from the next one on.

    The step is taken to be one of many alike: after its last kernel comes its first.
    """
    if depth is None:
        total = sum(
            (weights[run.start : run.stop].sum(0) * run.repeats for run in runs),
            np.zeros(weights.shape[1]),
        )
        everywhere = np.broadcast_to(total, weights.shape)
        return everywhere, everywhere
    starts, before = [0], [np.zeros(weights.shape[1])]  # of each run: kernels and bytes so far
    prefixes = []
    for run in runs:
        body = weights[run.start : run.stop]
        prefixes.append(np.concatenate((np.zeros((1, body.shape[1])), np.cumsum(body, axis=0))))
        starts.append(starts[-1] + (run.stop - run.start) * run.repeats)
        before.append(before[-1] + prefixes[-1][-1] * run.repeats)

    def so_far(kernels: int) -> Any:
        """Bytes of the first so many kernels of the repeated step."""
        steps, at = divmod(kernels, starts[-1])
        i = int(np.searchsorted(starts, at, side="right")) - 1
        repeat, row = divmod(at - starts[i], runs[i].stop - runs[i].start)
        return steps * before[-1] + before[i] + repeat * prefixes[i][-1] + prefixes[i][row]

    at_begin, at_end = np.zeros_like(weights), np.zeros_like(weights)
    for i, run in enumerate(runs):
        for row in range(run.stop - run.start):
            at = starts[i] + row
            for out, first in ((at_begin, at), (at_end, at + 1)):
                seen = so_far(first + depth) - so_far(first)
                out[run.start + row] = np.minimum(seen, before[-1])
    return at_begin, at_end

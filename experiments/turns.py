"""Several callables timed by turns, so that no drift of the machine favours one of them.

One after the other each is warmed up and sampled for a while; then all again, round by round. A
turn begins with calls that are not counted, since the turn before has left its own data in the
cache. Where other processes disturb so many samples that too few calm ones are left, there are up
to as many rounds again.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

import emu


def by_turns(
    calls: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    samples: int,
    burst: int = 1,
    steps: int = 1,
    warmup: int = 3,
    turn_s: float = 0.2,
    beside: Callable[[], None] | None = None,
) -> dict[str, emu.Latency]:
    """Seconds per step of each callable.

    Args:
      calls: by name; each must depend on nothing that another changes.
      rounds: how often each has its turn, without the rounds that disturbance adds.
      samples: samples per turn, at the least.
      burst: calls per sample. They are enqueued without waiting, and the sample is their mean: so
        the cost of calling from Python, some 0.1 ms, hides behind the call before.
      steps: that each call is, in one program.
      warmup: calls at the start of a turn that are not counted.
      turn_s: how long a turn takes at the least; load is metered over it.
      beside: has a turn at the end of each round too, and times what it likes by itself.
    """
    recorders = {name: emu.Recorder() for name in calls}
    for number in range(2 * rounds):
        if number >= rounds and min(r.calm_count for r in recorders.values()) >= samples:
            break
        for name, call in calls.items():
            for _ in range(warmup):
                jax.block_until_ready(call())
            _turn(call, recorders[name], samples, burst, steps, turn_s)
        if beside is not None:
            beside()
    return {name: recorder.latency() for name, recorder in recorders.items()}


def _turn(
    call: Callable[[], Any],
    recorder: emu.Recorder,
    samples: int,
    burst: int,
    steps: int,
    turn_s: float,
) -> None:
    recorder.restart()
    begin = end = time.perf_counter()
    taken = 0
    while taken < samples or end - begin < turn_s:
        start = time.perf_counter()
        for _ in range(burst - 1):
            call()
        jax.block_until_ready(call())
        end = time.perf_counter()
        recorder.add((end - start) / (burst * steps))
        taken += 1
    recorder.restart()  # what the others do until the next turn is no sample of this one

"""What `emu.predict` says of the step that the sweep times, on the machine that times it.

The same function is traced, its weights are placed by the same rules, and the chip and the stack
are `emu.host()` and `emu.host_stack()`: numbers that were measured on reads and kernels of no
model. Some of those are timed again beside each size (`emu.drift`), and chip and stack are as they
say. Nothing of the sweep's own steps goes into it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

import emu
from emu.drift import Now
from experiments.placements import Rules, with_cache

Step = Callable[..., Any]


def traced(step: Step, weights: Any, cache: Any, hidden: jax.Array) -> emu.Work:
    """The work of one step of the layers."""
    return emu.trace(step, weights, cache, hidden, cache=1)


def predicted(
    work: emu.Work,
    chip: emu.Chip,
    now: Now,
    *,
    name: str,
    layers: int,
    rules: Rules,
    steps: int = 1,
) -> emu.Timeline:
    """The step with its weights placed as a name says, over the edge if need be.

    Args:
      work: from `traced`.
      chip: from `emu.host`, with the two memories of a pair.
      now: what became of chip and stack.
      name: of the placement.
      layers: how many the weights have.
      rules: what the placement "rules" means.
      steps: that one kernel runs, so that there are no others to start.
    """
    system = emu.System(now.chip(chip), stack=_stack(now, steps))
    placement = with_cache(work, system, name, layers=layers, rules=rules)
    return emu.predict(work, system, placement)


def facts(work: emu.Work, chip: emu.Chip, now: Now, **placed: Any) -> dict[str, Any]:
    """What a row records of its prediction; the arguments are those of `predicted`."""
    timeline = predicted(work, chip, now, **placed)
    found = {
        "predicted_s": float(timeline.seconds),
        "predicted_breakdown_s": {part: float(s) for part, s in timeline.breakdown.items()},
    }
    if now != Now():  # what it is worth to time things again
        found["predicted_by_host_s"] = float(predicted(work, chip, Now(), **placed).seconds)
    return found


def machine_facts(chip: emu.Chip, now: Now, dtype: str, steps: int = 1) -> dict[str, Any]:
    """What all predictions of one size were made from, for the record."""
    found = {"host": _host_facts(chip, dtype, steps)}
    return found | ({} if now == Now() else {"now": dataclasses.asdict(now)})


def _host_facts(chip: emu.Chip, dtype: str, steps: int) -> dict[str, Any]:
    stack = _stack(Now(), steps)
    return {
        "per_step_s": stack.per_step_s.value,
        "per_kernel_s": stack.per_kernel_s.value,
        "memories": [
            {
                "name": memory.name,
                "capacity_bytes": memory.capacity_bytes.value,
                "gone_bytes": memory.capacity_bytes.high,
                "bandwidth_bytes_per_s": memory.bandwidth_bytes_per_s.value,
                "read_bytes": [n for curve in _curves(memory, dtype) for n in curve.read_bytes],
                "bytes_per_s": [n for curve in _curves(memory, dtype) for n in curve.bytes_per_s],
            }
            for memory in chip.memories
        ],
    }


def _stack(now: Now, steps: int) -> emu.Stack:
    stack = now.stack(emu.host_stack())
    if steps == 1:
        return stack
    per_step = stack.per_step_s
    return dataclasses.replace(
        stack,
        per_step_s=dataclasses.replace(per_step, value=per_step.value / steps),
        per_kernel_s=dataclasses.replace(
            stack.per_kernel_s, value=0.0, source="one kernel is all of the steps"
        ),
    )


def _curves(memory: emu.Memory, dtype: str) -> list[emu.Curve]:
    return [curve for curve in memory.curves if curve.dtype == dtype]

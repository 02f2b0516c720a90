"""The pairs of memories that a machine has, known before anything of them is measured.

A pair is an on-chip and an off-chip memory between which a weight's place can be made real, by one
mechanism (`emu.chips.Mechanism`). `emu.host()` measures them, which takes a minute, so that what
they cannot do is better said before.
"""

import jax

from emu.chips import Mechanism
from emu.device_kinds import memory_of
from emu.machine import Machine

Names = tuple[str, str]  # of the on-chip and of the off-chip memory, as `emu.host()` calls them


def pairs(machine: Machine) -> dict[Mechanism, Names]:
    """The names of both memories of each pair, by mechanism; `machine` is the one at hand."""
    found: dict[Mechanism, Names] = {}
    if machine.platform == "cpu":
        found["rotation"] = ("llc", "dram")
    elif machine.platform != "tpu":
        cache = memory_of(machine.name, "on-chip")
        found["rotation"] = (cache.name if cache else "l2", "hbm")
    elif _has_scratchpad():
        found["persistent-kernel"] = ("vmem", "hbm")
    kinds = {memory.kind for memory in jax.local_devices()[0].addressable_memories()}
    if {"device", "pinned_host"} <= kinds:
        found["memory-kind"] = ("device", "pinned_host")
    return found


def _has_scratchpad() -> bool:
    from kernels.persistent import room_bytes  # noqa: PLC0415 - Pallas, which only TPUs need

    return room_bytes() > 0

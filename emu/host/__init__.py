"""The machine at hand as a chip: its memories found, measured, and kept for the next time.

Two pairs of memories, where it has them: a cache and the memory behind it (`rotation`: `llc` and
`dram` on a CPU, `l2` and `hbm` on a GPU) or a TPU's scratchpad and the memory behind it
(`persistent-kernel`: `vmem` and `hbm`), and JAX's memory kinds (`memory-kind`: `device`, which
plays the on-chip part, and `pinned_host`).

`host_stack` is what starting a step and its kernels costs here, measured with it. Both know nothing
of any model, so that `emu.predict` on them is a prediction.
"""

import dataclasses
import functools
import logging
import sys

from emu import host_file
from emu.chips import Chip, Mechanism, Sourced
from emu.errors import EmuError
from emu.machine import machine
from emu.measure import MOST_DISTURBED
from emu.pairs import pairs
from emu.probe import Probed, probe
from emu.stacks import IDEAL, Stack

_log = logging.getLogger(__name__)


def host(refresh: bool = False, pair: Mechanism | None = None) -> Chip:
    """The chip of JAX's default device.

    Args:
      refresh: measure again, even where an earlier measurement is kept.
      pair: only the two memories of this mechanism; None: all.

    The first call measures, for some 40 seconds; later ones read a small file, which belongs to
    this processor, these cores, this JAX and these native products. A file that cannot be used,
    or written, is told of in the log, and what was measured is returned all the same.

    Raises:
      EmuError: this machine has no such pair of memories; nothing is measured then.
    """
    if pair is not None and pair not in (known := host_pairs()):
        raise EmuError(f"this machine has no pair {pair!r}: it has {', '.join(sorted(known))}")
    chip = _kept_or_measured(refresh).chip
    if pair is None:
        return chip
    memories = tuple(memory for memory in chip.memories if memory.mechanism == pair)
    return dataclasses.replace(chip, memories=memories)


def host_pairs() -> dict[Mechanism, tuple[str, str]]:
    """This machine's pairs, as names of an on-chip and an off-chip memory; measures nothing."""
    return pairs(machine())


def host_stack() -> Stack:
    """What JAX adds to a step on this machine, as `emu.host()` measured it.

    It fetches nothing ahead: each kernel reads its own operands, which is how the memories' curves
    were measured, so that the clock takes those (`emu.curves`). They hold what products reach.
    """
    probed = _kept_or_measured(refresh=False)
    reached = Sourced(
        value=1.0, source="emu.host()'s bandwidths are those that products reach", kind="measured"
    )
    nothing = Sourced(
        value=0.0, source="in what emu.host() measured of reads and kernels", kind="measured"
    )
    return dataclasses.replace(
        IDEAL,
        name="host",
        per_step_s=probed.per_step_s,
        per_kernel_s=probed.per_kernel_s,
        prefetch_kernels=0,
        prefetch_bytes=nothing,
        on_chip_share=reached,
        off_chip_share=reached,
        exposed_latency=nothing,
    )


def _kept_or_measured(refresh: bool) -> Probed:
    here = machine()
    kept = None
    if not refresh:
        try:
            kept = host_file.read(here)
        except EmuError as error:
            _log.warning("%s: measuring this machine again", error)
    if kept is None:
        print("measuring this machine's memories, once: about a minute", file=sys.stderr)
        kept = probe(here)
        try:
            host_file.write(here, kept)
        except EmuError as error:
            _log.warning("what was measured is not kept: %s", error)
    if kept.disturbed_share > MOST_DISTURBED:
        _tell_disturbed(kept.disturbed_share, kept.chip.name)
    return kept


@functools.cache  # once for each measurement: an experiment asks for its machine at each row
def _tell_disturbed(share: float, name: str) -> None:
    _log.warning(
        "%.0f %% of the timings of %s were disturbed by other processes: "
        "`python -m emu.host --refresh` measures again, when it is quiet",
        100 * share,
        name,
    )

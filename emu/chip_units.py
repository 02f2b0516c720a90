"""Catching unit mistakes and missing figures in a described chip.

`Chip` itself takes any positive number, so that tests and thought experiments can have a memory of
a hundred bytes. A chip that stands for a real one, from the catalogue or a user's file, goes
through `check_chip` as well: each quantity lies within what anybody could build, an assumed number
has a range, and on-chip memory is faster than off-chip memory.
"""

import dataclasses
import math
from typing import Any

from emu.chips import WIDER, Chip, Link, Memory, Sourced
from emu.errors import EmuError
from emu.rules import nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a quantity may be, in SI units, and the units people write by mistake."""

    unit: str
    least: float
    most: float
    slips: tuple[tuple[str, float], ...]  # likelier ones first
    meant: float = math.inf  # at the most, where a slip is guessed at


_BYTES = (("GB", 1e9), ("MB", 1e6), ("TB", 1e12))
BOUNDS = {
    "capacity_bytes": Bounds(unit="bytes", least=1e5, most=1e16, slips=_BYTES),
    "bandwidth_bytes_per_s": Bounds(
        unit="bytes/s", least=1e8, most=1e18, slips=(("GB/s", 1e9), ("TB/s", 1e12))
    ),
    "latency_s": Bounds(unit="seconds", least=1e-10, most=1e-3, slips=(("ns", 1e-9), ("us", 1e-6))),
    "peak_flops_per_s": Bounds(
        unit="FLOP/s", least=1e9, most=1e19, slips=(("TFLOP/s", 1e12), ("PFLOP/s", 1e15))
    ),
    "power_w": Bounds(unit="watts", least=2, most=1e5, slips=(("kW", 1e3), ("mW", 1e-3))),
    "price_usd": Bounds(unit="dollars", least=1, most=1e8, slips=(("k$", 1e3),)),
    "price_usd_per_hour": Bounds(unit="dollars an hour", least=1e-3, most=1e5, slips=()),
    "achieved_share": Bounds(unit="of the bandwidth", least=0.01, most=1, slips=(("%", 0.01),)),
}
# A core's port, and one hop between cores, are smaller than what joins chips.
BOUNDS["core_bandwidth_bytes_per_s"] = dataclasses.replace(
    BOUNDS["bandwidth_bytes_per_s"], least=1e7
)
BOUNDS["weight_entry_bytes_per_s"] = BOUNDS["bandwidth_bytes_per_s"]
# Between chips people think in microseconds, but for a few hundred, which are nanoseconds.
BOUNDS["link_latency_s"] = dataclasses.replace(
    BOUNDS["latency_s"], slips=(("us", 1e-6), ("ns", 1e-9)), meant=1e-4
)


def check_chip(chip: Chip) -> Chip:
    """The chip itself, if its numbers can be those of a real one.

    Raises:
      EmuError: a number in the wrong unit (it says which was probably meant), an assumed number
        without a range, an unknown dtype, an on-chip memory that is no faster than an off-chip
        one, memories not ordered fastest first, a chip that weights enter faster than its fastest
        memory gives them.
    """
    where = f"chip {chip.name!r}"
    for memory in chip.memories:
        _check_memory(f"{where}, memory {memory.name!r}", memory)
    for link in chip.links:
        _check_link(f"{where}, link {link.name!r}", link)
    for dtype, peak in chip.peak_flops_per_s.items():
        if dtype not in WIDER:
            raise EmuError(f"{where}: unknown dtype {dtype!r}{nearest(dtype, WIDER)}")
        _check(where, f"peak_flops_per_s.{dtype}", peak, BOUNDS["peak_flops_per_s"])
    for field in ("weight_entry_bytes_per_s", "power_w", "price_usd", "price_usd_per_hour"):
        if getattr(chip, field) is not None:
            _check(where, field, getattr(chip, field), BOUNDS[field])
    _check_order(where, chip)
    return chip


def _check_memory(where: str, memory: Memory) -> None:
    for field in ("capacity_bytes", "bandwidth_bytes_per_s", "latency_s"):
        _check(where, field, getattr(memory, field), BOUNDS[field])
    if memory.achieved_share is not None:
        _check(where, "achieved_share", memory.achieved_share, BOUNDS["achieved_share"])


def _check_link(where: str, link: Link) -> None:
    bandwidth = "bandwidth_bytes_per_s"
    bounds = BOUNDS[bandwidth if link.scope == "chips" else f"core_{bandwidth}"]
    _check(where, bandwidth, link.bandwidth_bytes_per_s, bounds)
    latency = "link_latency_s" if link.scope == "chips" else "latency_s"
    _check(where, "latency_s", link.latency_s, BOUNDS[latency])
    for seconds in link.small_allreduce_s.values():
        _check(where, "small_allreduce_s", seconds, BOUNDS["link_latency_s"])


def _check(where: str, field: str, number: Any, bounds: Bounds) -> None:
    if not isinstance(number, Sourced):
        raise EmuError(f"{where}: {field} must be Sourced(value=…, source=…, kind=…)")
    for name in ("value", "low", "high"):
        value = getattr(number, name)
        if value is not None and not bounds.least <= value <= bounds.most:
            raise EmuError(
                f"{where}: {field} {name} is {value:g} {bounds.unit}, which cannot be"
                + _meant(value, bounds)
            )
    if number.kind == "assumed" and (number.low is None or number.high is None):
        raise EmuError(
            f"{where}: {field} is assumed, so it needs a range: low and high beside the value"
        )


def _meant(value: float, bounds: Bounds) -> str:
    """`; did you mean 80e9 (80 GB)?`, for the first unit that would make sense of it."""
    for unit, factor in bounds.slips:
        if value > 0 and bounds.least <= value * factor <= min(bounds.most, bounds.meant):
            meant = f"{value:g}e{f'{factor:.0e}'.split('e')[1]}".replace("e+0", "e")
            meant = meant.replace("e+", "e").replace("e-0", "e-")
            return f"; did you mean {meant} ({value:g} {unit})?"
    return f": it must be from {bounds.least:g} to {bounds.most:g}"


def _check_order(where: str, chip: Chip) -> None:
    speeds = [float(memory.bandwidth_bytes_per_s.value) for memory in chip.memories]
    names = [memory.name for memory in chip.memories]
    if speeds != sorted(speeds, reverse=True):
        raise EmuError(f"{where}: memories are listed fastest first, not {', '.join(names)}")
    near = [m for m in chip.memories if m.placement == "on-chip"]
    if near != list(chip.memories[: len(near)]):
        raise EmuError(f"{where}: an off-chip memory is faster than an on-chip one: {names}")
    entry = chip.weight_entry_bytes_per_s
    if entry is not None and entry.value > speeds[0]:
        raise EmuError(
            f"{where}: weight_entry_bytes_per_s is {entry.value:g}, above the {speeds[0]:g} "
            f"bytes/s of {names[0]}: leave it out where memory is the limit"
        )

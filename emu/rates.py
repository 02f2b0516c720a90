"""What a system's numbers make of a plan: the seconds of one of each thing that it counts.

None of it looks at a kernel. For plain numbers it is kept, so that the same system is asked once
for its peaks, links and latencies and not at every prediction (`rated`).
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from emu import exchanges
from emu.chips import Chip, Memory, serving
from emu.exchanges import Way
from emu.linear import Rates
from emu.lookahead import Port
from emu.planning import Plan
from emu.records import is_number
from emu.scalars import Scalars
from emu.stacks import Stack
from emu.system import System


class Rated(NamedTuple):
    """A plan's rates on a system."""

    seconds: Any  # [rates], of one of each thing (`emu.linear.Rates`)
    ports: dict[int, Port]  # those that fetch ahead
    # Of those, for plain numbers: seconds of lead at the most, as its moves' lists (`Moves.steps`).
    rooms: dict[int, Any]
    per_step_s: Any  # once a step, for the stack


def rated(plan: Plan, system: System, xp: Any = np) -> Rated:
    """The rates of a plan; xp: JAX's where a number of the system is traced."""
    each: Any = Scalars if xp is np else xp  # for one number at a time
    per_chip = 1 if system.ranks is None else system.ranks.per_chip
    stack = system.software
    bandwidths = [bandwidth_of(m, stack) / per_chip for m in system.chip.memories]
    ports = {
        j: Port(buffer_bytes(plan.faster[j], system, each), bandwidths[j]) for j in plan.off_chip
    }
    rooms = {}
    if xp is np:
        rooms = {j: port.rooms(plan.moves[j].ahead).tolist() for j, port in ports.items()}
    return Rated(
        seconds=_rates(plan, system, bandwidths, each).row(xp),
        ports=ports,
        rooms=rooms,
        per_step_s=per_step_seconds(plan, system),
    )


def _rates(plan: Plan, system: System, bandwidths: Sequence[Any], xp: Any) -> Rates:
    """Seconds of one of each thing that the plan counts."""
    chip, stack = system.chip, system.software
    per_chip = 1 if system.ranks is None else system.ranks.per_chip
    rate = chip.weight_entry_bytes_per_s
    per_kernel = stack.per_kernel_s.value
    if stack.as_measured and chip.kernel_s is not None:
        per_kernel = per_kernel + chip.kernel_s.value
    per_weight = 0.0
    if plan.unpacks:
        per_weight = stack.unpack_flops.value * per_chip / chip.peak("float32").value
    slower = 1.0 / stack.cache_share.value - 1.0  # cache bytes count as so many more
    reached = stack.compute_share.value / per_chip
    ways = {group: way_of(group, system) for group in plan.schedule.groups}
    latencies = [m.latency_s.value for m in chip.memories]
    exposed = stack.exposed_latency.value
    return Rates(
        byte=[1.0 / bandwidth for bandwidth in bandwidths],
        cache_byte=[slower / bandwidth for bandwidth in bandwidths],
        flop=[1.0 / (peak * reached) for peak in peaks_of(plan.schedule.flop_kinds, chip)],
        exchange=[
            exchange_seconds(c.kind, ways[c.group], float(c.bytes), system, xp)
            for c in plan.schedule.collectives
        ],
        entering=[0.0 if rate is None else per_chip / rate.value],
        launch=[per_kernel],
        unpacked=[per_weight],
        late=[stack.per_unpack_s.value],
        latency=[
            exposed * functools.reduce(xp.maximum, [latencies[j] for j in waited], 0.0)
            for waited in plan.linear.waited
        ],
    )


def buffer_bytes(faster: Sequence[int], system: System, xp: Any) -> Any:
    """What may be fetched ahead into the memories that it passes through."""
    per_chip = 1 if system.ranks is None else system.ranks.per_chip
    most = system.software.prefetch_bytes.value
    for j in faster:
        most = xp.minimum(most, system.chip.memories[j].capacity_bytes.value / per_chip)
    return most


def per_step_seconds(plan: Plan, system: System) -> Any:
    """What the stack takes once a step, for its tokens, and for its layers of experts."""
    stack = system.software
    return (
        stack.per_step_s.value
        + plan.tokens * stack.per_sequence_s.value
        + plan.routed_layers * stack.per_routing_s.value
    )


def bandwidth_of(memory: Memory, stack: Stack) -> Any:
    """Bytes per second that the software reaches in one chip's memory."""
    return memory.bandwidth_bytes_per_s.value * stack.share_of(memory)


def peaks_of(kinds: tuple[tuple[str, bool], ...], chip: Chip) -> list[Any]:
    """FLOP/s for each kind: a dtype, and whether it is of products.

    Elementwise arithmetic in a dtype that the chip states no peak for is taken to go at the lowest
    that it states. Weights in float4 meet activations in bfloat16 where the chip does not multiply
    float4: kernels widen them to that, not to float8.
    """
    stated = chip.peak_flops_per_s
    served = _served(kinds, tuple(stated))
    peaks = {name: peak.value for name, peak in stated.items()}
    if _NO_PEAK in served:
        chip.peak(_asked(*kinds[served.index(_NO_PEAK)], tuple(stated)))  # says so
    if _LOWEST in served:
        peaks[_LOWEST] = functools.reduce(_lower, peaks.values())
    return [peaks[name] for name in served]


_LOWEST, _NO_PEAK = "the lowest of all", "none"


@functools.cache
def _served(kinds: tuple[tuple[str, bool], ...], stated: tuple[str, ...]) -> tuple[str, ...]:
    """Of each kind the dtype, of those that a chip states, whose peak it goes at."""
    found = []
    for dtype, dot in kinds:
        otherwise = _LOWEST if stated and not dot else _NO_PEAK
        found.append(serving(_asked(dtype, dot, stated), stated) or otherwise)
    return tuple(found)


def _asked(dtype: str, dot: bool, stated: tuple[str, ...]) -> str:
    widened = dot and dtype.startswith("float4") and "float4" not in stated
    return "bfloat16" if widened else dtype


def _lower(a: Any, b: Any) -> Any:
    plain = all(is_number(one) or isinstance(one, np.ndarray) for one in (a, b))
    return np.minimum(a, b) if plain else jnp.minimum(a, b)


def exchange_seconds(kind: str, way: Way, sent_bytes: Any, system: System, xp: Any) -> Any:
    """Seconds of exchanges under the system's software, in a group of which `way` is."""
    return system.software.per_exchange_s.value + exchanges.seconds(way, kind, sent_bytes, xp)


def way_of(group: int, system: System) -> Way:
    """The way between a group of the system's ranks."""
    stack = system.software
    return exchanges.way_of(
        system.chip,
        group,
        per_chip=1 if system.ranks is None else system.ranks.per_chip,
        share=stack.link_share.value,
        as_measured=stack.as_measured,
        two_dimensional=stack.lays_out_2d,
    )

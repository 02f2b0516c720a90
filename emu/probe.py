"""Measuring the memories of the machine at hand, through JAX.

A cache's capacity is where repeated reads stop being hits (`emu.edge`), not what the system tells;
bandwidths are those of weights streaming into products (`emu.streams`), by size of read and dtype.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from emu import ram
from emu.chips import Chip, Curve, Mechanism, Memory, Place, Sourced
from emu.device_kinds import memory_of
from emu.edge import Edge, edge
from emu.errors import EmuError
from emu.machine import Machine, told_cache_bytes
from emu.pairs import Names, pairs
from emu.rotation import CACHES_READ
from emu.small_steps import small_steps
from emu.streams import DTYPES, TRIES, Stream, Timing

MB = 2**20
# The sizes of single reads: a decode step's products lie between. Past the largest of its dtype
# (the head of a small model) nothing changes any more on a CPU; an accelerator reads 100 MB in ten
# times what it takes to start.
READS = tuple(int(n * MB) for n in (0.0625, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256))
LARGEST = {"float32": 128 * MB, "bfloat16": 64 * MB, "int8": 32 * MB}
FETCHES = (MB, 8 * MB, 32 * MB)  # sizes of reads from the host's memory over a link
HELD_READS = tuple(int(n * MB) for n in (0.0625, 0.25, 0.5, 1, 2, 4))  # from a TPU's scratchpad
HELD_DTYPES = ("float32", "bfloat16")
# The sets of bytes among which the cache's edge is looked for, in eighths of what is told of.
EIGHTHS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32)
EDGE_PASSES = 3  # each set's pages lie elsewhere in each: what a cache holds depends on that
UNTOLD_CACHE_BYTES = 32 * MB  # where the system doesn't tell: a common size, for a first guess
MOST_REACH = 2.5
LARGEST_SET_BYTES = 1024 * MB
PAST_ANY_CACHE_BYTES = 512 * MB  # of an accelerator
FLOPS_SIDE = 1024  # of a product, at first
FLOPS_S = 2e-3  # how long one must take, so that calling it is hardly in its time
MOST_FLOPS_SIDE = 16384
PATIENCE_S = 25  # after which disturbed timings are not taken again

# Access latencies are not measured: a chain of dependent loads cannot be written in JAX.
LATENCIES_S = {
    "cache": (20e-9, 10e-9, 200e-9, "common to last-level caches of CPUs and GPUs"),
    "memory": (100e-9, 70e-9, 800e-9, "common to DRAM and HBM"),
    "link": (2e-6, 1e-6, 10e-6, "common to PCIe and its like"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probed:
    """What was measured of a machine."""

    chip: Chip
    per_step_s: Sourced  # of a jitted program, enqueued behind another
    per_kernel_s: Sourced  # of a small one in it, as `emu.trace` counts kernels
    disturbed_share: float  # of the timings, by others' load


class Prober:
    """Takes the timings and remembers how many of them were disturbed."""

    def __init__(self, machine: Machine, bar: Any) -> None:
        self.machine = machine
        self._bar = bar
        self._calm: list[bool] = []
        self._begin = time.perf_counter()

    def time(self, stream: Stream) -> Timing:
        """Times one stream."""
        timing = stream.seconds_per_read(tries=self._tries)
        self._note(timing.calm)
        return timing

    def starts(self) -> tuple[Sourced, Sourced]:
        """Times what a step costs beside its bytes: (of the step, of each kernel)."""
        found = small_steps(tries=self._tries)
        self._note(found.calm)
        of_step, of_kernel = (
            Sourced(value=value, source=f"{self.source}: {what}", kind="measured")
            for value, what in (
                (found.per_step_s, "a jitted program, enqueued behind another"),
                (found.per_kernel_s, "a small kernel between two products"),
            )
        )
        return of_step, of_kernel

    @property
    def _tries(self) -> int:
        return 1 if time.perf_counter() - self._begin > PATIENCE_S else TRIES

    def _note(self, calm: bool) -> None:
        self._calm.append(calm)
        self._bar.update()

    @property
    def disturbed_share(self) -> float:
        """Of the timings so far, how many others' load disturbed."""
        return 1 - sum(self._calm) / max(len(self._calm), 1)

    @property
    def source(self) -> str:
        """What a number measured here says of itself."""
        where = f"{self.machine.name}, jax {self.machine.jax_version}, {self.machine.products}"
        return f"emu.host() on {where}, {time.strftime('%Y-%m-%d')}"


def probe(machine: Machine) -> Probed:
    """The machine's memories, and what starting a step and a kernel costs on it.

    Takes some 40 seconds on two cores.
    """
    with tqdm(desc="measuring this machine's memories", unit=" timings", disable=None) as bar:
        prober = Prober(machine, bar)
        per_step_s, per_kernel_s = prober.starts()
        here = pairs(machine)
        if not here:
            raise EmuError(f"{jax.local_devices()[0]} has no two memories that emu can tell apart")
        own: tuple[Memory, ...] = ()
        if "rotation" in here:
            own = _rotation_pair(prober, here["rotation"])
        elif "persistent-kernel" in here:
            own = _scratchpad_pair(prober, here["persistent-kernel"])
        by_kind = _kind_pair(prober, own) if "memory-kind" in here else ()
        cores = f", {machine.cores} cores" if machine.platform == "cpu" else ""
        chip = Chip(
            name=f"host ({machine.name}{cores})",
            vendor=machine.vendor,
            memories=(*own, *by_kind),
            peak_flops_per_s=_peaks(prober),
        )
        return Probed(
            chip=chip,
            per_step_s=per_step_s,
            per_kernel_s=per_kernel_s,
            disturbed_share=prober.disturbed_share,
        )


def _rotation_pair(prober: Prober, names: Names) -> tuple[Memory, ...]:
    """The last-level cache and the memory behind it."""
    on_cpu = prober.machine.platform == "cpu"
    known = memory_of(prober.machine.name, "on-chip")
    told = told_cache_bytes() if on_cpu else int(known.capacity_bytes.value) if known else None
    capacity = _cache_capacity(_find_edge(prober, told or UNTOLD_CACHE_BYTES), told, prober.source)
    held = int(capacity.value)
    hot: dict[str, list[Timing]] = {}
    cold: dict[str, list[Timing]] = {}
    for dtype in DTYPES:
        reads = [n for n in READS if n <= LARGEST[dtype] or not on_cpu]
        inside = [n for n in reads if n <= 0.9 * held] or reads[:1]
        hot[dtype] = [prober.time(cached_stream("on-chip", capacity, dtype, n)) for n in inside]
        cold[dtype] = [prober.time(cached_stream("off-chip", capacity, dtype, n)) for n in reads]
    return _streamed_pair(prober, "rotation", names, capacity, hot, cold)


def cached_stream(placement: Place, cache: Sourced, dtype: str, read_bytes: int) -> Stream:
    """Reads that all come from a cache of this capacity, or all from the memory behind it."""
    if placement == "on-chip":
        # Half the cache is read again and again: all of it stays, but not in a core's own cache.
        return Stream.hot(dtype, read_bytes, int(cache.value) // 2)
    return Stream.cold(dtype, read_bytes, CACHES_READ * max(cache.value, cache.high or 0))


def _scratchpad_pair(prober: Prober, names: Names) -> tuple[Memory, ...]:
    """A TPU's VMEM, as far as a kernel can keep weights there, and its HBM."""
    from kernels.persistent import room_bytes  # noqa: PLC0415 - Pallas, which only TPUs need

    room = room_bytes()
    capacity = Sourced(
        value=room,
        source=f"jax's table of TPUs, {prober.machine.name}: one core's, less what a kernel takes",
        kind="vendor",
    )
    held = {
        dtype: [prober.time(Stream.held(dtype, n, room)) for n in HELD_READS]
        for dtype in HELD_DTYPES
    }
    cold = {
        dtype: [prober.time(Stream.cold(dtype, n, PAST_ANY_CACHE_BYTES)) for n in READS]
        for dtype in DTYPES
    }
    return _streamed_pair(prober, "persistent-kernel", names, capacity, held, cold)


def _streamed_pair(
    prober: Prober,
    mechanism: Mechanism,
    names: Names,
    capacity: Sourced,
    near: dict[str, list[Timing]],
    far: dict[str, list[Timing]],
) -> tuple[Memory, ...]:
    """An on-chip memory and the device's own behind it, as weights were streamed from them."""
    return (
        Memory(
            name=names[0],
            placement="on-chip",
            capacity_bytes=capacity,
            bandwidth_bytes_per_s=_best(near, prober),
            latency_s=_latency("cache"),
            curves=_curves(near, prober),
            mechanism=mechanism,
        ),
        Memory(
            name=names[1],
            placement="off-chip",
            capacity_bytes=_device_capacity(prober),
            bandwidth_bytes_per_s=_best(far, prober),
            latency_s=_latency("memory"),
            curves=_curves(far, prober),
            mechanism=mechanism,
        ),
    )


def _kind_pair(prober: Prober, own: Sequence[Memory]) -> tuple[Memory, ...]:
    """JAX's `device` memory, which here plays the on-chip part, and the host's `pinned_host`."""
    if own:
        (behind,) = (memory for memory in own if memory.placement == "off-chip")
        bandwidth, curves = behind.bandwidth_bytes_per_s, behind.curves
    else:
        device = {
            "float32": [
                prober.time(Stream.cold("float32", n, PAST_ANY_CACHE_BYTES)) for n in FETCHES
            ]
        }
        bandwidth, curves = _best(device, prober), _curves(device, prober)
    if prober.machine.platform == "cpu":
        far_bandwidth, far_curves = bandwidth, curves
    else:
        host = {
            "float32": [prober.time(Stream.fetched("float32", n, "pinned_host")) for n in FETCHES]
        }
        far_bandwidth, far_curves = _best(host, prober), _curves(host, prober)
    return (
        Memory(
            name="device",
            placement="on-chip",
            capacity_bytes=_device_capacity(prober),
            bandwidth_bytes_per_s=bandwidth,
            latency_s=_latency("memory"),
            curves=curves,
            mechanism="memory-kind",
        ),
        Memory(
            name="pinned_host",
            placement="off-chip",
            capacity_bytes=_ram_capacity(),
            bandwidth_bytes_per_s=far_bandwidth,
            latency_s=_latency("memory" if prober.machine.platform == "cpu" else "link"),
            curves=far_curves,
            mechanism="memory-kind",
        ),
    )


def _find_edge(prober: Prober, guess_bytes: int) -> Edge | None:
    """The cache's edge: the guess is only where the search begins."""
    step = max(guess_bytes // 8, MB)
    eighths = list(EIGHTHS)
    seconds: dict[int, list[float]] = {}  # per byte, of each pass
    while True:
        new = [n for n in eighths if n not in seconds]
        for _ in range(EDGE_PASSES):  # all sets, then all again, so that no drift bends the edge
            for n in new:
                timing = prober.time(_set_of(n, step, prober.machine.platform))
                seconds.setdefault(n, []).append(1 / timing.bytes_per_s)
        sets = [float(n * step) for n in eighths]
        found = edge(sets, [statistics.median(seconds[n]) for n in eighths])
        # A set still partly held at the far end means that the cache is larger than was told.
        flat = found is not None and found.reach_bytes <= sets[-1] / 2
        if flat or sets[-1] * 2 > LARGEST_SET_BYTES:
            return found
        eighths.append(eighths[-1] * 2)


def _set_of(steps: int, step_bytes: int, platform: str) -> Stream:
    """A set of so many steps' bytes, read again and again.

    Four products a step and a program for each on a CPU. An accelerator takes as long to start
    those as to read them from anywhere: one product a step, and one program for all.
    """
    if platform == "cpu":
        return Stream.over("float32", step_bytes // 4, 4, steps)
    return Stream.over("float32", step_bytes, steps, 1)


def _cache_capacity(found: Edge | None, told: int | None, source: str) -> Sourced:
    if found is not None:
        # Noise can move the far end anywhere; no cache holds parts of sets so much larger.
        reach = min(found.reach_bytes, MOST_REACH * max(found.capacity_bytes, told or 0))
        return Sourced(
            value=int(found.capacity_bytes),
            high=int(max(reach, found.capacity_bytes)),
            source=f"{source}: where repeated reads begin to miss; high: where none hits",
            kind="measured",
        )
    if told is not None:
        return Sourced(
            value=told,
            source="as the system or the catalogue tells; repeated reads show no edge",
            kind="assumed",
            low=told / 4,
            high=told * 4,
        )
    size = UNTOLD_CACHE_BYTES
    common = "common; the system tells of no cache and repeated reads show no edge"
    return Sourced(value=size, source=common, kind="assumed", low=size / 8, high=size * 4)


def _curves(timings: dict[str, list[Timing]], prober: Prober) -> tuple[Curve, ...]:
    return tuple(
        Curve(
            dtype=dtype,
            read_bytes=tuple(timing.read_bytes for timing in measured),
            bytes_per_s=tuple(timing.bytes_per_s for timing in measured),
            source=prober.source,
            kind="measured",
        )
        for dtype, measured in timings.items()
    )


def _best(timings: dict[str, list[Timing]], prober: Prober) -> Sourced:
    """The bandwidth that large float32 reads reach."""
    speeds = [timing.bytes_per_s for timing in timings["float32"]]
    return Sourced(value=max(speeds), source=prober.source, kind="measured")


def _latency(of: str) -> Sourced:
    value, low, high, source = LATENCIES_S[of]
    return Sourced(value=value, low=low, high=high, source=source, kind="assumed")


def _ram_capacity() -> Sourced:
    source = "psutil and the control group's limit"
    return Sourced(value=ram.total_bytes(), source=source, kind="measured")


def _device_capacity(prober: Prober) -> Sourced:
    if prober.machine.platform == "cpu":
        return _ram_capacity()
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit:
        return Sourced(value=int(limit), source="the runtime's bytes_limit", kind="measured")
    known = memory_of(prober.machine.name, "off-chip")
    if known is not None:
        return known.capacity_bytes
    common = "common; the runtime doesn't tell its memory's size"
    return Sourced(value=16e9, source=common, kind="assumed", low=4e9, high=200e9)


def _peaks(prober: Prober) -> dict[str, Sourced]:
    """What a large dense product reaches: a floor of the peak."""
    peaks = {}
    for dtype in ("float32", "bfloat16"):
        side, seconds = FLOPS_SIDE, _product_s(FLOPS_SIDE, dtype)
        while seconds < FLOPS_S and side < MOST_FLOPS_SIDE:
            side *= 2
            seconds = _product_s(side, dtype)
        source = f"{prober.source}: a product of {side} x {side} matrices"
        peaks[dtype] = Sourced(value=2 * side**3 / seconds, source=source, kind="measured")
    return peaks


def _product_s(side: int, dtype: str) -> float:
    """The best of five."""
    a = jnp.full((side, side), 1 / side, dtype)
    multiply = jax.jit(jnp.dot)
    multiply(a, a).block_until_ready()
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        multiply(a, a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return best

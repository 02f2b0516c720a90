"""A chip as data: its memories, arithmetic and links, each number with its source.

The records are frozen and are JAX pytrees: their numbers are leaves, so that `jax.vmap` and
`jax.grad` go through them, and their names and sources are static. A number nobody published is
an `assumed` one with a range, never 0 or infinity.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeGuard, get_args

import numpy as np

from emu.errors import EmuError
from emu.records import pytree

Kind = Literal["measured", "vendor", "fitted", "assumed"]
Place = Literal["on-chip", "off-chip"]
Scope = Literal["on-chip", "chips"]
Topology = Literal[
    "switch", "full-mesh", "mesh-2d", "torus-2d", "torus-3d", "ring", "dragonfly", "point-to-point"
]
# Which peak serves products of a dtype: its own, or else that of the next wider one in the row. A
# chip without arithmetic for a dtype widens its operands first.
WIDER = {
    "float4": ("float8", "bfloat16", "float16", "float32"),
    "float8": ("bfloat16", "float16", "float32"),
    "bfloat16": ("float32",),
    "float16": ("float32",),
    "float32": (),
    "int4": ("int8", "bfloat16", "float16", "float32"),
    "int8": ("bfloat16", "float16", "float32"),
}
# How `emu.realize` can make this machine read from a memory; None: it can only be predicted.
Mechanism = Literal["rotation", "memory-kind", "persistent-kernel"]


def serving(dtype: str, stated: Sequence[str]) -> str | None:
    """The one of the stated dtypes whose peak products of this dtype go at; None: there is none."""
    base = dtype.partition("_")[0]
    return next((name for name in (dtype, base, *WIDER.get(base, ())) if name in stated), None)


def _concrete(number: Any) -> TypeGuard[float]:
    """Whether it is a plain number, which can be compared, and not a traced one."""
    return isinstance(number, int | float | np.number) and not isinstance(number, bool)


@pytree(static=("source", "kind"))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sourced:
    """One number about the world, where it is from and how it was come by."""

    value: Any
    source: str
    kind: Kind
    low: Any = None  # the range it may lie in, where one is known
    high: Any = None

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise EmuError(f"the number {self.value} has no source: say where it is from")
        if self.kind not in get_args(Kind):
            raise EmuError(
                f"kind {self.kind!r} of {self.value} ({self.source}) is none of "
                + ", ".join(get_args(Kind))
            )
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if isinstance(number, str | bool) or (name == "value" and number is None):
                raise EmuError(f"{name} must be a number in SI units, not {number!r}")
            if _concrete(number) and (math.isnan(number) or number < 0):
                raise EmuError(f"{name} must not be negative or NaN, not {number}: {self.source}")
        ordered = [n for n in (self.low, self.value, self.high) if _concrete(n)]
        if ordered != sorted(ordered):
            raise EmuError(
                f"the range {self.low} to {self.high} does not hold {self.value}: {self.source}"
            )


@pytree(static=("dtype", "source", "kind"))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """Streaming bandwidth by the bytes of one read, for weights of one dtype."""

    dtype: str
    read_bytes: tuple[Any, ...]  # rising
    bytes_per_s: tuple[Any, ...]
    source: str
    kind: Kind

    def __post_init__(self) -> None:
        if len(self.read_bytes) != len(self.bytes_per_s) or not self.read_bytes:
            raise EmuError(f"the {self.dtype} curve needs one bandwidth for each size of read")
        if not self.source.strip():
            raise EmuError(f"the {self.dtype} curve has no source: say where it is from")
        if all(_concrete(n) for n in (*self.read_bytes, *self.bytes_per_s)):
            if list(self.read_bytes) != sorted(set(self.read_bytes)):
                raise EmuError(f"the {self.dtype} curve's sizes must rise: {self.read_bytes}")
            if min(*self.read_bytes, *self.bytes_per_s) <= 0:
                raise EmuError(f"the {self.dtype} curve's sizes and bandwidths must be positive")

    def seconds(self, read_bytes: float) -> float:
        """Seconds of one read: interpolated in the logarithms of size and time.

        Outside the measured sizes the nearest one's time (below) or bandwidth (above) is kept: a
        read never takes less than the smallest one measured, which is mostly overhead.
        """
        if read_bytes <= 0:
            return 0.0
        sizes = np.asarray(self.read_bytes, np.float64)
        times = sizes / np.asarray(self.bytes_per_s, np.float64)
        if read_bytes >= sizes[-1]:
            return float(read_bytes / self.bytes_per_s[-1])
        return float(np.exp(np.interp(np.log(read_bytes), np.log(sizes), np.log(times))))


@pytree(static=("name", "placement", "mechanism"))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """One place where bytes live.

    `capacity_bytes.high`, where it is given, is the largest set of bytes of which the memory may
    still hold a part: a cache has no sharp edge. `achieved_share` is the part of the bandwidth that
    long reads were measured to reach, where somebody measured it.
    """

    name: str
    placement: Place
    capacity_bytes: Sourced
    bandwidth_bytes_per_s: Sourced
    latency_s: Sourced
    curves: tuple[Curve, ...] = ()
    mechanism: Mechanism | None = None
    achieved_share: Sourced | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise EmuError("a memory needs a name, such as 'hbm'")
        if self.placement not in get_args(Place):
            raise EmuError(
                f"memory {self.name!r}: placement {self.placement!r} is neither 'on-chip' nor "
                "'off-chip'"
            )
        if self.mechanism not in (None, *get_args(Mechanism)):
            raise EmuError(f"memory {self.name!r}: unknown mechanism {self.mechanism!r}")
        for field in ("capacity_bytes", "bandwidth_bytes_per_s"):
            number = getattr(self, field)
            if isinstance(number, int | float | str):
                raise EmuError(
                    f"memory {self.name!r}: {field} must be Sourced(value=…, source=…, kind=…)"
                )
            value = getattr(number, "value", None)
            if _concrete(value) and (value == 0 or math.isinf(value)):
                raise EmuError(
                    f"memory {self.name!r}: {field} is {value}; a number nobody knows is an "
                    "'assumed' one with a range"
                )

    def seconds(self, read_bytes: float, dtype: str = "float32") -> float:
        """Seconds in which one read of this size streams from here to a product.

        From the dtype's measured curve where there is one, which holds the overhead of a product;
        else latency + bytes / bandwidth.
        """
        for curve in self.curves:
            if curve.dtype == dtype:
                return curve.seconds(read_bytes)
        if read_bytes <= 0:
            return 0.0
        return float(self.latency_s.value + read_bytes / self.bandwidth_bytes_per_s.value)


@pytree(static=("name", "scope", "topology", "ports", "nodes"))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Link:
    """How chips reach each other; with scope "on-chip", how the cores of one do.

    A chip's bandwidth is spread evenly over its `ports`, each of which leads to one neighbour (a
    switch counts as one). `nodes`: how many chips (or cores) it joins at most; None: no limit is
    known.
    """

    name: str
    bandwidth_bytes_per_s: Sourced  # of one chip (or core), all ports together, in one direction
    latency_s: Sourced  # of one hop
    scope: Scope = "chips"
    topology: Topology = "point-to-point"
    ports: int = 1
    nodes: int | None = None
    # Of an all-reduce of 8192 bytes, kernel included, by the number of chips: where measured.
    small_allreduce_s: dict[int, Sourced] = dataclasses.field(default_factory=dict)
    # Of the bandwidth, what large all-reduces were measured to reach.
    achieved_share: Sourced | None = None
    # The same of another algorithm, which takes longer to start and is taken where it is faster.
    streamed_share: Sourced | None = None
    streamed_start_s: Sourced | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise EmuError("a link needs a name, such as 'nvlink'")
        for field, known in (("scope", get_args(Scope)), ("topology", get_args(Topology))):
            if getattr(self, field) not in known:
                raise EmuError(
                    f"link {self.name!r}: {field} {getattr(self, field)!r} is none of "
                    + ", ".join(known)
                )
        counts = [self.ports, *self.small_allreduce_s]
        if self.nodes is not None:
            counts.append(self.nodes)
        if any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in counts):
            raise EmuError(
                f"link {self.name!r}: ports, nodes and the chips of an all-reduce are whole "
                f"numbers of at least 1, not {counts}"
            )


@pytree(static=("name", "vendor", "year", "aliases", "note", "cores"))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """What one chip has; `memories` are ordered fastest first.

    `weight_entry_bytes_per_s` is the rate at which weights can enter the compute units, where that
    is lower than the bandwidth of the fastest memory. Power is of the chip or card at its limit,
    unless its source says otherwise.
    """

    name: str
    vendor: str
    memories: tuple[Memory, ...]
    peak_flops_per_s: dict[str, Sourced] = dataclasses.field(default_factory=dict)  # by dtype
    links: tuple[Link, ...] = ()
    weight_entry_bytes_per_s: Sourced | None = None
    kernel_s: Sourced | None = None  # what a kernel adds to its reads at least: launch, ramp, drain
    power_w: Sourced | None = None
    price_usd: Sourced | None = None
    price_usd_per_hour: Sourced | None = None
    year: int | None = None
    aliases: tuple[str, ...] = ()
    note: str = ""
    cores: int = 1  # each of which software may use as a device of its own

    def __post_init__(self) -> None:
        if not self.name:
            raise EmuError("a chip needs a name")
        if not isinstance(self.cores, int) or isinstance(self.cores, bool) or self.cores < 1:
            raise EmuError(
                f"chip {self.name!r}: cores must be a whole number of at least 1, not {self.cores}"
            )
        if not self.memories:
            raise EmuError(f"chip {self.name!r} has no memory: weights must live somewhere")
        names = [getattr(m, "name", id(m)) for m in self.memories]
        if len(set(names)) < len(names):
            raise EmuError(f"chip {self.name!r} has two memories of one name: {names}")

    def memory(self, name: str) -> Memory:
        """The memory of this name, or the fastest of this class ('on-chip', 'off-chip')."""
        for memory in self.memories:
            if name in (memory.name, memory.placement):
                return memory
        known = ", ".join(f"{m.name} ({m.placement})" for m in self.memories)
        raise EmuError(f"chip {self.name!r} has no memory {name!r}: it has {known}")

    @property
    def mesh(self) -> Link | None:
        """The link that joins the chip's own cores, if it is limited by one (`emu.mesh`)."""
        return next((link for link in self.links if link.scope == "on-chip"), None)

    def peak(self, dtype: str) -> Sourced:
        """The dense peak, in FLOP/s, of products of this dtype.

        The dtype's own, its class's (`float8` for `float8_e4m3fn`), or that of the next wider
        dtype which this chip has.

        Raises:
          EmuError: the chip has none of them.
        """
        served = serving(dtype, tuple(self.peak_flops_per_s))
        if served is None:
            known = ", ".join(self.peak_flops_per_s) or "none"
            raise EmuError(f"chip {self.name!r} has no peak FLOP/s for {dtype}: it has {known}")
        return self.peak_flops_per_s[served]

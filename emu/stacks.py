"""The serving software as data: what it adds to a step that the chip alone would not take.

A `Stack` holds what the clock takes from software: seconds per step and per kernel, how far ahead
of the arithmetic it fetches weights, and which share of each class of memory's bandwidth its
kernels reach. `ideal` adds nothing and wastes nothing, so that a prediction with it is what the
chip itself allows; every other stack is a claim about the world, so that its numbers have sources.
"""

import dataclasses
import functools
import math
import tomllib
from importlib import resources
from typing import Any

from emu.chips import Memory, Sourced
from emu.errors import EmuError
from emu.fitted import Fitted, fitted, for_stack
from emu.records import is_number, pytree
from emu.rules import nearest

_STATIC = (
    "name",
    "prefetch_kernels",
    "pads",
    "as_measured",
    "all_experts",
    "reads_allocated",
    "cache_by_sequence",
    "lays_out_2d",
    "repeats_heads",
    "head_whole",
)


@pytree(static=_STATIC)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    """What serving software adds to a step; every number is a `Sourced` and a pytree leaf."""

    name: str
    per_step_s: Sourced  # once a step: scheduling, sampling, the host's turn
    per_sequence_s: Sourced  # the same for each token that the step gives, on the busiest replica
    # Launch and synchronisation, during which no arithmetic is done; beside `Chip.kernel_s`.
    per_kernel_s: Sourced
    per_routing_s: Sourced  # for each layer of experts: choosing, sorting and returning tokens
    # Kernels ahead of the running one whose weights are fetched already; None: as many as fit in
    # the buffer. 0: a kernel reads all that it needs itself.
    prefetch_kernels: int | None
    prefetch_bytes: Sourced  # of the faster memories, kept as the buffer that it is fetched into
    on_chip_share: Sourced  # of the memory's bandwidth that kernels reach
    off_chip_share: Sourced
    compute_share: Sourced  # of the peak FLOP/s that products reach
    prefill_share: Sourced  # the same in prefills beside which other sequences are decoded
    cache_share: Sourced  # of the share of bandwidth that weights reach, for the KV cache
    link_share: Sourced  # of the link's bandwidth that exchanges reach
    # float32 FLOPs for each weight stored as an integer, before a product can take it.
    unpack_flops: Sourced
    # Beside that, for each kernel that takes such weights: it starts later. For products in float4
    # activations have to be narrowed first.
    per_unpack_s: Sourced
    per_exchange_s: Sourced  # beside what the link takes: synchronisation before a collective
    # Links side by side over which a vector enters a mesh of cores; at most the region's side.
    mesh_lanes: Sourced
    # How much of a memory's latency each kernel waits for (0: hidden by other reads under way).
    exposed_latency: Sourced
    # By how much predictions with it are off: of cases left out of its fit, eight of ten have
    # |log(predicted ÷ measured)| below this. Not part of the clock.
    log_error: Sourced
    # Of the larger of that and of what the numbers' ranges do, how much holds eight of ten left-out
    # cases. Not part of the clock either.
    range_share: Sourced
    # Of every memory's capacity, kept for what is no tensor: workspaces, code, fragmentation.
    reserve_share: Sourced
    # Heads or columns that do not divide among the ranks are padded until they do; else an error.
    pads: bool = False
    # Chips reach what long reads and exchanges were measured to (`Memory.achieved_share`,
    # `Link.achieved_share`), and kernels take `Chip.kernel_s`; else the headline and nothing.
    as_measured: bool = False
    reads_allocated: bool = False  # of a cache that is not full it reads every slot
    # Ranks that would hold the same key-value heads share their cache by sequences instead.
    cache_by_sequence: bool = False
    # Keys and values that several query heads share are read once for each of them.
    repeats_heads: bool = False
    # Each rank has the whole embedding and the whole output head.
    head_whole: bool = False
    lays_out_2d: bool = False  # weights over two dimensions of a torus: less to exchange
    all_experts: bool = False  # a static schedule streams all experts, not those that are routed to

    def __post_init__(self) -> None:
        if not self.name:
            raise EmuError("a stack needs a name, such as 'ideal'")
        ahead = self.prefetch_kernels
        if ahead is not None and (not isinstance(ahead, int) or isinstance(ahead, bool)):
            raise EmuError(f"stack {self.name!r}: prefetch_kernels is a count or None, not {ahead}")
        if ahead is not None and ahead < 0:
            raise EmuError(f"stack {self.name!r}: prefetch_kernels must be at least 0, not {ahead}")
        for field, number in self.numbers:
            if not isinstance(number, Sourced):
                raise EmuError(
                    f"stack {self.name!r}: {field} must be Sourced(value=…, source=…, kind=…)"
                )
            value = number.value
            if not isinstance(value, int | float):
                continue  # traced
            if field in _SHARES and not 0 < value <= 1:
                raise EmuError(
                    f"stack {self.name!r}: {field} is a share above 0 and up to 1, not {value}"
                )
            if field in ("exposed_latency", "reserve_share") and not 0 <= value <= 1:
                raise EmuError(f"stack {self.name!r}: {field} is a share from 0 to 1, not {value}")

    @functools.cached_property
    def numbers(self) -> tuple[tuple[str, Any], ...]:
        """All its numbers, by name."""
        names = (field.name for field in dataclasses.fields(self) if field.name not in _STATIC)
        return tuple((name, getattr(self, name)) for name in names)

    @functools.cached_property
    def is_plain(self) -> bool:
        """Whether none of them is traced."""
        return all(is_number(number.value) for _, number in self.numbers)

    def share_of(self, memory: Memory) -> Any:
        """The share of its bandwidth that is reached in a memory."""
        share = self.on_chip_share if memory.placement == "on-chip" else self.off_chip_share
        measured = memory.achieved_share if self.as_measured else None
        return share.value if measured is None else share.value * measured.value


_SHARES = ("on_chip_share", "off_chip_share", "compute_share", "cache_share", "link_share")


def _by_definition(value: float) -> Sourced:
    return Sourced(value=value, source="what 'ideal' means: nothing added or lost", kind="assumed")


IDEAL = Stack(
    name="ideal",
    per_step_s=_by_definition(0.0),
    per_sequence_s=_by_definition(0.0),
    per_kernel_s=_by_definition(0.0),
    per_routing_s=_by_definition(0.0),
    prefetch_kernels=None,
    prefetch_bytes=_by_definition(math.inf),
    on_chip_share=_by_definition(1.0),
    off_chip_share=_by_definition(1.0),
    compute_share=_by_definition(1.0),
    prefill_share=_by_definition(1.0),
    cache_share=_by_definition(1.0),
    link_share=_by_definition(1.0),
    unpack_flops=_by_definition(0.0),
    per_unpack_s=_by_definition(0.0),
    per_exchange_s=_by_definition(0.0),
    mesh_lanes=_by_definition(math.inf),
    exposed_latency=_by_definition(0.0),
    log_error=_by_definition(0.0),
    range_share=_by_definition(1.0),
    reserve_share=_by_definition(0.0),
)


def read_stacks(text: str, numbers: tuple[Fitted, ...]) -> dict[str, Stack]:
    """The stacks of a file, with their fitted numbers; what neither has is as in `ideal`."""
    found = {IDEAL.name: IDEAL}
    for given in tomllib.loads(text)["stack"]:
        static = {key: value for key, value in given.items() if key != "about"}
        if not set(static) <= set(_STATIC):
            raise EmuError(
                f"stacks.toml: {given['name']!r} has {sorted(set(static) - set(_STATIC))}"
            )
        fields = {**static, "as_measured": True, **for_stack(given["name"], numbers)}
        found[given["name"]] = dataclasses.replace(IDEAL, **fields)
    return found


@functools.cache
def _known() -> dict[str, Stack]:
    file = resources.files("emu.serving").joinpath("stacks.toml")
    return read_stacks(file.read_text(encoding="utf-8"), fitted())


def stacks() -> list[Stack]:
    """The known stacks: `ideal`, then those of emu/serving/stacks.toml."""
    return list(_known().values())


def stack(name: str) -> Stack:
    """The stack of this name; EmuError, with the nearest name, if there is none."""
    if name not in _known():
        raise EmuError(
            f"there is no stack {name!r}{nearest(name, _known())}; "
            "or pass an emu.Stack of your own numbers"
        )
    return _known()[name]

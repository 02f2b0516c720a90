"""A placement made real on the machine at hand: the same function, its weights really there.

Which memories this machine can tell apart, and how, is what `emu.host()` finds: a cache against
the memory behind it (`rotation`), the device's memory against the host's (`memory-kind`), or a
scratchpad against the memory behind it (`persistent-kernel`, see `emu.persistent`).
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from emu import memory_kinds, persistent
from emu.chips import Mechanism, Memory
from emu.errors import EmuError
from emu.one_program import steps_in_one
from emu.placement import Placement
from emu.rotation import rotated
from emu.rules import nearest
from emu.work import leaves_of


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Realized:
    """The function without its weights argument; call it as the function is called."""

    call: Callable[..., Any]
    mechanism: Mechanism  # how the placement was made real
    memories: tuple[str, str]  # the pair: on chip, off chip
    copies: int  # of the off-chip weights, the original included
    held_bytes: int  # by all copies and the on-chip weights
    # See `steps_in_one`.
    in_one: Callable[[int], Callable[..., Any]] = dataclasses.field(repr=False)
    notes: tuple[str, ...] = ()  # what a reader of its timings has to know

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One call, with the next copy of the weights."""
        return self.call(*args, **kwargs)

    def steps_in_one(self, steps: int) -> Callable[[Any, jax.Array], tuple[jax.Array, Any]]:
        """`(carry, x) -> (x, carry)`: so many steps in one program (`emu.one_program`).

        For a function that takes `(weights, carry, x)` and returns `(x, carry)`.
        """
        program: Callable[[Any, jax.Array], tuple[jax.Array, Any]] = self.in_one(steps)
        return program


def realize(
    fn: Callable[..., Any], placement: Placement, weights: Any, argnum: int = 0
) -> Realized:
    """`fn` with the weights bound, so that the off-chip ones come from the slower memory.

    Args:
      fn: takes the weights as positional argument `argnum`. Jit it before, with what it donates:
        with rotation it is called as it is. With memory kinds it is called inside a jitted step
        and what is compared with it should be jitted too.
      placement: on a system whose chip is `emu.host()`; its leaves are those of `weights`.
      weights: a tree of arrays (dicts, lists, an `nnx.State`, …). It is kept, as the first copy.
      argnum: counted in `fn`'s own arguments.

    The outputs are bit for bit those of `fn`: the program and the values are the same. The copies
    are made here; a call adds about a microsecond of Python with rotation.

    With a persistent kernel, `fn` must be an `emu.persistent.Persistent`. Its kernel is another
    program, whose outputs are the same but for rounding, and a call is one step of it, for which
    nothing has stayed: `steps_in_one` is what to time.

    Raises:
      EmuError: a placement of another chip or of other leaves; a stacked leaf split between two
        memories (its parts would have to be joined at each step, which is traffic that the real
        machine doesn't have); a KV cache placed off chip (it is written in place, so it cannot be
        rotated); copies that do not fit in RAM; a persistent kernel where the function has none.
    """
    if isinstance(argnum, bool) or not isinstance(argnum, int) or argnum < 0:
        raise EmuError(f"realize: argnum must be the position of the weights, not {argnum!r}")
    where = _memories_by_path(placement)
    leaves, structure = jax.tree.flatten(weights)
    leaves = [leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf) for leaf in leaves]
    memories = _memory_of_each(jax.tree.unflatten(structure, leaves), where)
    near, far, mechanism = _pair(placement)
    if mechanism == "persistent-kernel":
        in_one = functools.cache(persistent.checked(fn, argnum).in_one_kernel(weights, placement))
        return Realized(
            call=in_one(1),
            in_one=in_one,
            mechanism=mechanism,
            memories=(near.name, far.name),
            copies=1,
            held_bytes=sum(leaf.nbytes for leaf in leaves),
            notes=(*placement.notes, _NOTHING_STAYS),
        )
    if mechanism == "memory-kind":
        for device in {device for leaf in leaves for device in leaf.sharding.addressable_devices}:
            for name in (near.name, far.name):
                memory_kinds.check_kind(name, device)
        held = memory_kinds.stored(leaves, memories)

        def rebuild(leaves: Sequence[Any]) -> Any:
            return jax.tree.unflatten(structure, leaves)

        return Realized(
            call=memory_kinds.fetching(fn, rebuild, held, memories, argnum),
            in_one=functools.partial(
                steps_in_one, memory_kinds.fetching_inside(fn, rebuild, memories, argnum), [held]
            ),
            mechanism=mechanism,
            memories=(near.name, far.name),
            copies=1,
            held_bytes=sum(leaf.nbytes for leaf in leaves),
            notes=(*placement.notes, *_same_memory(leaves)),
        )
    off_chip = [memory == far.name for memory in memories]
    cache_bytes = max(near.capacity_bytes.value, near.capacity_bytes.high or 0)
    copies = rotated(leaves, off_chip, cache_bytes)
    distinct = {id(leaf): leaf.nbytes for copy in copies for leaf in copy}
    trees = [jax.tree.unflatten(structure, copy) for copy in copies]
    return Realized(
        call=_turning(fn, trees, argnum),
        in_one=functools.partial(steps_in_one, fn, trees),
        mechanism=mechanism,
        memories=(near.name, far.name),
        copies=len(copies),
        held_bytes=sum(distinct.values()),
        notes=placement.notes,
    )


def _turning(fn: Callable[..., Any], trees: Sequence[Any], argnum: int) -> Callable[..., Any]:
    """Calls `fn` with the next tree each time."""
    turn = itertools.cycle(trees).__next__
    if argnum == 0:
        return lambda *args, **kwargs: fn(turn(), *args, **kwargs)
    return lambda *args, **kwargs: fn(*args[:argnum], turn(), *args[argnum:], **kwargs)


def _memories_by_path(placement: Placement) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Each weight leaf's memory, shape and dtype."""
    found: dict[str, tuple[str, tuple[int, ...], str]] = {}
    for residency in placement.residencies:
        leaf = residency.leaf
        if residency.rows is not None:
            raise EmuError(
                f"realize: {leaf.path!r} {leaf.shape} is split between memories, and joining its "
                "parts at each step would be traffic of its own: hold the layers as separate "
                "arrays (layers/0/…, layers/1/…), or place it whole"
            )
        memory = placement.system.chip.memory(residency.memory)
        if leaf.kind == "weights":
            found[leaf.path] = (memory.name, leaf.shape, leaf.dtype)
        elif memory.placement == "off-chip":
            raise EmuError(
                f"realize: {leaf.path!r} is placed in {memory.name}, but a KV cache is written in "
                "place at each step, so it stays where it is: place the weights alone"
            )
    return found


def _memory_of_each(weights: Any, where: dict[str, tuple[str, tuple[int, ...], str]]) -> list[str]:
    """The memory of each leaf of the tree, checked against the placement's leaves."""
    memories = []
    given = leaves_of(weights)
    for leaf in given:
        if leaf.path not in where:
            raise EmuError(
                f"realize: the placement says nothing of {leaf.path!r}" + nearest(leaf.path, where)
            )
        memory, shape, dtype = where[leaf.path]
        if (leaf.shape, leaf.dtype) != (shape, dtype):
            raise EmuError(
                f"realize: {leaf.path!r} is {leaf.dtype}{list(leaf.shape)} here and was placed as "
                f"{dtype}{list(shape)}: place these weights"
            )
        memories.append(memory)
    missing = sorted(set(where) - {leaf.path for leaf in given})
    if missing:
        raise EmuError(
            f"realize: the weights lack {missing[0]!r}, which was placed: place these weights"
        )
    return memories


def _pair(placement: Placement) -> tuple[Memory, Memory, Mechanism]:
    """The two memories between which this placement tells, and how."""
    chip = placement.system.chip
    used = [memory for memory in chip.memories if placement.bytes_by_memory[memory.name]]
    used = used or [chip.memories[0]]
    mechanisms = {memory.mechanism for memory in used}
    mechanism = used[0].mechanism
    if mechanism is None or len(mechanisms) > 1:
        names = ", ".join(f"{memory.name} ({memory.mechanism})" for memory in used)
        raise EmuError(
            f"realize: {names} of {chip.name!r} are no pair that this machine can tell apart: "
            "place on emu.System(emu.host()), in two memories of one mechanism"
        )
    pair = [memory for memory in chip.memories if memory.mechanism == mechanism]
    near = [memory for memory in pair if memory.placement == "on-chip"]
    far = [memory for memory in pair if memory.placement == "off-chip"]
    if len(near) != 1 or len(far) != 1:
        raise EmuError(
            f"realize: {chip.name!r} must have one on-chip and one off-chip memory of mechanism "
            f"{mechanism!r}, as emu.host() has"
        )
    return near[0], far[0], mechanism


_NOTHING_STAYS = "weights are copied on chip once for each program of several steps"


def _same_memory(leaves: Sequence[jax.Array]) -> tuple[str, ...]:
    if any(device.platform == "cpu" for leaf in leaves for device in leaf.devices()):
        return ("on a CPU the memory kinds are one memory: both placements take the same time",)
    return ()

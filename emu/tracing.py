"""`emu.trace`: the work of one call of any JAX function, read from its jaxpr.

An abstract interpretation: each value carries where it comes from (a weight leaf, a cache leaf,
activations) through reshapes, transposes, conversions, slices and elementwise dequantisation, and
bytes are charged to the leaf, as it is stored, when something really reads it. Loops multiply,
lookups charge the rows they read, updates in place the slice they write. Nothing is computed or
allocated, so that a model of a trillion weights is traced from `jax.ShapeDtypeStruct`s.
"""

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from emu import axis_rules, work_rules
from emu.axes import Dims, together
from emu.errors import EmuError
from emu.following import named, with_axes
from emu.fusing import Fused, fuse
from emu.hints import Hints
from emu.interpreter import interpret
from emu.jaxprs import Program, Shape, hide_from_lines, open_program
from emu.liveness import peak_bytes
from emu.naming import Numbering
from emu.states import States, new_states
from emu.tape import Entry, Tape, Touch, touches
from emu.values import Buffer, Count, Stored, Value, of_buffer, of_leaf
from emu.work import Access, Leaf, Op, Work, leaf_path

Positions = int | Sequence[int] | None

assert work_rules.__all__  # imported for its rules
assert axis_rules.__all__  # and these too
hide_from_lines(__file__)


def trace(
    fn: Callable[..., Any],
    *args: Any,
    weights: Positions = 0,
    cache: Positions = None,
    hints: Hints | Mapping[str, Any] | None = None,
) -> Work:
    """The work of `fn(*args)`: ops, FLOPs, bytes by tensor, kernels, peak of live activations.

    `args` are arrays or `jax.ShapeDtypeStruct`s (in any trees: dicts, Flax states, modules).
    `weights` and `cache` say which positional arguments hold weights and the KV cache, by position;
    leaves are named by key path, cache leaves under `cache/`, and with several arguments of a kind
    the argument's position comes first (`0/dense/kernel`). All other arguments are activations.
    `hints`: see `emu.hints`. With `context`, a cache leaf is charged for that many tokens (a window
    shorter than it for the window); without, for its allocated length.

    Not modelled: copies that a backend makes to change a layout, common subexpressions that XLA
    merges, and reuse of weights between ops through an on-chip cache. Updates and scans are taken
    to be in place.

    Raises EmuError for primitives without a rule, loops without a known end and unusable arguments.
    """
    with _collector_paused():
        return _trace(fn, args, weights=weights, cache=cache, hints=Hints.of(hints))


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Tracing makes many records and no garbage: passes of Python's collector are a third of it."""
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()


def _trace(
    fn: Callable[..., Any],
    args: Sequence[Any],
    *,
    weights: Positions,
    cache: Positions,
    hints: Hints,
) -> Work:
    if not callable(fn):
        raise EmuError(f"emu.trace: the function comes first, then its arguments, not {fn!r:.60}")
    roles = _roles(weights, cache, len(args))
    program = open_program(fn, args, trees=roles)
    stored, buffers = _inputs(program, roles, hints)
    hints.check([s.leaf for s in stored if s is not None])
    tape, inputs, outs = _read(program, stored, buffers, hints)
    if any(s.blurred and s.token_axis is not None for s in stored if s is not None):
        # Some of the cache was read before an update showed which axis its tokens lie along.
        tape, inputs, outs = _read(program, stored, buffers, hints)
    results = _leave_through(outs, tape)
    cache_leaves = [s for s in stored if s is not None and s.leaf.kind == "cache"]
    arguments = [b for b in buffers if b is not None]
    states = new_states(cache_leaves, results, arguments, tape)
    made_anew = set(states.values())
    _note_context([s for s in cache_leaves if s not in made_anew], tape)
    tape.entries = [entry for entry in tape.entries if entry.real and entry.count]
    fused = fuse(tape.entries, tape.escaping)
    numbering = Numbering(tape.factors, tape.axes)
    leaves = _leaves_with_axes(stored, inputs, numbering)
    axes_of = {leaf.path: leaf.axes for leaf in leaves}
    return Work(
        leaves=leaves,
        ops=tuple(_op(_in_cache(f, states, tape), numbering, axes_of) for f in fused),
        axes=tuple(numbering.axes),
        peak_activation_bytes=peak_bytes(fused, tape, arguments, in_cache=states),
        notes=tuple(tape.notes),
    )


def _roles(
    weights: Positions, cache: Positions, count: int
) -> dict[int, Literal["weights", "cache"]]:
    """What each positional argument that is not activations holds."""
    roles: dict[int, Literal["weights", "cache"]] = {}
    named: list[tuple[Literal["weights", "cache"], Positions]] = [
        ("weights", weights),
        ("cache", cache),
    ]
    for kind, positions in named:
        for i in _as_tuple(positions, kind):
            if not 0 <= i < count:
                raise EmuError(
                    f"emu.trace: {kind}={i}, but the function is given {count} positional "
                    f"arguments (0 to {count - 1}); name one of them"
                    if count
                    else f"emu.trace: {kind}={i}, but no arguments are given; pass {kind}=None"
                )
            if i in roles:
                raise EmuError(f"emu.trace: argument {i} is named as {roles[i]} and as {kind}")
            roles[i] = kind
    return roles


def _as_tuple(positions: Positions, kind: str) -> tuple[int, ...]:
    if positions is None:
        return ()
    several = (positions,) if isinstance(positions, int) else tuple(positions)
    for i in several:
        if isinstance(i, bool) or not isinstance(i, int):
            raise EmuError(f"emu.trace: {kind} takes positions of arguments, not {i!r}")
    return several


def _inputs(
    program: Program,
    roles: Mapping[int, Literal["weights", "cache"]],
    hints: Hints,
) -> tuple[list[Stored | None], list[Buffer | None]]:
    """For each input, the leaf or the activations that it is."""
    stored: list[Stored | None] = []
    buffers: list[Buffer | None] = []
    seen: set[str] = set()
    for argument, path, shape in program.inputs:
        kind = roles.get(argument)
        if kind is None:
            stored.append(None)
            buffers.append(Buffer(shape=shape))
            continue
        leaf = _leaf(kind, argument, path, shape, roles)
        if leaf.path in seen:
            raise EmuError(f"emu.trace: two leaves are named {leaf.path!r}; name them apart")
        seen.add(leaf.path)
        tokens = hints.context if kind == "cache" else None
        axis = None if tokens is None else _hinted_axis(leaf, hints)
        stored.append(Stored(leaf=leaf, token_axis=axis, tokens=tokens))
        buffers.append(None)
    return stored, buffers


def _leaf(
    kind: Literal["weights", "cache"],
    argument: int,
    path: tuple[Any, ...],
    shape: Shape,
    roles: Mapping[int, str],
) -> Leaf:
    several = sum(role == kind for role in roles.values()) > 1
    name = leaf_path(path, kind, *([str(argument)] if several else []))
    return Leaf(path=name, shape=shape.dims, dtype=shape.dtype, kind=kind)


def _read(
    program: Program,
    stored: Sequence[Stored | None],
    buffers: Sequence[Buffer | None],
    hints: Hints,
) -> tuple[Tape, list[Value], list[Value]]:
    """The tape, and the values of inputs and outputs."""
    tape = Tape(hints)
    values = [
        with_axes(tape, of_leaf(s) if s is not None else of_buffer(b))  # type: ignore[arg-type]
        for s, b in zip(stored, buffers, strict=True)
    ]
    return tape, values, interpret(program.jaxpr, values, tape)


def _leaves_with_axes(
    stored: Sequence[Stored | None], inputs: Sequence[Value], numbering: Numbering
) -> tuple[Leaf, ...]:
    """The leaves; axes are named after weights first, then the cache."""
    found: dict[int, Leaf] = {}
    for kind in ("weights", "cache"):
        for i, (s, value) in enumerate(zip(stored, inputs, strict=True)):
            if s is not None and s.leaf.kind == kind:
                axes: Dims = numbering.dims(value.axes or (), s.leaf.path)
                found[i] = dataclasses.replace(s.leaf, axes=axes)
    return tuple(found[i] for i in sorted(found))


def _hinted_axis(leaf: Leaf, hints: Hints) -> int | None:
    """A cache leaf's axis of tokens, where a hint names it."""
    hinted = hints.at("context_axis", leaf.path)
    if hinted is None:
        return None
    axis = int(hinted)
    if not -len(leaf.shape) <= axis < len(leaf.shape):
        raise EmuError(
            f"hints: context_axis {axis} of {leaf.path}, which has {len(leaf.shape)} axes"
        )
    return axis % len(leaf.shape)


def _note_context(stored: Sequence[Stored], tape: Tape) -> None:
    """Say which cache leaves are charged for their allocated length."""
    cache = [s for s in stored if len(s.leaf.shape) > 1]
    unknown = [s.leaf.path for s in cache if s.token_axis is None]
    names = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
    if cache and tape.hints.context is None:
        tape.note("cache: charged for its allocated length (hint: context)")
    elif unknown:
        tape.note(
            f"cache: no update shows the axis of tokens of {names}: charged for the allocated "
            "length (hint: context_axis)"
        )


def _leave_through(outs: Sequence[Value], tape: Tape) -> list[Value]:
    """What the function returns has to be in memory; a leaf that is passed through is already."""
    results = []
    for out in outs:
        value = tape.settled(out)
        whole = value.stored
        passed = whole is not None and whole.elements >= _all_of(whole.tensor)
        if value.view and not value.constant and not passed:
            shape = value.shape
            buffer = tape.buffer(shape)
            tape.entries.append(
                Entry(
                    name="copy",
                    kind="copy",
                    scope="",
                    line="result",
                    count=1,
                    region=0,
                    devices=1,
                    fuse="loop",
                    reads=touches(value),
                    writes=[Touch(tensor=buffer, elements=shape.size)],
                    axes=together(value.axes or ()),
                )
            )
            value = named(tape, of_buffer(buffer), value.axes)
        tape.leave(value)
        results.append(value)
    return results


def _in_cache(fused: Fused, states: States, tape: Tape) -> Fused:
    """With the cache leaf in the place of buffers that its next content is made in."""
    if not states:
        return fused

    def placed(touch: Touch) -> Touch:
        tensor = touch.tensor
        if not isinstance(tensor, Buffer) or tape.home(tensor) not in states:
            return touch
        state = states[tape.home(tensor)]
        axes = touch.axes or together(tape.axes.get(tensor, ()))
        return dataclasses.replace(touch, tensor=state, axes=axes, contracted=())

    return dataclasses.replace(
        fused,
        reads=tuple(placed(t) for t in fused.reads),
        writes=tuple(placed(t) for t in fused.writes),
    )


def _all_of(tensor: Any) -> Count:
    return of_leaf(tensor).sources[0].elements


def _op(fused: Fused, numbering: Numbering, axes_of: Mapping[str, Dims]) -> Op:
    entry = fused.entry
    where = f"{entry.scope}/{entry.name}" if entry.scope else entry.name
    return Op(
        name=entry.name,
        kind=entry.kind,
        scope=entry.scope,
        line=entry.line,
        count=entry.count,
        flops=dict(entry.flops),
        reads=tuple(_access(t, numbering, axes_of, where) for t in fused.reads),
        writes=tuple(_access(t, numbering, axes_of, where) for t in fused.writes),
        collective=entry.collective,
        dot=entry.dot,
        kernel=fused.kernel,
        devices=entry.devices,
        axes=numbering.all_of(entry.axes or (), where),
        summed=numbering.all_of(entry.summed, where),
        indexed=numbering.all_of(entry.indexed, where),
        whole=numbering.all_of(entry.whole, where),
    )


def _access(touch: Touch, numbering: Numbering, axes_of: Mapping[str, Dims], where: str) -> Access:
    """A touch in bytes, as stored; a part of a byte counts whole."""
    tensor = touch.tensor
    if isinstance(tensor, Buffer):
        return Access(
            tensor="activations",
            kind="activations",
            bytes=_bytes(touch.elements, tensor.shape.bits),
            axes=numbering.touch(touch, None, where),
        )
    leaf = tensor.leaf
    return Access(
        tensor=leaf.path,
        kind=leaf.kind,
        bytes=_bytes(touch.elements, Shape(dims=(), dtype=leaf.dtype).bits),
        rows=touch.rows,
        contracted=touch.contracted,
        axes=numbering.touch(touch, axes_of[leaf.path], where),
        routed=None if touch.picked is None else touch.picked.routed,
    )


def _bytes(elements: Count, bits: int) -> int:
    return int(-(-elements * bits // 8))

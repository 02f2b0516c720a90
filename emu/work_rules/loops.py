"""Loops: the body's ops, as often as it runs.

`scan(f, n)` is n times f. Each iteration reads its own slice of what is scanned over, so that a
stack of layers is read once in all. What is carried unchanged (a weight, a cache that is only
updated in place) stays the tensor that it is; what changes is activations, in memory between
iterations. The body is read with the first guess at which is which, and again if its results say
otherwise.

A while loop runs as often as its carry says, where the numbers that its condition depends on are
known while tracing, and as often as a hint says otherwise.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from emu import views as algebra
from emu.axes import Ids
from emu.costs import own_rule
from emu.errors import EmuError
from emu.following import named, with_axes
from emu.interpreter import Site, interpret
from emu.jaxprs import Shape, inputs_read, scan_split
from emu.known import evaluate
from emu.tape import Tape
from emu.values import Buffer, Value, constant, of_buffer

_TRIP_LIMIT = 100_000  # iterations that are stepped through to find a loop's end


@own_rule("scan")
def scan(site: Site, *values: Value) -> list[Value]:
    """`length` times the body."""
    consts_count, carry_count = scan_split(site.params)
    consts = values[:consts_count]
    init = values[consts_count : consts_count + carry_count]
    stacked = [site.settle(v) for v in values[consts_count + carry_count :]]
    length = int(site.params["length"])
    tape = site.tape
    layers = tape.factors.new(length)
    slices = [_slice(v, ("scan", id(site.eqn))) for v in stacked]
    slices = [_one_of(tape, layers, one, v) for one, v in zip(slices, stacked, strict=True)]
    ys_shapes = site.outs[carry_count:]
    needed = [True] * carry_count + list(site.needed[carry_count:])
    outs: list[Value] = []

    def body(carry: Sequence[Value]) -> list[Value]:
        nonlocal outs
        outs = interpret(site.params["jaxpr"], [*consts, *carry, *slices], tape, needed)
        outs[carry_count:] = [
            _finished(site, y) if not _passed(y, slices) else y for y in outs[carry_count:]
        ]
        return outs[:carry_count]

    mark = len(tape.entries)
    carried = iterate(site, init, length, body)
    if length == 0:
        return [*init, *(constant(shape) for shape in ys_shapes)]
    ys = [
        _all_of(tape, layers, _stack(site, y, shape, mark, zip(slices, stacked, strict=True)), y)
        for y, shape in zip(outs[carry_count:], ys_shapes, strict=True)
    ]
    return [*carried, *ys]


def _slice(value: Value, region: tuple[str, int]) -> Value:
    """One entry of the leading axis."""
    dims = value.shape.dims
    one = Shape(dims=(1, *dims[1:]), dtype=value.shape.dtype)
    shape = Shape(dims=dims[1:], dtype=value.shape.dtype)
    return algebra.without(algebra.sliced(value, one, region), shape, 0)


def _one_of(tape: Tape, layers: Ids, one: Value, stacked: Value) -> Value:
    """A slice with its logical axes: those of the whole but for the leading one."""
    if stacked.axes is None:
        return one
    tape.factors.unify(layers, stacked.axes[0])
    return dataclasses.replace(one, axes=stacked.axes[1:])


def _all_of(tape: Tape, layers: Ids, stacked: Value, one: Value) -> Value:
    """The iterations' outputs together, with the axes of one of them."""
    return named(tape, stacked, None if one.axes is None else (layers, *one.axes))


def _passed(y: Value, slices: Sequence[Value]) -> bool:
    """Whether an output is one of the scanned slices, perhaps updated in place."""
    return any(y.same_place(s) for s in slices)


def _stack(
    site: Site, y: Value, shape: Shape, mark: int, scanned: Iterable[tuple[Value, Value]]
) -> Value:
    """What the iterations' outputs are together; `scanned` are the inputs' slices and wholes."""
    for one, whole in scanned:
        if y.same_place(one):
            return dataclasses.replace(whole, shape=shape)
    if y.constant:
        return constant(shape)
    tape = site.tape
    buffer = tape.buffer(shape)
    tape.born[buffer] = mark
    tape.leave(y)
    for s in y.sources:
        if isinstance(s.tensor, Buffer) and s.elements == s.tensor.shape.size:
            tape.homes.setdefault(s.tensor, buffer)
    return dataclasses.replace(of_buffer(buffer), routing=y.routing)


@own_rule("while")
def while_rule(site: Site, *values: Value) -> list[Value]:
    """The body as often as it runs, the condition once more."""
    cond_count = int(site.params["cond_nconsts"])
    body_count = int(site.params["body_nconsts"])
    cond_consts = values[:cond_count]
    body_consts = values[cond_count : cond_count + body_count]
    init = values[cond_count + body_count :]
    trips = _trips(site, cond_consts, body_consts, init)
    tape = site.tape

    def body(carry: Sequence[Value]) -> list[Value]:
        return interpret(site.params["body_jaxpr"], [*body_consts, *carry], tape)

    carried = iterate(site, init, trips, body)
    with tape.loop(trips + 1):
        interpret(site.params["cond_jaxpr"], [*cond_consts, *carried], tape)
    return carried


def _trips(
    site: Site, cond_consts: Sequence[Value], body_consts: Sequence[Value], init: Sequence[Value]
) -> int:
    """How often a while loop's body runs."""
    hinted = site.tape.hints.at("trip_counts", site.scope, site.line)
    derived = _derived_trips(site, cond_consts, body_consts, init)
    if derived is not None:
        return derived
    if hinted is None:
        raise EmuError(
            f"while loop {site.where}: how often it runs depends on data; "
            "give hints={'trip_counts': n}, or {pattern of scope or line: n} for several loops"
        )
    if hinted != int(hinted) or hinted < 0:
        raise EmuError(f"while loop {site.where}: trip_counts must be a count, not {hinted!r}")
    return int(hinted)


def _derived_trips(
    site: Site, cond_consts: Sequence[Value], body_consts: Sequence[Value], init: Sequence[Value]
) -> int | None:
    """Step through the part of the loop that its condition depends on."""
    cond, body = site.params["cond_jaxpr"], site.params["body_jaxpr"]
    needed = _deciding(cond, body, len(cond_consts), len(body_consts), len(init))
    state = [v.known if keep else None for v, keep in zip(init, needed, strict=True)]
    in_cond = [v.known for v in cond_consts]
    in_body = [v.known for v in body_consts]
    for trips in range(_TRIP_LIMIT):
        (go_on,) = evaluate(cond, [*in_cond, *state])
        if go_on is None:
            return None
        if not go_on:
            return trips
        state = evaluate(body, [*in_body, *state], needed)
    return None


def _deciding(
    cond: object, body: object, cond_consts: int, body_consts: int, carry: int
) -> list[bool]:
    """Which carried values the condition depends on, through the body."""
    needed = inputs_read(cond, [True])[cond_consts:]
    while True:
        more = inputs_read(body, needed)[body_consts:]
        wider = [a or b for a, b in zip(needed, more, strict=True)]
        if wider == needed:
            assert len(needed) == carry
            return needed
        needed = wider


def iterate(
    site: Site,
    init: Sequence[Value],
    times: int,
    body: Callable[[Sequence[Value]], list[Value]],
) -> list[Value]:
    """The carried values after `times` iterations; the body's ops go on the tape once, counted.

    Kinds of carry: a constant (a counter), a stored tensor unchanged, or activations.
    """
    tape = site.tape
    carry = [_unknown(site.settle(v)) for v in init]
    carry = [_in_buffer(site, v) if v.sources and v.stored is None else v for v in carry]
    carry = [with_axes(tape, v) for v in carry]
    while True:
        mark = len(tape.entries)
        with tape.loop(times):
            outs = body(carry)
            changed = [
                i for i, (a, b) in enumerate(zip(carry, outs, strict=True)) if not _alike(a, b)
            ]
            for a, b in zip(carry, outs, strict=True):
                if a.axes is not None and b.axes is not None:
                    tape.factors.unify_all(a.axes, b.axes)
            if not changed:
                outs = [
                    _finished(site, b) if _is_buffer(a) else b
                    for a, b in zip(carry, outs, strict=True)
                ]
                break
        del tape.entries[mark:]
        for i in changed:
            carry[i] = with_axes(tape, _in_buffer(site, carry[i]))
    if times == 0:
        del tape.entries[mark:]
        return list(init)
    for a, b in zip(carry, outs, strict=True):
        if _is_buffer(a):
            tape.leave(b)
    return [_unknown(b) for b in outs]


def _alike(before: Value, after: Value) -> bool:
    """Whether a carried value is still of the kind that it was taken for."""
    if _is_buffer(before):
        return True
    if before.constant:
        return after.constant
    return after.same_place(before)


def _is_buffer(value: Value) -> bool:
    return any(isinstance(s.tensor, Buffer) for s in value.sources)


def _unknown(value: Value) -> Value:
    """The same value, whose number may differ from one iteration to the next."""
    return dataclasses.replace(value, known=None)


def _in_buffer(site: Site, value: Value) -> Value:
    """A value as activations in memory."""
    value = site.settle(value)
    if value.constant:  # filled where it stands; the first iteration's body reads it
        buffer = site.tape.buffer(value.shape)
        site.tape.born[buffer] = len(site.tape.entries)
        return dataclasses.replace(of_buffer(buffer), routing=value.routing)
    if _is_buffer(value) and not value.computed:
        return value
    made = site.copied("copy", value)
    return dataclasses.replace(made, routing=value.routing)


def _finished(site: Site, value: Value) -> Value:
    """A value that leaves the body: pending lookups and arithmetic on views are written out."""
    value = site.settle(value)
    if value.constant or (_is_buffer(value) and not value.computed):
        return value
    made = site.copied("copy", value)
    return dataclasses.replace(made, routing=value.routing)

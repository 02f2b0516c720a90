"""Reads a jaxpr equation by equation, with provenance for values, and writes the tape.

Each primitive has a rule that takes its `Site` (the equation, the tape) and the `Value`s that go
in, and returns those that come out. A primitive without a rule is an error that says what to do.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emu.axes import together
from emu.costs import Call, Cost, find_own, find_users
from emu.errors import EmuError
from emu.following import follow, named, with_axes
from emu.jaxprs import (
    Equation,
    Jaxpr,
    Shape,
    is_literal,
    line_of,
    needed_equations,
    needed_outputs,
    opened,
    scope_of,
    shape_of,
)
from emu.tape import Entry, Fuse, Tape, Touch, touches
from emu.values import Value, constant, of_buffer, show_token_axis
from emu.work import Collective, Dot

# Arrays that a function is closed over: up to here they are constants of the program (a table of
# codes, a mask), above they are data that is read from memory each time.
_CONSTANT_BYTES = 64 * 1024


@dataclasses.dataclass(kw_only=True, eq=False)
class Site:
    """One equation, where it stands, and the tape that its rule writes on."""

    tape: Tape
    eqn: Equation
    outs: tuple[Shape, ...]
    needed: tuple[bool, ...]  # which outputs anything reads

    @property
    def name(self) -> str:
        """The primitive's."""
        return str(self.eqn.primitive.name)

    @property
    def params(self) -> Mapping[str, Any]:
        """The equation's parameters."""
        return self.eqn.params  # type: ignore[no-any-return]

    @functools.cached_property
    def scope(self) -> str:
        """The name scopes around it, from the outermost call in."""
        return "/".join(part for part in (self.tape.scope, scope_of(self.eqn)) if part)

    @functools.cached_property
    def line(self) -> str:
        """`file.py:12 (function)`."""
        return line_of(self.eqn)

    @property
    def where(self) -> str:
        """For messages."""
        return f"at {self.scope or 'the top level'} ({self.line})"

    def emit(
        self,
        kind: str,
        values: Sequence[Value] = (),
        *,
        outs: Sequence[Shape] | None = None,
        flops: Mapping[str, int] | None = None,
        fuse: Fuse = "loop",
        reads: Sequence[Touch] | None = None,
        writes: Sequence[Touch] = (),
        collective: Collective | None = None,
        dot: Dot | None = None,
        real: bool = True,
    ) -> list[Value]:
        """Write an op that reads `values` whole (or just `reads`) and makes `outs` in buffers."""
        entry = Entry(
            name=self.name,
            kind=kind,
            scope=self.scope,
            line=self.line,
            count=self.tape.count,
            region=self.tape.region,
            devices=self.tape.devices,
            fuse=fuse,
            flops={d: n for d, n in (flops or {}).items() if n},
            reads=[t for v in values for t in touches(v)] if reads is None else list(reads),
            writes=list(writes),
            collective=collective,
            dot=dot,
            real=real,
        )
        made = []
        for shape in self.outs if outs is None else outs:
            buffer = self.tape.buffer(shape)
            entry.writes.append(Touch(tensor=buffer, elements=shape.size))
            made.append(of_buffer(buffer))
        self.tape.entries.append(entry)
        return made

    def settle(self, value: Value) -> Value:
        """The value with its pending lookups copied out."""
        return self.tape.settled(value)

    def in_memory(self, value: Value) -> Value:
        """The value as something that an opaque kernel can be handed: views with arithmetic in them
        are written out first.
        """
        value = self.settle(value)
        if not value.computed or value.constant:
            return value
        return self.copied("elementwise", value)

    def copied(self, kind: str, value: Value) -> Value:
        """The value written to memory, by an op of that kind."""
        made = self.emit(kind, [value], outs=[value.shape])[0]
        value = with_axes(self.tape, value)
        if value.axes is not None:
            self.tape.entries[-1].axes = together(value.axes)
        return named(self.tape, made, value.axes)


def interpret(
    jaxpr: Jaxpr,
    values: Sequence[Value],
    tape: Tape,
    needed: Sequence[bool] | None = None,
) -> list[Value]:
    """The values of a jaxpr's outputs; its ops go on the tape.

    Equations that no needed output depends on are left out, as XLA leaves them out.
    """
    inner, consts = opened(jaxpr)
    wanted = [True] * len(inner.outvars) if needed is None else list(needed)
    env: dict[Any, Value] = {}
    for var, const in zip(inner.constvars, consts, strict=True):
        env[var] = _closed_over(const, shape_of(var.aval), tape)
    env.update((var, with_axes(tape, v)) for var, v in zip(inner.invars, values, strict=True))

    def read(atom: Any) -> Value:
        return _literal(atom) if is_literal(atom) else env[atom]

    equations = needed_equations(inner, wanted)
    used = needed_outputs(inner, equations, wanted)
    for eqn in equations:
        site = Site(
            tape=tape,
            eqn=eqn,
            outs=tuple(shape_of(v.aval) for v in eqn.outvars),
            needed=tuple(v in used for v in eqn.outvars),
        )
        results = _apply(site, [read(atom) for atom in eqn.invars])
        assert len(results) == len(eqn.outvars), site.name
        env.update(zip(eqn.outvars, results, strict=True))
    return [
        read(v) if keep else constant(shape_of(v.aval))
        for v, keep in zip(inner.outvars, wanted, strict=True)
    ]


def _apply(site: Site, values: list[Value]) -> Sequence[Value]:
    """The outputs of one equation by its rule."""
    mark = len(site.tape.entries)
    name = called_name(site)
    users = find_users(site.name, name)
    if users is not None:
        return follow(site, name or "", values, _by_users_rule(site, values, users), mark)
    own = find_own(site.name)
    if own is None:
        raise unknown(site, values)
    result = own(site, *values)
    results = (result,) if isinstance(result, Value) else result
    return follow(site, None, values, results, mark)


def called_name(site: Site) -> str | None:
    """The name of what an equation calls, if it calls something by name."""
    name = site.params.get("target_name") or site.params.get("name")
    if name is None and site.name == "pallas_call":
        name = getattr(site.params["jaxpr"].debug_info, "func_name", None)
    return None if name is None else str(name)


def unknown(site: Site, values: Sequence[Value]) -> EmuError:
    """The error for a primitive without a rule."""
    called = called_name(site)
    named = "" if called is None else f", name={called!r}"
    shapes = ", ".join(str(v.shape) for v in values)
    makes = ", ".join(map(str, site.outs))
    what = site.name if called is None else f"{site.name} of {called!r}"
    return EmuError(
        f"emu.trace: no cost rule for {what} {site.where}: "
        f"({shapes}) -> ({makes}); give it one with @emu.cost_rule({site.name!r}{named})"
    )


def _by_users_rule(site: Site, values: list[Value], rule: Any) -> list[Value]:
    params = {**site.params, **dict(site.params.get("attributes") or ())}
    call = Call(
        primitive=site.name,
        name=called_name(site),
        inputs=tuple(v.shape for v in values),
        outputs=site.outs,
        params=params,
        context=site.tape.hints.context,
    )
    cost = rule(call)
    if not isinstance(cost, Cost):
        raise EmuError(f"cost_rule of {site.name}: must return an emu.Cost, not {cost!r}")
    cost.check(call)
    values = [site.in_memory(v) for v in values]
    return opaque(site, values, cost)


def opaque(site: Site, values: Sequence[Value], cost: Cost) -> list[Value]:
    """A kernel that emu cannot look into: reads its inputs from memory, writes its outputs."""
    for i, axis in cost.token_axes.items():
        show_token_axis(values[i], axis)
    reads: list[Touch] = []
    updated = set(cost.in_place.values())
    for i, value in enumerate(values):
        whole = touches(value)
        if i in cost.reads or i in updated:
            part = cost.reads.get(i, 0)
            size = max(1, value.shape.size)
            whole = [dataclasses.replace(t, elements=-(-t.elements * part // size)) for t in whole]
        reads.extend(t for t in whole if t.elements)
    writes: list[Touch] = []
    for out, i in cost.in_place.items():
        elements = cost.writes.get(out, site.outs[out].size)
        writes.extend(
            dataclasses.replace(t, elements=elements) for t in touches(values[i])[:1] if elements
        )
    fresh = [i for i in range(len(site.outs)) if i not in cost.in_place]
    made = site.emit(
        cost.kind,
        outs=[site.outs[i] for i in fresh],
        flops=cost.flops,
        fuse="alone",
        reads=reads,
        writes=writes,
    )
    entry = site.tape.entries[-1]
    for i, touch in zip(fresh, entry.writes[len(writes) :], strict=True):
        position = entry.writes.index(touch)
        entry.writes[position] = dataclasses.replace(
            touch, elements=cost.writes.get(i, touch.elements)
        )
    outs = dict(zip(fresh, made, strict=True))
    return [
        outs[i] if i in outs else dataclasses.replace(values[cost.in_place[i]], shape=shape)
        for i, shape in enumerate(site.outs)
    ]


def _literal(atom: Any) -> Value:
    shape = shape_of(atom.aval)
    known = atom.val if shape.size == 1 else None
    return constant(shape, known=_number(known))


def _number(value: Any) -> Any:
    """A Python or numpy number out of a literal, if it is one."""
    if value is None or isinstance(value, bool | int | float | complex):
        return value
    array = np.asarray(value)
    return array.reshape(())[()] if array.size == 1 else None


def _closed_over(const: Any, shape: Shape, tape: Tape) -> Value:
    """An array that the function is closed over."""
    known = tape.constants.get(id(const))
    if known is not None:
        return known
    size = -(-shape.size * shape.bits // 8)
    if size <= _CONSTANT_BYTES or shape.dtype.startswith("key<"):
        number = None
        if shape.size == 1 and not shape.dtype.startswith("key<"):
            number = _number(const)
        value = constant(shape, known=number)
    else:
        value = with_axes(tape, of_buffer(tape.buffer(shape)))
        tape.note(
            f"{shape} ({size} bytes) is closed over by the function: counted as activations; "
            "pass it as an argument in `weights` to place it"
        )
    tape.constants[id(const)] = value
    return value

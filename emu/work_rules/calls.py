"""Calls into another jaxpr: jit, remat, custom derivatives run as if written in place; a cond runs
one of its branches.
"""

from fractions import Fraction

from emu.costs import own_rule
from emu.errors import EmuError
from emu.interpreter import Site, interpret
from emu.jaxprs import lowered
from emu.tape import Entry
from emu.values import Buffer, Stored, Value

_BODIES = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat2": "jaxpr",
    "remat": "jaxpr",
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vmap_call": "call",
    "custom_partitioning": "call",
    "composite": "jaxpr",
    "xla_metadata_call": "jaxpr",
    "custom_fusion": "jaxpr",
    "eval_jaxpr": "jaxpr",
    "linear_call": "callee",
}


@own_rule(*_BODIES)
def call(site: Site, *values: Value) -> list[Value]:
    """The body in place; a jitted function's name is a scope unless it is private."""
    body = site.params[_BODIES[site.name]]
    name = str(site.params.get("name") or "") if site.name in ("jit", "pjit") else ""
    shown = "" if name.startswith(("_", "<")) else name
    with site.tape.within("/".join(p for p in (_inner(site), shown) if p)):
        return interpret(body, values, site.tape, site.needed)


@own_rule("call_hi_primitive")
def high_level(site: Site, *values: Value) -> list[Value]:
    """What it stands for, as if written in place."""
    return interpret(lowered(site.eqn), values, site.tape, site.needed)


def _inner(site: Site) -> str:
    """The scopes of the call itself, below those of the calls around it."""
    return site.scope[len(site.tape.scope) :].strip("/")


@own_rule("cond")
def cond(site: Site, index: Value, *values: Value) -> list[Value]:
    """The branch that is known or hinted to run, or else the one that moves the most bytes."""
    branches = site.params["branches"]
    chosen = index.known
    if chosen is None:
        chosen = site.tape.hints.at("branches", site.scope, site.line)
    if chosen is not None:
        if not 0 <= int(chosen) < len(branches):
            raise EmuError(
                f"cond {site.where}: the hint says branch {chosen}, "
                f"but they are 0 to {len(branches) - 1}"
            )
        with site.tape.within(_inner(site)):
            return interpret(branches[int(chosen)], values, site.tape, site.needed)
    return _costliest(site, values)


def _costliest(site: Site, values: tuple[Value, ...]) -> list[Value]:
    tape = site.tape
    mark = len(tape.entries)
    tried = []
    for i, branch in enumerate(site.params["branches"]):
        with tape.within(_inner(site)):
            outs = interpret(branch, values, tape, site.needed)
        entries = tape.entries[mark:]
        del tape.entries[mark:]
        tried.append((_bytes(entries), i, entries, outs))
    _, i, entries, outs = max(tried, key=lambda t: (t[0], -t[1]))
    for *_, others in tried:
        for a, b in zip(outs, others, strict=True):
            if a.axes is not None and b.axes is not None:
                tape.factors.unify_all(a.axes, b.axes)
    tape.entries.extend(entries)
    tape.note(
        f"cond {site.where}: which branch runs depends on data; branch {i} of {len(tried)} is "
        "charged, the costliest (hint: branches)"
    )
    return outs


def _bytes(entries: list[Entry]) -> tuple[Fraction, int]:
    """Bytes touched, then FLOPs."""
    total = Fraction(0)
    flops = 0
    for entry in entries:
        if not entry.real:
            continue
        for touch in (*entry.reads, *entry.writes):
            total += Fraction(touch.elements) * _bits(touch.tensor) * entry.count
        flops += sum(entry.flops.values()) * entry.count
    return total, flops


def _bits(tensor: Stored | Buffer) -> int:
    if isinstance(tensor, Buffer):
        return tensor.shape.bits
    return 8 * tensor.leaf.bytes // max(1, tensor.leaf.size)

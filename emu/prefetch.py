"""Weights in another memory, fetched a layer ahead where a function scans over stacked layers.

Copies from the host's memory that stand in a program one by one are XLA's to place, and it starts
all of them before the first product, so that they run under nothing and the device holds all that
was to be elsewhere. A loop keeps them in their turns. So each turn of a scan asks for the next
one's weights before it computes, and hands them on:

    turn i:  next ← fetch(weights[i + 1]);  x ← layer(x, held);  held ← next

The last turn has nothing to fetch and stands behind the loop. Two turns are unrolled into one: with
a single one, held and next were given the same buffer, and each fetch waited for the product.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal, jaxpr_as_fun

from emu.jaxprs import Equation, Jaxpr, bind, scan_split

TURNS_AT_ONCE = 2


def fetch(leaf: jax.Array) -> jax.Array:
    """The leaf in the device's memory, within a jitted program."""
    here: jax.Array = jax.device_put(leaf, jax.memory.Space.Device)
    return here


class _Far:
    """A leaf in another memory; it is fetched once, where it is first needed whole."""

    def __init__(self, leaf: jax.Array) -> None:
        self.leaf = leaf
        self.here = functools.cache(lambda: fetch(leaf))


def call(fn: Callable[[list[Any]], Any], leaves: Sequence[jax.Array], far: Sequence[bool]) -> Any:
    """`fn(leaves)` within a jitted program, the `far` ones fetched from another memory.

    A far leaf over whose leading axis the function scans is fetched slice by slice, each under the
    turn before; any other whole, where XLA likes.
    """
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    closed, out = jax.make_jaxpr(fn, return_shape=True)(shapes)
    if not _scans(closed.jaxpr, far):
        return fn([fetch(leaf) if away else leaf for leaf, away in zip(leaves, far, strict=True)])
    held = [_Far(leaf) if away else leaf for leaf, away in zip(leaves, far, strict=True)]
    outs = [_whole(value) for value in _evaluate(closed.jaxpr, closed.consts, held)]
    return jax.tree.unflatten(jax.tree.structure(out), outs)


def _scans(jaxpr: Jaxpr, far: Sequence[bool]) -> bool:
    """Whether a scan goes over one of these inputs."""
    away = {v for v, is_far in zip(jaxpr.invars, far, strict=True) if is_far}
    for equation in jaxpr.eqns:
        given = [not isinstance(v, Literal) and v in away for v in equation.invars]
        if equation.primitive.name == "scan" and any(given[_first_sliced(equation) :]):
            return True
        if _is_call(equation) and any(given) and _scans(equation.params["jaxpr"].jaxpr, given):
            return True
    return False


def _evaluate(jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """The jaxpr's outputs; inputs and outputs may be `_Far`."""
    known = dict(zip(jaxpr.constvars, consts, strict=True))
    known |= dict(zip(jaxpr.invars, inputs, strict=True))

    def value(v: Any) -> Any:
        return v.val if isinstance(v, Literal) else known[v]

    for equation in jaxpr.eqns:
        given = [value(v) for v in equation.invars]
        known |= dict(zip(equation.outvars, _outputs(equation, given), strict=True))
    return [value(v) for v in jaxpr.outvars]


def _outputs(equation: Equation, given: Sequence[Any]) -> Sequence[Any]:
    away = [isinstance(value, _Far) for value in given]
    if _is_call(equation) and any(away):
        closed = equation.params["jaxpr"]
        return _evaluate(closed.jaxpr, closed.consts, given)
    if equation.primitive.name == "scan" and any(away[_first_sliced(equation) :]):
        return _ahead(equation, given)
    return bind(equation, [_whole(value) for value in given])


def _ahead(equation: Equation, given: Sequence[Any]) -> Sequence[Any]:
    """A scan's outputs; each of its turns but the last fetches for the next."""
    params, first = equation.params, _first_sliced(equation)
    count, _ = scan_split(params)
    consts, carry = (list(map(_whole, part)) for part in (given[:count], given[count:first]))
    sliced, last = given[first:], params["length"] - 1
    far = [value.leaf for value in sliced if isinstance(value, _Far)]
    near = [value for value in sliced if not isinstance(value, _Far)]
    body = jaxpr_as_fun(params["jaxpr"])

    def at(turn: Any) -> list[jax.Array]:
        row = last - turn if params["reverse"] else turn
        return [fetch(jax.lax.dynamic_index_in_dim(leaf, row, keepdims=False)) for leaf in far]

    def turn(carry: list[Any], fetched: list[Any], rows: list[Any]) -> tuple[list[Any], list[Any]]:
        held, beside = iter(fetched), iter(rows)
        slices = [next(held if isinstance(value, _Far) else beside) for value in sliced]
        outs = body(*consts, *carry, *slices)
        return outs[: len(carry)], outs[len(carry) :]

    def and_fetch(state: Any, rows: list[Any]) -> tuple[Any, list[Any]]:
        carry, fetched, number = state
        following = at(number + 1)
        carry, out = turn(carry, fetched, rows)
        return (carry, following, number + 1), out

    # The last turn's row is the first one where the scan goes backwards.
    in_loop, behind = (slice(1, None), 0) if params["reverse"] else (slice(0, last), last)
    (carry, fetched, _), many = jax.lax.scan(
        and_fetch,
        (carry, at(0), jnp.int32(0)),
        [rows[in_loop] for rows in near],
        length=last,
        reverse=params["reverse"],
        unroll=TURNS_AT_ONCE,
    )
    carry, one = turn(carry, fetched, [rows[behind] for rows in near])
    parts = [(rows, row[None]) for rows, row in zip(many, one, strict=True)]
    in_order = [pair[::-1] for pair in parts] if params["reverse"] else parts
    return [*carry, *map(jnp.concatenate, in_order)]


def _first_sliced(equation: Equation) -> int:
    """A scan's inputs from here on are taken row by row."""
    return sum(scan_split(equation.params))


def _is_call(equation: Equation) -> bool:
    return equation.primitive.name in ("jit", "pjit")


def _whole(value: Any) -> Any:
    return value.here() if isinstance(value, _Far) else value

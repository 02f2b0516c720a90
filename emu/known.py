"""Arithmetic on numbers that are known while tracing, so that trip counts can be derived.

Only what counters and their bounds are made of: every rule takes numpy scalars and gives one, or
None where the answer is not known.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from emu.jaxprs import is_literal, needed_equations, opened, shape_of


def _truncated(a: Any, b: Any) -> Any:
    """Division as XLA does it: towards zero for integers."""
    if np.issubdtype(np.asarray(a).dtype, np.integer):
        return None if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return a / b


def _remainder(a: Any, b: Any) -> Any:
    return None if b == 0 else np.fmod(a, b)


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": _truncated,
    "rem": _remainder,
    "max": max,
    "min": min,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
    "ne": operator.ne,
    "shift_left": operator.lshift,
    "shift_right_arithmetic": operator.rshift,
}
_SAME = {
    "convert_element_type", "reshape", "squeeze", "broadcast_in_dim", "copy", "copy_p", "pvary",
    "stop_gradient", "transpose", "optimization_barrier", "sharding_constraint",
}  # fmt: skip


def fold(name: str, params: Mapping[str, Any], values: Sequence[Any], dtype: str) -> Any:
    """The number that a primitive gives for known numbers, as its dtype; None if not known."""
    if not values or any(v is None for v in values):
        return None
    if dtype not in np.sctypeDict:
        return None
    result = _plain(name, params, [np.asarray(v)[()] for v in values])
    return None if result is None else np.asarray(result).astype(dtype)[()]


def _plain(name: str, params: Mapping[str, Any], values: list[Any]) -> Any:
    """Without regard to the dtype; None for what is not one of these."""
    rule = _RULES.get(name)
    if rule is None:
        return None
    with np.errstate(all="ignore"):
        return rule(params, *values)


def _binary(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda _, a, b: function(a, b)


def _select(_: Mapping[str, Any], which: Any, *cases: Any) -> Any:
    return cases[int(which)] if 0 <= int(which) < len(cases) else None


_RULES: dict[str, Callable[..., Any]] = {
    **{name: lambda _, x, *__: x for name in _SAME},
    **{name: _binary(function) for name, function in _BINARY.items()},
    "neg": lambda _, x: -x,
    "not": lambda _, x: ~x,
    "integer_pow": lambda params, x: x ** params["y"],
    "select_n": _select,
    "clamp": lambda _, low, x, high: min(max(x, low), high),
}

_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "closed_call": "call_jaxpr",
}


def evaluate(jaxpr: Any, inputs: Sequence[Any], needed: Sequence[bool] | None = None) -> list[Any]:
    """A jaxpr's outputs for inputs of which some are known (None: not known)."""
    inner, consts = opened(jaxpr)
    wanted = [True] * len(inner.outvars) if needed is None else list(needed)
    env: dict[Any, Any] = dict(zip(inner.invars, inputs, strict=True))
    for var, const in zip(inner.constvars, consts, strict=True):
        array = np.asarray(const) if getattr(const, "size", 2) == 1 else None
        env[var] = None if array is None else array.reshape(())[()]

    def read(atom: Any) -> Any:
        if not is_literal(atom):
            return env.get(atom)
        return np.asarray(atom.val)[()] if np.ndim(atom.val) == 0 else None

    for eqn in needed_equations(inner, wanted):
        values = [read(atom) for atom in eqn.invars]
        name = str(eqn.primitive.name)
        if name in _CALLS:
            results = evaluate(eqn.params[_CALLS[name]], values)
        elif len(eqn.outvars) == 1 and shape_of(eqn.outvars[0].aval).size == 1:
            dtype = shape_of(eqn.outvars[0].aval).dtype
            results = [fold(name, eqn.params, values, dtype)]
        else:
            results = [None] * len(eqn.outvars)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in inner.outvars]

"""The only file that touches JAX's jaxpr internals: opening a function, walking, key paths.

JAX moves these between versions (a closed jaxpr became a jaxpr in 0.12, a scan's counts of
constants and carries became a tree), so that what the rest of emu needs to know is asked here.
"""

import dataclasses
import os
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core, source_info_util

from emu.errors import EmuError

Jaxpr = Any  # jax.extend.core.Jaxpr or ClosedJaxpr, whichever this JAX has
Equation = Any  # jax.extend.core.JaxprEqn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape and dtype of a value, which is all that an abstract interpreter knows of it."""

    dims: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Elements."""
        size = 1
        for n in self.dims:
            size *= n
        return size

    @property
    def bits(self) -> int:
        """Bits stored per element."""
        return bits_of(self.dtype)

    @property
    def integer(self) -> bool:
        """Whether it could be indices."""
        return self.dtype.startswith(("int", "uint"))

    @property
    def floating(self) -> bool:
        """Whether arithmetic on it is floating-point."""
        return is_floating(self.dtype)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A function's jaxpr, and which of its inputs came from which argument."""

    jaxpr: Jaxpr
    # For each input: the positional argument, the key path inside it, its shape.
    inputs: tuple[tuple[int, tuple[Any, ...], Shape], ...]


_SUB_BYTE = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}
_FLOATING: dict[str, bool] = {}
_NAMES: dict[Any, str] = {}


def hide_from_lines(file: str) -> None:
    """Equations are said to come from the first line outside such files."""
    source_info_util.register_exclusion(file)


hide_from_lines(__file__)


def bits_of(dtype: str) -> int:
    """Bits that one element takes in memory: 4 for int4, 8 for bool, 64 for a threefry key."""
    if dtype in _SUB_BYTE:
        return _SUB_BYTE[dtype]
    if dtype.startswith("key<"):
        return 128 if "rbg" in dtype else 64
    if dtype == "float0":
        return 0
    return int(jax.numpy.dtype(dtype).itemsize) * 8


def is_floating(dtype: str) -> bool:
    """Whether a dtype's arithmetic is floating-point (complex is)."""
    known = _FLOATING.get(dtype)
    if known is None:
        known = not dtype.startswith("key<") and bool(
            jax.numpy.issubdtype(jax.numpy.dtype(dtype), jax.numpy.inexact)
        )
        _FLOATING[dtype] = known
    return known


def key_path(path: tuple[Any, ...]) -> str:
    """`layers/0/mlp/up/kernel` from JAX's key path; NNX's trailing `.value` is dropped."""
    parts = [str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path]
    if parts and parts[-1] == "value":
        parts.pop()
    return "/".join(parts)


def open_program(
    fn: Callable[..., Any], args: Sequence[Any], trees: Collection[int] = ()
) -> Program:
    """Trace a function to its jaxpr.

    Arrays and `ShapeDtypeStruct`s in `args` are inputs, and so are Python's numbers except in the
    arguments `trees` (weights and cache), where they are settings. Everything else that is a leaf
    (an activation function in an Equinox module, a string, a bool) is part of the function.
    """
    flat, tree = jax.tree_util.tree_flatten_with_path(tuple(args))
    dynamic = [i for i, (path, leaf) in enumerate(flat) if _is_input(leaf, path[0].idx in trees)]
    leaves = [leaf for _, leaf in flat]

    def call(*values: Any) -> Any:
        filled = list(leaves)
        for i, value in zip(dynamic, values, strict=True):
            filled[i] = value
        return fn(*jax.tree_util.tree_unflatten(tree, filled))

    jaxpr = jax.make_jaxpr(call)(*(leaves[i] for i in dynamic))
    avals = [v.aval for v in jaxpr.jaxpr.invars]
    return Program(
        jaxpr=jaxpr,
        inputs=tuple(
            (flat[i][0][0].idx, flat[i][0][1:], shape_of(aval))
            for i, aval in zip(dynamic, avals, strict=True)
        ),
    )


def _is_input(leaf: Any, in_tree: bool) -> bool:
    if isinstance(leaf, int | float | complex) and not isinstance(leaf, np.generic):
        return not in_tree and not isinstance(leaf, bool)
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def shape_of(aval: Any) -> Shape:
    """The shape and dtype of an abstract value; a reference's is what it holds."""
    inner = getattr(aval, "inner_aval", aval)
    dims = getattr(inner, "shape", ())
    if not all(isinstance(n, int | np.integer) for n in dims):
        raise EmuError(f"emu.trace: {aval} has a symbolic dimension; trace it at one size")
    return Shape(dims=tuple(map(int, dims)), dtype=_dtype_name(inner))


def _dtype_name(aval: Any) -> str:
    dtype = getattr(aval, "dtype", None)
    name = _NAMES.get(dtype)
    if name is None:
        name = "float0" if dtype is None else str(getattr(dtype, "name", dtype))
        _NAMES[dtype] = name
    return name


def opened(jaxpr: Jaxpr) -> tuple[Any, tuple[Any, ...]]:
    """The jaxpr itself, and the constants that it was closed over."""
    return getattr(jaxpr, "jaxpr", jaxpr), tuple(getattr(jaxpr, "consts", ()))


def is_literal(atom: Any) -> bool:
    """Whether an equation's input is a constant written into it."""
    return isinstance(atom, core.Literal)


def needed_equations(jaxpr: Any, needed: Sequence[bool]) -> list[Equation]:
    """The equations that the needed outputs depend on, or that have effects; XLA drops the rest."""
    wanted = _kept(jaxpr, needed)
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(v in wanted for v in eqn.outvars):
            kept.append(eqn)
            wanted.update(v for v in eqn.invars if not is_literal(v))
    return kept[::-1]


def needed_outputs(jaxpr: Any, equations: Iterable[Equation], needed: Sequence[bool]) -> set[Any]:
    """The variables that are read by these equations or are needed outputs."""
    wanted = _kept(jaxpr, needed)
    for eqn in equations:
        wanted.update(v for v in eqn.invars if not is_literal(v))
    return wanted


def inputs_read(jaxpr: Jaxpr, needed: Sequence[bool] | None = None) -> list[bool]:
    """Which inputs the needed outputs (all, if not said) depend on."""
    inner, _ = opened(jaxpr)
    wanted = [True] * len(inner.outvars) if needed is None else needed
    read = needed_outputs(inner, needed_equations(inner, wanted), wanted)
    return [v in read for v in inner.invars]


def with_constants_first(jaxpr: Jaxpr) -> Jaxpr:
    """The same jaxpr with the constants that it is closed over as its first inputs."""
    inner, _ = opened(jaxpr)
    return inner.replace(constvars=[], invars=[*inner.constvars, *inner.invars])


def _kept(jaxpr: Any, needed: Sequence[bool]) -> set[Any]:
    outputs = zip(jaxpr.outvars, needed, strict=True)
    return {v for v, keep in outputs if keep and not is_literal(v)}


def scope_of(eqn: Equation) -> str:
    """The name scopes around an equation, `decoder/attention`, transformations left out."""
    stack = getattr(eqn.source_info.name_stack, "stack", ())
    return "/".join(entry.name for entry in stack if type(entry).__name__ == "Scope")


def line_of(eqn: Equation) -> str:
    """Where the user's code made an equation: `file.py:12 (function)`."""
    text = source_info_util.summarize(eqn.source_info)
    place, _, function = text.partition(" ")
    path, line, *_ = (*place.rsplit(":", 2), "", "")
    return f"{os.path.basename(path)}:{line} {function}".strip()


def lowered(eqn: Equation) -> Jaxpr:
    """The jaxpr that a high-level primitive (`call_hi_primitive`, from JAX 0.12) stands for."""
    primitive, params = eqn.primitive, eqn.params
    struct: Any = jax.ShapeDtypeStruct
    structs = [struct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    return jax.make_jaxpr(lambda *args: primitive.to_lojax(*args, **params))(*structs)


def scan_split(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many of a scan's inputs are constants, and how many are carried."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def bind(equation: Equation, inputs: Sequence[Any]) -> Sequence[Any]:
    """What the equation gives for these inputs, in the trace at hand."""
    found = equation.primitive.get_bind_params(equation.params)
    functions, params = found if isinstance(found, tuple) else ((), found)  # by JAX's version
    with equation.ctx.manager:
        outs = equation.primitive.bind(*functions, *inputs, **params)
    return outs if equation.primitive.multiple_results else [outs]


class WithoutConstants(NamedTuple):
    """A function's program with its constants apart, so that those alike otherwise are found."""

    key: Hashable  # equal for programs that are the same but for their constants
    run: Callable[..., Any]  # of the function's arguments and a tuple of constants
    constants: tuple[Any, ...]


def without_constants(fn: Callable[..., Any], *args: Any) -> WithoutConstants:
    """A function that gives one array, traced, with arrays and floating literals as arguments.

    Literals within loops and other inner programs stay where they are.
    """
    closed = jax.make_jaxpr(fn)(*args)
    jaxpr = closed.jaxpr
    names: dict[Any, int] = {}
    for variable in (*jaxpr.invars, *jaxpr.constvars):
        names[variable] = len(names)
    floats: list[Any] = []
    key: list[Hashable] = [tuple((c.shape, str(c.dtype)) for c in map(np.asarray, closed.consts))]

    def named(atom: Any) -> Hashable:
        if not isinstance(atom, core.Literal):
            return names[atom]
        if not _is_float(atom):
            return f"{atom.val!r}:{atom.aval}"
        floats.append(np.asarray(atom.val, _dtype(atom)))
        return f"constant:{atom.aval}"

    for equation in jaxpr.eqns:
        inputs = tuple(named(atom) for atom in equation.invars)
        for variable in equation.outvars:
            names[variable] = len(names)
        shapes = tuple(str(variable.aval) for variable in equation.outvars)
        key.append((equation.primitive.name, inputs, shapes, str(equation.params)))
    key.append(tuple(named(atom) for atom in jaxpr.outvars))

    def run(*given: Any) -> Any:
        *inputs, constants = given
        literals = iter(constants[len(closed.consts) :])
        values = dict(zip(jaxpr.constvars, constants, strict=False))
        values |= dict(zip(jaxpr.invars, inputs, strict=True))

        def value(atom: Any) -> Any:
            if not isinstance(atom, core.Literal):
                return values[atom]
            return next(literals) if _is_float(atom) else atom.val

        for equation in jaxpr.eqns:
            made = bind(equation, [value(atom) for atom in equation.invars])
            values |= dict(zip(equation.outvars, made, strict=True))
        return value(jaxpr.outvars[0])

    return WithoutConstants(key=tuple(key), run=run, constants=(*closed.consts, *floats))


def _dtype(literal: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(literal.aval.dtype)
    return dtype


def _is_float(literal: Any) -> bool:
    return bool(np.issubdtype(_dtype(literal), np.floating))

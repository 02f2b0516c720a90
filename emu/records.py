"""Registering a checked dataclass as a JAX pytree.

JAX rebuilds pytrees with whatever a transformation puts in place of the numbers: tracers, axis
numbers, None. `jax.tree_util.register_dataclass` does so through the constructor, whose checks
would refuse them; here a rebuilt record skips `__post_init__`, and one that a person writes does
not.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import numpy as np

T = TypeVar("T")
_NUMBERS = (float, int, np.number)


def is_number(value: Any) -> bool:
    """Whether it is a number, and neither traced nor an array."""
    return isinstance(value, _NUMBERS)


def pytree(*, static: tuple[str, ...] = ()) -> Callable[[type[T]], type[T]]:
    """Registers a frozen dataclass: the fields named `static` are structure, the others leaves."""

    def register(cls: type[T]) -> type[T]:
        names = tuple(f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]
        assert set(static) <= set(names), (static, names)
        _register(cls, tuple(n for n in names if n not in static), static)
        return cls

    return register


def _register(cls: type[T], data: tuple[str, ...], meta: tuple[str, ...]) -> None:
    def structure(record: T) -> tuple[Any, ...]:
        return tuple(getattr(record, name) for name in meta)

    def flatten(record: T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(record, name) for name in data), structure(record)

    def flatten_with_keys(record: T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        keyed = tuple((jax.tree_util.GetAttrKey(n), getattr(record, n)) for n in data)
        return keyed, structure(record)

    def unflatten(statics: tuple[Any, ...], children: Iterable[Any]) -> T:
        record = object.__new__(cls)
        for name, value in (*zip(data, children, strict=True), *zip(meta, statics, strict=True)):
            object.__setattr__(record, name, value)
        return record

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)

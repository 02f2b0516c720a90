"""What a sweep goes over: works by batch and context, and systems by their numbers."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import jax
import numpy as np

from emu.chips import Sourced
from emu.design.counts import Array
from emu.errors import EmuError
from emu.rules import nearest
from emu.sensitivity import name_of
from emu.system import System
from emu.work import Work


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkGrid:
    """Steps of one function at every batch and context, and at every shape besides.

    `work(batch=…, context=…, **shape)` traces one step of so many sequences in all, each with so
    many tokens in the cache. It is called for a few batches and contexts; the counts of the others
    lie between (`emu.design.cells`). `shapes` are what is traced apart for each value: formats of
    weights, models. A step gives one token of each sequence.
    """

    work: Callable[..., Work]
    batch: Sequence[int]
    context: Sequence[int]
    shapes: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("batch", "context"):
            given = getattr(self, name)
            several = isinstance(given, Iterable)
            whole = several and all(isinstance(value, int | np.integer) for value in given)
            values = [int(value) for value in given] if whole else []
            if not values or values != sorted(set(values)):
                said = list(given) if several else given
                raise EmuError(f"design: {name} must be rising whole numbers, not {said}")
            object.__setattr__(self, name, tuple(values))
        for name, of_shape in self.shapes.items():
            if isinstance(of_shape, str) or not isinstance(of_shape, Sized):
                raise EmuError(f"design: shapes: {name!r} is a list of values, not {of_shape!r}")
            if not len(of_shape):
                raise EmuError(f"design: shapes: {name!r} has no values")
        if self.batch[0] < 1 or self.context[0] < 0:
            raise EmuError("design: batches are at least 1 and contexts at least 0")

    def each_shape(self) -> Iterator[dict[str, Any]]:
        """One value of each of `shapes`, in order, the last going round first."""
        names = list(self.shapes)
        sizes = [len(self.shapes[name]) for name in names]
        for at in np.ndindex(*sizes):
            yield {name: self.shapes[name][i] for name, i in zip(names, at, strict=True)}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SystemGrid:
    """A system at many values of some of its numbers.

    `numbers`: arrays of equal length by name, as `emu.sensitivity` names them
    (`chip/hbm/bandwidth_bytes_per_s`, `stack/per_step_s`); `product` makes them of every
    combination. What is not named stays as it is in `system`.
    """

    system: System
    numbers: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    name: str = ""  # in tables; default: the chip's, with how many and how it is split

    def __post_init__(self) -> None:
        numbers = {key: _floats(key, value) for key, value in self.numbers.items()}
        known = dict(numbers_of(self.system))
        for key, values in numbers.items():
            if key not in known:
                raise EmuError(f"design: a system has no number {key!r}{nearest(key, known)}")
            if values.ndim != 1 or not values.size:
                raise EmuError(f"design: {key!r} needs a row of values, not shape {values.shape}")
            if not np.all(np.isfinite(values)) or np.any(values < 0):
                raise EmuError(f"design: {key!r} has values that are negative or not finite")
            if values.size and key.rpartition("/")[2] not in _MAY_BE_ZERO and values.min() <= 0:
                raise EmuError(f"design: {key!r} must be above 0")
        if len({values.size for values in numbers.values()}) > 1:
            sizes = {key: values.size for key, values in numbers.items()}
            raise EmuError(f"design: all numbers need equally many values, not {sizes}")
        object.__setattr__(self, "numbers", numbers)
        object.__setattr__(self, "name", self.name or label(self.system))

    @classmethod
    def product(cls, system: System, axes: Mapping[str, Array], name: str = "") -> "SystemGrid":
        """Every combination of the axes' values, the last axis going round first."""
        made = np.meshgrid(*[_floats(key, a) for key, a in axes.items()], indexing="ij")
        numbers = {key: values.ravel() for key, values in zip(axes, made, strict=True)}
        return cls(system=system, numbers=numbers, name=name)

    def check(self) -> None:
        """Raises EmuError where a value is none that a chip or a stack may have (a share of 2)."""
        for of in (np.min, np.max):
            check_numbers(
                with_numbers(self.system, {k: float(of(v)) for k, v in self.numbers.items()})
            )

    def __len__(self) -> int:
        return next((values.size for values in self.numbers.values()), 1)

    def rows(self, which: slice | Array) -> "SystemGrid":
        """Some of the systems."""
        numbers = {key: values[which] for key, values in self.numbers.items()}
        return dataclasses.replace(self, numbers=numbers)

    def with_arrays(self) -> System:
        """The system with an array in place of each number that varies."""
        return with_numbers(self.system, self.numbers)

    def one(self, at: int) -> System:
        """One of the systems, of plain numbers."""
        return with_numbers(self.system, {k: float(v[at]) for k, v in self.numbers.items()})


_MAY_BE_ZERO = frozenset(
    {
        "per_step_s", "per_sequence_s", "per_kernel_s", "per_routing_s", "per_exchange_s",
        "prefetch_bytes", "unpack_flops", "exposed_latency", "log_error", "reserve_share",
        "kernel_s", "latency_s",
    }
)  # fmt: skip


def label(system: System) -> str:
    """A system in a few words: `8 x h100, tensor 8, vllm-0.19`."""
    degrees = [
        f"{name} {getattr(system, name)}"
        for name in ("tensor", "pipeline", "expert", "data")
        if getattr(system, name) > 1
    ]
    return ", ".join([f"{system.chips} x {system.chip.name}", *degrees, system.software.name])


def numbers_of(system: System) -> list[tuple[str, Any]]:
    """(name, value) of every number of a system."""
    found = jax.tree_util.tree_flatten_with_path(system, is_leaf=_is_sourced)[0]
    return [(name_of(system, path), n.value) for path, n in found if _is_sourced(n)]


def with_numbers(system: System, numbers: Mapping[str, Any]) -> System:
    """The system with other values of the numbers that are named. EmuError: no such number."""
    found, structure = jax.tree_util.tree_flatten_with_path(system, is_leaf=_is_sourced)
    names = [name_of(system, path) for path, _ in found]
    if unknown := sorted(set(numbers) - set(names)):
        raise EmuError(f"design: a system has no number {unknown[0]!r}{nearest(unknown[0], names)}")
    new = [
        dataclasses.replace(node, value=numbers[name], low=None, high=None)
        if name in numbers
        else node
        for name, (_, node) in zip(names, found, strict=True)
    ]
    return jax.tree_util.tree_unflatten(structure, new)  # type: ignore[no-any-return]


def check_numbers(system: System) -> None:
    """Raises EmuError where a number is none that its chip or its stack may have.

    `with_numbers` leaves that open, since traced numbers are known to nobody.
    """
    chip = system.chip
    for part in (*chip.memories, *chip.links, chip, system.software):
        dataclasses.replace(part)  # type: ignore[type-var]  # each checks itself when it is made


def _floats(name: str, values: Any) -> Array:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise EmuError(f"design: {name!r} has values that are no numbers: {values!r}") from error


def _is_sourced(node: Any) -> bool:
    return isinstance(node, Sourced)

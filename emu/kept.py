"""What is made once for some objects, and kept for as long as all of them live.

Objects are known by identity: they are frozen, and comparing works of a thousand ops would take
longer than what is kept. An object that goes takes its entries along before its `id` is another's.
"""

import functools
import weakref
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")
_Key = tuple[Hashable, ...]


class Kept(Generic[T]):
    """Values by the objects that they were made for, and by what else decides them."""

    def __init__(self) -> None:
        self._values: dict[_Key, tuple[tuple[weakref.ref[object], ...], T]] = {}

    def find(self, *objects: object, by: Hashable = None) -> T | None:
        """The value for these very objects; None if there is none yet."""
        found = self._values.get((by, *map(id, objects)))
        return None if found is None else found[1]

    def keep(self, value: T, *objects: object, by: Hashable = None) -> T:
        """The value, which `find` gives from now on."""
        key = (by, *map(id, objects))
        forget = functools.partial(self._forget, key)
        self._values[key] = tuple(weakref.ref(one, forget) for one in objects), value
        return value

    def _forget(self, key: _Key, _: object) -> None:
        self._values.pop(key, None)

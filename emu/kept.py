"""What is made once for some objects, and kept for as long as all of them live.

Objects are known by identity: they are frozen, and comparing works of a thousand ops would take
longer than what is kept. So what they hold (a chip's dict of peaks, too) must not be changed in
place once it was asked for: `dataclasses.replace` makes another. An object that goes takes its
entries along.
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
        if found is None:
            return None
        for ref, one in zip(found[0], objects, strict=True):
            if ref() is not one:  # another had this `id`, and was not told of when it went
                return None
        return found[1]

    def keep(self, value: T, *objects: object, by: Hashable = None) -> T:
        """The value, which `find` gives from now on."""
        key = (by, *map(id, objects))
        forget = functools.partial(self._forget, key)
        self._values[key] = tuple(weakref.ref(one, forget) for one in objects), value
        return value

    def _forget(self, key: _Key, _: object) -> None:
        self._values.pop(key, None)

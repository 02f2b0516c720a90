"""What a jaxpr cannot say, told by the caller: trip counts, tokens in the cache, routing.

    emu.trace(step, w, cache, token, cache=1, hints={"context": 2000})

Where a hint may differ from place to place it is one number for all of them, or a mapping from
patterns to numbers. Patterns are shell-style (`*decoder/layers*`), matched against the name scope
and the source line (`generate.py:41 (step)`) for loops and conds, and against the leaf's key path
for the cache and the experts; the first that matches wins.
"""

import dataclasses
import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from emu.errors import EmuError
from emu.rules import nearest
from emu.work import Leaf

Places = int | float | Mapping[str, int | float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hints:
    """See the module's docstring."""

    context: int | None = None  # tokens in the cache; without it, the allocated length is charged
    context_axis: Places | None = (
        None  # the cache leaves' axis of tokens, if updates do not show it
    )
    trip_counts: Places | None = None  # of while loops whose end depends on data
    branches: Places | None = None  # which branch of a cond runs (without it: the costliest)
    experts: Places | None = None  # distinct experts that one step touches, by leaf

    def __post_init__(self) -> None:
        if self.context is not None and (not _is_count(self.context) or self.context < 0):
            raise EmuError(f"hints: context must be a count of tokens, not {self.context!r}")
        for field in ("context_axis", "trip_counts", "branches", "experts"):
            value = getattr(self, field)
            for number in value.values() if isinstance(value, Mapping) else (value,):
                good = isinstance(number, int | float) and not isinstance(number, bool)
                if number is not None and not good:
                    raise EmuError(f"hints: {field} must hold numbers, not {number!r}")

    @staticmethod
    def of(hints: "Hints | Mapping[str, Any] | None") -> "Hints":
        """From what the caller passed; unknown names are refused with the nearest right one."""
        if hints is None:
            return Hints()
        if isinstance(hints, Hints):
            return hints
        names = [field.name for field in dataclasses.fields(Hints)]
        for name in hints:
            if name not in names:
                near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)[0]
                raise EmuError(
                    f"hints: there is no {name!r}; did you mean {near!r}? "
                    f"({', '.join(names)} are the hints)"
                )
        return Hints(**hints)

    def check(self, leaves: Sequence[Leaf]) -> None:
        """Raises EmuError where a pattern for leaves matches none."""
        for field, kind in (("context_axis", "cache"), ("experts", "weights")):
            paths = [leaf.path for leaf in leaves if leaf.kind == kind]
            value = getattr(self, field)
            for pattern in value if isinstance(value, Mapping) else ():
                if not fnmatch.filter(paths, pattern):
                    raise EmuError(
                        f"hints: {field} of {pattern!r}, which matches no leaf"
                        + nearest(pattern, paths)
                    )

    def at(self, field: str, *places: str) -> int | float | None:
        """The number given for a place known by these names, or None."""
        value = getattr(self, field)
        if not isinstance(value, Mapping):
            return value  # type: ignore[no-any-return]
        for pattern, number in value.items():
            if any(fnmatch.fnmatchcase(place, pattern) for place in places):
                return number  # type: ignore[no-any-return]
        return None


def _is_count(n: Any) -> bool:
    return isinstance(n, int) and not isinstance(n, bool)

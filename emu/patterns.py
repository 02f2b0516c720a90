"""Patterns over key paths: which leaves, and which rows of a stacked leaf, a rule speaks of.

A path is segments joined by `/`. In a pattern `*` stands for anything within one segment, `?` for
one character, `**` for any number of segments, none included. `name[i]`, `name[a:b]` choose by
position among what `name` holds: of the list or dict form `name/7/…` the numbered members, of the
stacked form, where one array holds all of them, rows of its leading axis.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable

from emu.errors import EmuError
from emu.work import Leaf

_INDEX = re.compile(r"(-?\d+)?(?P<colon>:)?((?<=:)-?\d+)?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """One part of a pattern between slashes."""

    text: str
    glob: re.Pattern[str]
    index: int | slice | None = None

    def chosen(self, count: int) -> range:
        """The positions that `[…]` chooses among `count`, as Python's indexing does."""
        if isinstance(self.index, slice):
            return range(count)[self.index]
        assert self.index is not None
        at = self.index + count if self.index < 0 else self.index
        return range(at, at + 1) if 0 <= at < count else range(0)


@functools.lru_cache(maxsize=4096)
def parse(pattern: str) -> tuple[Segment, ...]:
    """The segments of a pattern. Raises EmuError where it is not well formed."""
    if not isinstance(pattern, str) or not pattern.strip("/ "):
        raise EmuError(
            f"rule pattern {pattern!r} is empty: write key paths such as 'layers/*/mlp/**'"
        )
    return tuple(_segment(text, pattern) for text in pattern.strip("/").split("/"))


def _segment(text: str, pattern: str) -> Segment:
    name, bracket, rest = text.partition("[")
    index = _index(rest.removesuffix("]")) if bracket and rest.endswith("]") else None
    if "]" in name or (bracket and (index is None or name == "**")):
        raise EmuError(
            f"rule pattern {pattern!r}: cannot read {text!r}; write name[3], name[:20], name[20:] "
            "or name[4:8]"
        )
    if not name:
        raise EmuError(f"rule pattern {pattern!r} has an empty segment")
    if "**" in name and name != "**":
        raise EmuError(f"rule pattern {pattern!r}: '**' must stand alone between slashes")
    glob = "".join({"*": "[^/]*", "?": "[^/]"}.get(c, re.escape(c)) for c in name)
    return Segment(text=text, glob=re.compile(glob, re.DOTALL), index=index)


def _index(text: str) -> int | slice | None:
    found = _INDEX.fullmatch(text)
    if found is None:
        return None
    first, last = (int(n) if n else None for n in (found[1], found[3]))
    return slice(first, last) if found["colon"] else first


class Members:
    """How many numbered members each path prefix has, which `[-3:]` needs to know."""

    def __init__(self, leaves: Iterable[Leaf]) -> None:
        last: dict[str, int] = {}
        for leaf in leaves:
            parts = leaf.path.split("/")
            for at, part in enumerate(parts):
                if part.isdecimal():
                    prefix = "/".join(parts[:at])
                    last[prefix] = max(last.get(prefix, -1), int(part))
        self._count = {prefix: n + 1 for prefix, n in last.items()}

    def count(self, prefix: str) -> int:
        """One more than the highest number below this prefix, or 0."""
        return self._count.get(prefix, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
    """What of a leaf a pattern names: the rows of a stacked leaf, or (None) all of it."""

    rows: range | None = None


def match(pattern: str, leaf: Leaf, members: Members) -> Match | None:
    """What of this leaf the pattern names, or None.

    Raises EmuError where two indices fall on one stacked leaf, which has one leading axis.
    """
    return _match(parse(pattern), tuple(leaf.path.split("/")), 0, leaf, members)


def _match(
    segments: tuple[Segment, ...], parts: tuple[str, ...], at: int, leaf: Leaf, members: Members
) -> Match | None:
    if not segments:
        return Match() if at == len(parts) else None
    head, rest = segments[0], segments[1:]
    if head.text == "**":
        tries = (_match(rest, parts, skip, leaf, members) for skip in range(at, len(parts) + 1))
        return next((found for found in tries if found is not None), None)
    if at == len(parts) or not head.glob.fullmatch(parts[at]):
        return None
    if head.index is None:
        return _match(rest, parts, at + 1, leaf, members)
    return _match_indexed(segments, parts, at, leaf, members)


def _match_indexed(
    segments: tuple[Segment, ...], parts: tuple[str, ...], at: int, leaf: Leaf, members: Members
) -> Match | None:
    head, rest = segments[0], segments[1:]
    if at + 1 < len(parts) and parts[at + 1].isdecimal():
        chosen = head.chosen(members.count("/".join(parts[: at + 1])))
        return _match(rest, parts, at + 2, leaf, members) if int(parts[at + 1]) in chosen else None
    rows = head.chosen(leaf.shape[0]) if leaf.shape else range(0)
    found = _match(rest, parts, at + 1, leaf, members) if rows else None
    if found is None:
        return None
    if found.rows is not None:
        raise EmuError(
            f"rule pattern: {head.text!r} and a later index both fall on the stacked leaf "
            f"{leaf.path!r} {leaf.shape}, which can only be split along its leading axis"
        )
    return Match(rows=rows)

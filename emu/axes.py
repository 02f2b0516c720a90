"""Which dimensions of a program's values walk the same entries.

Every dimension of every value is a tuple of logical axes, major first, whose sizes multiply to the
dimension. `Factors` holds them while a program is read: axes found to be the same are *unified*
(union-find), and an axis that a reshape cuts (5120 into 40 heads of 128) is *refined*, everywhere,
into axes whose product it is. An axis is named by a number; what the number stands for is asked
with `atoms`, as late as possible, since axes only ever get finer and more alike. A dimension of
length 1 has no axes.
"""

from collections.abc import Iterable, Sequence

Ids = tuple[int, ...]  # axes whose product something walks, major first
Dims = tuple[Ids, ...]  # the axes of each dimension of a value


class Factors:
    """The axes so far."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._into: list[Ids | None] = []  # what an axis has become; None: it is an atom
        # Of axes made by a concatenation: where each part lies, so that a slice finds it again.
        self._parts: dict[int, list[tuple[int, int, Ids]]] = {}
        self._slices: list[tuple[Ids, int, int, int, Ids]] = []
        self._joins: list[tuple[Ids, tuple[Ids, ...]]] = []

    def new(self, size: int) -> Ids:
        """An axis of its own."""
        if size == 1:
            return ()
        self._sizes.append(size)
        self._into.append(None)
        return (len(self._sizes) - 1,)

    def fresh(self, dims: Iterable[int]) -> Dims:
        """An axis of its own for each dimension."""
        return tuple(self.new(n) for n in dims)

    def atoms(self, ids: Ids) -> Ids:
        """The finest axes that these have become, major first."""
        into = self._into
        for i in ids:
            if into[i] is not None:
                break
        else:
            return ids
        found: list[int] = []
        for i in ids:
            became = into[i]
            if became is None:
                found.append(i)
                continue
            became = self.atoms(became)
            into[i] = became
            found += became
        return tuple(found)

    def size(self, ids: Ids) -> int:
        """The length of a dimension that walks these."""
        length = 1
        for i in ids:
            length *= self._sizes[i]
        return length

    def unify(self, first: Ids, second: Ids) -> None:
        """These walk the same entries: dimensions of equal length.

        Axes are cut to match. Where they cannot be (6 × 4 against 4 × 6), they stay apart up to
        where both have walked as far.
        """
        if first == second:
            return
        a, b = list(self.atoms(first))[::-1], list(self.atoms(second))[::-1]
        while a and b:
            x, y = self._popped(a), self._popped(b)
            if x == y:
                continue
            m, n = self._sizes[x], self._sizes[y]
            if m == n:
                self._join(x, y)
            elif n and m % n == 0:
                a += self._cut(x, (y, *self.new(m // n)))[:0:-1]
            elif m and n % m == 0:
                b += self._cut(y, (x, *self.new(n // m)))[:0:-1]
            else:
                while m != n:
                    if not (a if m < n else b):
                        return
                    if m < n:
                        m *= self._sizes[self._popped(a)]
                    else:
                        n *= self._sizes[self._popped(b)]

    def unify_all(self, first: Dims, second: Dims) -> None:
        """Dimension by dimension, those of equal length."""
        for a, b in zip(first, second, strict=True):
            self.unify(a, b)

    def split(self, ids: Ids, lengths: Sequence[int]) -> Dims | None:
        """A dimension cut into several, major first; None where its axes cannot be cut so."""
        left = list(self.atoms(ids))[::-1]
        found: list[Ids] = []
        for length in lengths:
            taken: list[int] = []
            need = length
            while need != 1:
                if not left or need == 0:
                    return None
                x = self._popped(left)
                n = self._sizes[x]
                if n and need % n == 0:
                    taken.append(x)
                    need //= n
                elif n and n % need == 0:
                    first, rest = self._cut(x, (*self.new(need), *self.new(n // need)))
                    taken.append(first)
                    left.append(rest)
                    need = 1
                else:
                    return None
            found.append(tuple(taken))
        return tuple(found)

    def sliced(self, ids: Ids, length: int, start: int, stop: int, stride: int) -> Ids:
        """The axes of a part of a dimension of that length, at a place known while tracing.

        A part that was concatenated is found again. If slices tile the dimension evenly (the halves
        of a rotated head, gate and up in one matrix), then it turns out in `settle` to be two axes.
        """
        count = len(range(start, stop, stride))
        if count == length and stride == 1:
            return ids
        now = self.atoms(ids)
        if stride == 1 and len(now) == 1:
            for first, last, part in self._parts.get(now[0], ()):
                if (first, last) == (start, stop):
                    return part
        made = self.new(count)
        if made:
            self._slices.append((ids, length, start, stride, made))
        return made

    def concatenated(self, parts: Sequence[Ids | None], lengths: Sequence[int]) -> Ids:
        """The axes of parts laid one after the other; None: a part without axes of its own."""
        made = self.new(sum(lengths))
        if not made:
            return made
        places = []
        start = 0
        for part, length in zip(parts, lengths, strict=True):
            if part is not None:
                places.append((start, start + length, part))
            start += length
        self._parts[made[0]] = places
        if len(set(lengths)) == 1 and None not in parts:
            self._joins.append((made, tuple(part for part in parts if part is not None)))
        return made

    def settle(self) -> None:
        """Say what slices and concatenations that tile a dimension evenly have in common."""
        tiles: dict[tuple[Ids, int, int], dict[int, list[Ids]]] = {}
        for ids, length, start, stride, made in self._slices:
            of_one = tiles.setdefault((self.atoms(ids), stride, self.size(made)), {})
            of_one.setdefault(start, []).append(made)
            assert length == self.size(ids)
        for (ids, stride, count), made_at in tiles.items():
            self._tile(ids, stride, count, made_at)
        for made, parts in self._joins:
            first = self.atoms(parts[0])
            if all(self.atoms(part) == first for part in parts):
                halves = self.split(made, (len(parts), self.size(first)))
                if halves is not None:
                    self.unify(halves[1], first)
        self._slices.clear()
        self._joins.clear()

    def _tile(self, ids: Ids, stride: int, count: int, made_at: dict[int, list[Ids]]) -> None:
        length = self.size(ids)
        if count == 0 or length % count:
            return
        if stride == 1 and set(made_at) >= set(range(0, length, count)):
            both = self.split(ids, (length // count, count))
            within = None if both is None else both[1]
            starts = range(0, length, count)
        elif stride > 1 and stride * count == length and set(made_at) >= set(range(stride)):
            both = self.split(ids, (count, stride))
            within = None if both is None else both[0]
            starts = range(stride)
        else:
            return
        if within is not None:
            for start in starts:
                for made in made_at[start]:
                    self.unify(made, within)

    def _popped(self, stack: list[int]) -> int:
        """The next atom; what has been cut meanwhile is put back in pieces."""
        while True:
            top = self.atoms((stack.pop(),))
            stack += top[:0:-1]
            return top[0]

    def _cut(self, axis: int, parts: Ids) -> Ids:
        self._into[axis] = parts
        return parts

    def _join(self, x: int, y: int) -> None:
        keep, gone = min(x, y), max(x, y)
        self._into[gone] = (keep,)
        if gone in self._parts:
            self._parts.setdefault(keep, self._parts[gone])


def together(dims: Iterable[Ids]) -> Ids:
    """All axes of some dimensions, each once."""
    return tuple(dict.fromkeys(i for ids in dims for i in ids))

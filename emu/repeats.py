"""Finding what repeats in a sequence, such as equal layers written out one after the other."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

_LONGEST_PERIOD = 512  # kernels in one repeat of a pattern that is looked for


def repeats_in(keys: Sequence[Hashable]) -> list[tuple[int, int, int]]:
    """The things as (start, stop of one repeat, repeats), layers written out folded into one.

    Takes the longest stretch that repeats a pattern, then what is before and after it.
    """
    numbers: dict[Hashable, int] = {}
    ids = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
    return _split(ids, 0, len(keys))


def _split(ids: Any, start: int, stop: int) -> list[tuple[int, int, int]]:
    if stop <= start:
        return []
    best = (0, start, 1, 1)  # rows saved, start, period, repeats
    for period in range(1, min(_LONGEST_PERIOD, (stop - start) // 2) + 1):
        same = ids[start : stop - period] == ids[start + period : stop]
        turns = np.flatnonzero(np.diff(np.concatenate(([0], same.view(np.int8), [0]))))
        for begin, end in turns.reshape(-1, 2):
            repeats = (end - begin) // period + 1
            saved = int((repeats - 1) * period)
            if saved > best[0]:
                best = (saved, start + int(begin), period, int(repeats))
    saved, first, period, repeats = best
    if not saved:
        return [(start, stop, 1)]
    return [
        *_split(ids, start, first),
        (first, first + period, repeats),
        *_split(ids, first + period * repeats, stop),
    ]

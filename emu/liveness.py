"""The most bytes of activations that are alive at once.

A buffer lives from the op that makes it (an argument: from the start; a loop's stacked output: from
the loop's start) to the last op that reads it, and to the end of a loop that reads it from outside.
What never leaves a kernel takes no memory; an update in place takes no memory of its own. Weights
and cache are not activations.
"""

from collections.abc import Collection, Mapping, Sequence

from emu.fusing import Fused
from emu.tape import Tape
from emu.values import Buffer


def peak_bytes(
    fused: Sequence[Fused],
    tape: Tape,
    arguments: Sequence[Buffer],
    *,
    in_cache: Collection[Buffer] = (),
) -> int:
    """Peak over the ops in order, in bytes.

    `arguments` are alive from the start; buffers `in_cache` lie where a cache leaf does.
    """
    position = {id(f.entry): i for i, f in enumerate(fused)}
    ends = _region_ends(fused, tape)
    start: dict[Buffer, int] = {tape.home(b): -1 for b in arguments}
    end: dict[Buffer, int] = dict.fromkeys(start, -1)
    region = {tape.home(b): 0 for b in arguments}
    for buffer, entry_index in tape.born.items():
        later = [position[id(e)] for e in tape.entries[entry_index:] if id(e) in position]
        home = tape.home(buffer)
        start[home], region[home] = min(later, default=len(fused)), 0
        end[home] = start[home]
    made_inside = {
        t.tensor
        for f in fused
        for t in f.entry.writes
        if isinstance(t.tensor, Buffer) and t not in f.writes
    }
    for i, f in enumerate(fused):
        for t in f.writes:
            if isinstance(t.tensor, Buffer):
                home = tape.home(t.tensor)
                start[home] = min(start.get(home, i), i)
                region.setdefault(home, f.entry.region)
                end[home] = max(end.get(home, i), i)
        used = [t.tensor for t in f.entry.reads if isinstance(t.tensor, Buffer)] + f.entry.after
        for buffer in used:
            if buffer in made_inside:
                continue
            home = tape.home(buffer)
            if home in start:
                path = tape.paths[f.entry.region]
                inner = path[path.index(region[home]) + 1 :] if region[home] in path else ()
                end[home] = max(end[home], i, *(ends[r] for r in inner if r in ends))
    for buffer in tape.escaping:
        home = tape.home(buffer)
        if home in start:
            r = region[home]
            end[home] = max(end[home], len(fused) if r == 0 else ends.get(r, end[home]))
    start = {buffer: first for buffer, first in start.items() if buffer not in in_cache}
    return _peak(start, end, len(fused))


def _region_ends(fused: Sequence[Fused], tape: Tape) -> dict[int, int]:
    """The last op of each loop's body, inner loops included."""
    ends: dict[int, int] = {}
    for i, f in enumerate(fused):
        for r in tape.paths[f.entry.region]:
            ends[r] = i
    return ends


def _peak(start: Mapping[Buffer, int], end: Mapping[Buffer, int], ops: int) -> int:
    change = [0] * (ops + 3)
    for buffer, first in start.items():
        size = -(-buffer.shape.size * buffer.shape.bits // 8)
        change[first + 1] += size
        change[end[buffer] + 2] -= size
    alive = peak = 0
    for delta in change:
        alive += delta
        peak = max(peak, alive)
    return peak

"""Cache leaves that a step makes anew: the states of recurrent layers, of convolutions.

An update in place says itself which leaf it writes. A state that is computed whole (decayed, rolled
on) only comes out of the function, in the place of the one that went in. So where a cache leaf is
neither updated nor handed on, and a result of its shape and dtype is new, that result is taken to
be the leaf's next content: it lives where the leaf does, and is written and read there. Of several
such results the last ones are taken, in the leaves' order, as in `return output, state`.
"""

from collections.abc import Iterable, Sequence

from emu.tape import Tape
from emu.values import Buffer, Stored, Value

States = dict[Buffer, Stored]


def new_states(
    cache: Sequence[Stored], results: Sequence[Value], arguments: Iterable[Buffer], tape: Tape
) -> States:
    """The buffers in which cache leaves' next contents are made."""
    kept: set[object] = {t.tensor for entry in tape.entries for t in entry.writes}
    kept |= {value.stored.tensor for value in results if value.stored is not None}
    taken = {tape.home(buffer) for buffer in arguments}
    states: States = {}
    free = list(results)
    for leaf in reversed(cache):
        if leaf in kept:
            continue
        for value in reversed(free):
            buffer = _made_whole(value, leaf, tape)
            if buffer is not None and buffer not in taken:
                states[buffer] = leaf
                free.remove(value)
                break
    return states


def _made_whole(value: Value, leaf: Stored, tape: Tape) -> Buffer | None:
    """The buffer that a result is all of, if it could be this leaf's next content."""
    if (value.shape.dims, value.shape.dtype) != (leaf.leaf.shape, leaf.leaf.dtype):
        return None
    if value.computed or len(value.sources) != 1:
        return None
    source = value.sources[0]
    if not isinstance(source.tensor, Buffer) or source.elements != source.tensor.shape.size:
        return None
    return tape.home(source.tensor)

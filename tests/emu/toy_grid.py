"""A decoder's steps by batch and context, small enough to trace in a moment."""

import functools

import numpy as np
import toy_decoder
from toy_decoder import Toy

import emu
from emu.design import SystemGrid, WorkGrid, numbers_of


@functools.cache
def toy_work(*, batch: int, context: int, layers: int = 2, dtype: str = "bfloat16") -> emu.Work:
    toy = Toy(batch=batch, length=context + 1, layers=layers, heads=8, kv_heads=8, dtype=dtype)
    step = functools.partial(toy_decoder.step, toy)
    return emu.trace(
        step,
        toy.weights(stacked=True),
        toy.cache(stacked=True),
        *toy.tokens(),
        weights=0,
        cache=1,
        hints=emu.Hints(context=context),
    )


def toy_grid(batch=(1, 2, 4, 8), context=(16, 32, 100, 1000), **shapes) -> WorkGrid:
    return WorkGrid(work=toy_work, batch=batch, context=context, shapes=shapes)


def varied(system: emu.System, count: int, seed: int = 0, but: str = "share") -> SystemGrid:
    """Every finite number of the chip at random between half and one and a half of what it is."""
    rng = np.random.default_rng(seed)
    numbers = {
        name: value * rng.uniform(0.5, 1.5, count)
        for name, value in numbers_of(system)
        if name.startswith("chip/") and but not in name and 0 < value < np.inf
    }
    return SystemGrid(system=system, numbers=numbers)

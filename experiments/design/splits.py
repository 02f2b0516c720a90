"""Which systems of one chip a search for the best split tries.

A layer goes over 1, 2, 4, … ranks at once (the width). A dense model splits every matrix over all
of them: replicas of it only repeat what one does with its part of the batch. A mixture of experts
may keep each expert whole on one rank, and may then give attention to replicas that share those
experts: of width = tensor × data ranks, all data degrees are tried. Stages are as few as hold the
model with the smallest, and with the largest, batch's caches (`experiments.usual_split`).
"""

from collections.abc import Iterator, Sequence

import emu
from emu.design import label
from experiments.deployment import Served
from experiments.design.stepped import decode_grid
from experiments.errors import ExperimentError
from experiments.placing import rules_of
from experiments.usual_split import Asked, placed
from models.zoo import architecture

WIDTHS = (1, 2, 4, 8, 16, 32, 64)


def ways(width: int, experts: int) -> Iterator[Asked]:
    """Splits of a layer over so many ranks; experts: of a layer, 0 where it is dense."""
    yield Asked(tensor=width)
    if experts and width > 1 and experts % width == 0:
        data = 1
        while data <= width:
            yield Asked(tensor=width // data, expert=width, data=data)
            data *= 2


def systems(
    served: Served, chip: emu.Chip, stack: emu.Stack, batches: Sequence[int], context: int
) -> tuple[emu.System, ...]:
    """All that hold the model, each once."""
    config = architecture(served.model).config
    rules = rules_of(None, chip)
    found: dict[str, emu.System] = {}
    for width in WIDTHS:
        for asked in ways(width, config.experts.count if config.experts else 0):
            shared = shared_evenly(batches, asked.data)
            for batch in dict.fromkeys((*shared[:1], *shared[-1:])):

                def work(_: emu.System, batch: int = batch) -> emu.Work:
                    grid = decode_grid(served, (batch,), (context,))
                    return grid.work(batch=batch, context=context)

                try:
                    _, placement = placed(work, chip, stack, asked, rules, config.layers)
                except (emu.EmuError, ExperimentError):
                    continue  # not of this width; where none is left, the caller says so
                found.setdefault(label(placement.system), placement.system)
    return tuple(found.values())


def shared_evenly(batches: Sequence[int], replicas: int) -> tuple[int, ...]:
    """The batches that so many replicas can share."""
    return tuple(batch for batch in batches if batch % replicas == 0)


def degrees(system: emu.System) -> str:
    """How a model is spread, in few letters: `8 chips: t2 d4 e8`."""
    split = [
        f"{name[0]}{getattr(system, name)}"
        for name in ("tensor", "pipeline", "data", "expert")
        if getattr(system, name) > 1
    ]
    chips = f"{system.chips} chip{'' if system.chips == 1 else 's'}"
    return f"{chips}: {' '.join(split)}" if split else chips

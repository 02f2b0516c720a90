"""The smallest number of chips, and the split over them, that holds a work.

All tensor degrees that the work's axes allow are tried, each with the fewest pipeline stages in
which the fullest one fits, which bisection finds since more stages never hold more. The data and
expert degrees stay as they were asked for.
"""

import dataclasses
from collections.abc import Callable, Sequence

from emu.capacity import Room, stage_rooms
from emu.errors import EmuError
from emu.filling import Filled, Policy, fill
from emu.ranks import Ranks, layout
from emu.rules import Rule
from emu.splits import Split
from emu.spreading import Shares, shares
from emu.system import System
from emu.work import Work

_LARGEST_TENSOR = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """A number of chips and degrees that multiply to it."""

    chips: int
    tensor: int
    pipeline: int
    expert: int
    data: int

    def __str__(self) -> str:
        degrees = {name: getattr(self, name) for name in ("tensor", "pipeline", "expert", "data")}
        given = " x ".join(f"{name}={n}" for name, n in degrees.items() if n > 1)
        return f"{self.chips} chips" + (f" as {given}" if given else "")


def smallest(
    work: Work,
    system: System,
    rules: Sequence[Rule | Sequence[str]] | Policy | str,
    splits: tuple[Split, ...] = (),
    activations: str | None = None,
) -> Fit | None:
    """The fewest chips that hold the work; None where no split does.

    Of splits over equally many chips, the one of the system's own tensor degree, or else of the
    largest.
    """
    asked = system.ranks
    assert asked is not None
    best: tuple[int, bool, int] | None = None
    found: Fit | None = None
    for tensor in _tensors(asked):
        ranks = _like(asked, tensor)
        if ranks is None or (best is not None and ranks.count > best[0] * asked.per_chip):
            continue
        try:
            made = shares(work, ranks, splits, system.software)
        except EmuError:
            continue

        def fits(count: int, made: Shares = made, ranks: Ranks = ranks) -> bool:
            return _fits(work, system, rules, activations, made, ranks, count)

        pipeline = _fewest(fits, sum(bool(part.rows) for part in made.parts))
        if pipeline is None:
            continue
        fit = _fit(system, ranks, pipeline)
        if fit is None:
            continue
        rank = (fit.chips, tensor != asked.tensor, -tensor)
        if best is None or rank < best:
            best, found = rank, fit
    return found


def _tensors(asked: Ranks) -> list[int]:
    powers = {1 << n for n in range(_LARGEST_TENSOR.bit_length())}
    return sorted({*range(1, 65), *powers, asked.tensor})


def _like(asked: Ranks, tensor: int) -> Ranks | None:
    """The same mesh with another tensor degree and one stage."""
    if asked.regrouped and (tensor * asked.data) % asked.expert:
        return None
    per_expert = tensor * asked.data // asked.expert if asked.regrouped else tensor
    return dataclasses.replace(asked, tensor=tensor, pipeline=1, per_expert=per_expert)


def _fits(
    work: Work,
    system: System,
    rules: Sequence[Rule | Sequence[str]] | Policy | str,
    activations: str | None,
    made: Shares,
    ranks: Ranks,
    count: int,
) -> bool:
    rooms: tuple[Room, ...] = stage_rooms(
        system, ranks, made.stages(work, count), made.rank_bytes, made.peak_activation_bytes
    )
    filled: Filled = fill(work, system, rules, rooms, activations)
    return not filled.over


def _fewest(fits: Callable[[int], bool], most: int) -> int | None:
    """The smallest count up to `most` that fits, where larger counts fit if smaller ones do."""
    if most < 1 or not fits(most):
        return None
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        if fits(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _fit(system: System, ranks: Ranks, pipeline: int) -> Fit | None:
    """Chips for so many stages; None where the degrees would be laid out otherwise."""
    while True:
        count = ranks.count * pipeline
        if count % ranks.per_chip == 0:
            break
        pipeline += 1
    chips = count // ranks.per_chip
    try:
        same = layout(
            chips=chips,
            cores=system.chip.cores,
            tensor=ranks.tensor,
            pipeline=pipeline,
            expert=ranks.expert,
            data=ranks.data,
        )
    except EmuError:
        return None
    if same is not None and same != dataclasses.replace(ranks, pipeline=pipeline):
        return None
    return Fit(
        chips=chips, tensor=ranks.tensor, pipeline=pipeline, expert=ranks.expert, data=ranks.data
    )

"""How many chips, and how a model is spread over them, where the question does not say.

The smallest usual number of chips that holds the weights, the cache and the activations:

- wafers that are a mesh of cores hold a model in a pipeline, a stage a wafer (Cerebras);
- chips that hold weights in small SRAMs work in tensor groups of 8, in a pipeline (Groq), and in
  wider groups only where a stage of one layer does not fit 8;
- all others split each layer over 1, 2, 4, … chips, as many as one link joins, and put more such
  groups in a pipeline.

A chip whose cores are devices of their own has a rank on each. What the question does say is kept,
and the rest found around it. Splits that a model does not divide by are passed over.
"""

import dataclasses
from collections.abc import Callable, Iterator

import emu
from experiments.errors import ExperimentError
from experiments.placing import Rules, runs_from_sram

_SRAM_GROUP = 8  # a GroqNode's processors, all wired to each other
_WIDEST = 64  # beyond it nobody splits a layer's heads
_ENDS = 2  # embedding and head may be stages of their own
_LARGEST = 4  # splits that are looked at where none is large enough: not all of them are possible


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What the question says of the split; None: it does not."""

    chips: int | None = None
    tensor: int | None = None
    pipeline: int | None = None
    expert: int | None = None
    data: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class _Candidate:
    """One split; the order is that in which they are tried."""

    beyond: int  # 0: a usual one; else how wide its groups are
    chips: int  # of all replicas
    minus_tensor: int  # wider groups first: their steps are shorter
    pipeline: int


def placed(
    work: Callable[[emu.System], emu.Work],
    chip: emu.Chip,
    stack: emu.Stack,
    asked: Asked,
    rules: str | Rules,
    layers: int,
) -> tuple[emu.Work, emu.Placement]:
    """The work on the first usual system that holds it.

    Args:
      work: what is traced for a system; differs only between those that spread it and those that
        do not (replicas of a chip each).
      chip, stack, asked: the system, as far as it is known.
      rules: as `emu.place` takes them.
      layers: of the model.

    Raises:
      CapacityError: it fits no usual system, or not the one that was asked for.
      EmuError, ExperimentError: a split that is impossible; unknown names.
    """
    refused: emu.EmuError | None = None
    full: emu.System | None = None
    least = _fewest(work(emu.System(chip, stack=stack)), chip, stack, rules)
    for candidate in _candidates(chip, asked, layers, least):
        try:
            system = emu.System(
                chip,
                chips=candidate.chips,
                tensor=-candidate.minus_tensor,
                pipeline=candidate.pipeline,
                expert=asked.expert or 1,
                data=asked.data,
                stack=stack,
            )
            # What is over is only looked at: the error's search for a way out is for the last one.
            traced = work(system)
            found = emu.place(traced, system, rules, allow_overflow=True)
        except emu.EmuError as error:
            refused = refused or error
            continue
        if not found.excess_bytes:
            return traced, found
        full = system
    if full is not None:
        emu.place(work(full), full, rules)  # raises, and says what is over
    assert refused is not None
    raise refused


def _candidates(chip: emu.Chip, asked: Asked, layers: int, at_least: int) -> list[_Candidate]:
    """Splits around what was asked, from `at_least` chips a replica on, in the order to try them.

    Raises ExperimentError where there is none.
    """
    every = sorted(_splits(chip, asked, layers))
    # Replicas have all the weights each, but for experts that are spread over all of them.
    copies = asked.data if (asked.expert or 1) == 1 else 1
    enough = [c for c in every if c.chips >= at_least * copies]
    if not every:
        said = ", ".join(
            f"--{name}={value}"
            for name, value in dataclasses.asdict(asked).items()
            if value is not None and (name != "data" or value > 1)
        )
        raise ExperimentError(
            f"no split of {chip.name} has {said}: tensor x pipeline x data must multiply to the "
            "chips; give --tensor and --pipeline"
        )
    return enough or every[-_LARGEST:]


def _splits(chip: emu.Chip, asked: Asked, layers: int) -> Iterator[_Candidate]:
    usual = usual_width(chip)
    for tensor in _tensors(chip, asked):
        for pipeline in _pipelines(chip, asked, layers):
            ranks = tensor * pipeline * asked.data
            experts_apart = ranks * (asked.expert or 1)
            # Groups of experts are of these ranks where those go into them, else each has its own.
            apart = ranks if ranks % (asked.expert or 1) == 0 else experts_apart
            chips = asked.chips or (apart // chip.cores if apart % chip.cores == 0 else apart)
            fixed = asked.tensor is not None and asked.pipeline is not None
            if not fixed and not {ranks, experts_apart} & {chips, chips * chip.cores}:
                continue
            # A pipeline is of the widest groups only; narrower ones stand alone.
            narrow = asked.tensor is None and asked.pipeline is None and asked.chips is None
            if narrow and pipeline > 1 and tensor < usual:
                continue
            yield _Candidate(
                beyond=tensor if tensor > usual and asked.tensor is None else 0,
                chips=chips,
                minus_tensor=-tensor,
                pipeline=pipeline,
            )


def _tensors(chip: emu.Chip, asked: Asked) -> list[int]:
    if asked.tensor is not None:
        return [asked.tensor]
    usual = usual_width(chip)
    is_wider = runs_from_sram(chip) and usual > 1
    wider = [usual << n for n in range(1, 5)] if is_wider else []
    if asked.chips is not None:
        return [*range(1, usual + 1), *wider]
    doubled = [1 << n for n in range(usual.bit_length())]
    return sorted({*doubled, usual, *wider})


def _pipelines(chip: emu.Chip, asked: Asked, layers: int) -> list[int]:
    if asked.pipeline is not None:
        return [asked.pipeline]
    return list(range(1, layers + _ENDS + 1)) if chip.links else [1]


def usual_width(chip: emu.Chip) -> int:
    """Ranks over which one layer is usually split, at most."""
    between = [link for link in chip.links if link.scope == "chips"]
    if not between or chip.mesh is not None:
        return chip.cores
    joined = between[0].nodes or _SRAM_GROUP
    return min(joined * chip.cores, _SRAM_GROUP if runs_from_sram(chip) else _WIDEST)


def _fewest(work: emu.Work, chip: emu.Chip, stack: emu.Stack, rules: str | Rules) -> int:
    """Chips below which the weights alone are more than the memories have."""
    kept = 1.0 - stack.reserve_share.value
    named = chip.memories
    if isinstance(rules, str) and rules != "fit":
        named = (chip.memory(rules),)
    room = sum(int(memory.capacity_bytes.value * kept) for memory in named)
    held = sum(leaf.bytes for leaf in work.leaves if leaf.kind == "weights")
    return max(1, -(-held // max(1, room)))

"""How many chips, and how a model is spread over them, where the question does not say.

The smallest usual number of chips that holds the weights, the cache and the activations:

- wafers that are a mesh of cores hold a model in a pipeline, a stage a wafer (Cerebras);
- chips that hold weights in small SRAMs work in tensor groups of 8, in a pipeline (Groq);
- all others split each layer over 1, 2, 4, … chips, as many as one link joins, and put more such
  groups in a pipeline.

What the question does say is kept, and the rest found around it. Splits that a model does not
divide by are passed over.
"""

import dataclasses
from collections.abc import Iterator

import emu
from experiments.errors import ExperimentError
from experiments.placing import Rules, runs_from_sram

_SRAM_GROUP = 8  # a GroqNode's processors, all wired to each other
_MOST_CHIPS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What the question says of the split; None: it does not."""

    chips: int | None = None
    tensor: int | None = None
    pipeline: int | None = None
    expert: int | None = None
    data: int = 1


def placed(
    work: emu.Work, chip: emu.Chip, stack: str, asked: Asked, rules: str | Rules, layers: int
) -> emu.Placement:
    """The work on the first usual system that holds it.

    Raises:
      CapacityError: it fits no usual system, or not the one that was asked for.
      EmuError, ExperimentError: a split that is impossible; unknown names.
    """
    refused: emu.EmuError | None = None
    too_small: emu.CapacityError | None = None
    for system in systems(chip, stack, asked, layers, at_least=_fewest(work, chip, stack, rules)):
        try:
            return emu.place(work, system, rules)
        except emu.CapacityError as error:
            too_small = error
        except emu.EmuError as error:
            refused = refused or error
    if too_small is not None:
        raise too_small
    if refused is not None:
        raise refused
    raise ExperimentError(
        f"no usual split of {chip.name} has {asked}: give --chips, --tensor and --pipeline"
    )


def systems(
    chip: emu.Chip, stack: str, asked: Asked, layers: int, at_least: int = 1
) -> Iterator[emu.System]:
    """Usual systems around what was asked, from `at_least` chips a replica on; smallest first."""
    if asked.chips is not None and asked.tensor is not None and asked.pipeline is not None:
        yield _system(chip, stack, asked, asked.chips, asked.tensor, asked.pipeline)
        return
    splits = [
        (tensor * pipeline, -tensor, pipeline)
        for tensor in _tensors(chip, asked)
        for pipeline in _pipelines(chip, asked, layers)
    ]
    if asked.chips is not None:
        ranks = {asked.chips * n for n in (1, chip.cores)}
        wanted = [s for s in splits if s[0] * asked.data in ranks]
    else:
        wanted = [s for s in splits if at_least <= s[0] <= _MOST_CHIPS] or splits[-1:]
        wanted = [s for s in wanted if _is_usual(chip, -s[1], s[2], asked)]
    if not wanted:
        raise ExperimentError(_why_none(asked, chip))
    for ranks_each, minus_tensor, pipeline in sorted(wanted):
        chips = asked.chips or ranks_each * asked.data
        yield _system(chip, stack, asked, chips, -minus_tensor, pipeline)


def _tensors(chip: emu.Chip, asked: Asked) -> list[int]:
    if asked.tensor is not None:
        return [asked.tensor]
    most = widest(chip)
    if asked.chips is not None:
        ranks = {asked.chips * n // asked.data for n in (1, chip.cores)}
        return [t for t in range(1, most + 1) if any(n % t == 0 for n in ranks)]
    doubled = [1 << n for n in range(most.bit_length()) if 1 << n <= most]
    return sorted({*doubled, most})


def _pipelines(chip: emu.Chip, asked: Asked, layers: int) -> list[int]:
    if asked.pipeline is not None:
        return [asked.pipeline]
    if chip.links:
        return list(range(1, layers + 1))
    return [1]


def _is_usual(chip: emu.Chip, tensor: int, pipeline: int, asked: Asked) -> bool:
    """A pipeline is of the widest groups only; narrower ones stand alone."""
    given = asked.tensor is not None or asked.pipeline is not None
    return given or pipeline == 1 or tensor == widest(chip)


def widest(chip: emu.Chip) -> int:
    """Chips over which one layer is usually split, at most."""
    between = [link for link in chip.links if link.scope == "chips"]
    if not between or any(link.scope == "on-chip" for link in chip.links):
        return 1
    nodes = between[0].nodes or _SRAM_GROUP
    return min(nodes, _SRAM_GROUP) if runs_from_sram(chip) else min(nodes, 64)


def _fewest(work: emu.Work, chip: emu.Chip, stack: str, rules: str | Rules) -> int:
    """Chips below which the bytes alone are more than the memories have."""
    kept = 1.0 - emu.stack(stack).reserve_share.value
    named = chip.memories
    if isinstance(rules, str) and rules != "fit":
        named = (chip.memory(rules),)
    room = sum(int(memory.capacity_bytes.value * kept) for memory in named)
    held = sum(leaf.bytes for leaf in work.leaves if leaf.kind == "weights")
    return max(1, -(-held // max(1, room)))


def _system(
    chip: emu.Chip, stack: str, asked: Asked, chips: int, tensor: int, pipeline: int
) -> emu.System:
    return emu.System(
        chip,
        chips=chips,
        tensor=tensor,
        pipeline=pipeline,
        expert=asked.expert or 1,
        data=asked.data,
        stack=stack,
    )


def _why_none(asked: Asked, chip: emu.Chip) -> str:
    said = ", ".join(
        f"--{name}={value}"
        for name, value in dataclasses.asdict(asked).items()
        if value is not None and (name != "data" or value > 1)
    )
    return (
        f"no split of {chip.name} has {said or 'so many chips'}: tensor x pipeline x data must "
        "multiply to the chips; give --tensor and --pipeline"
    )

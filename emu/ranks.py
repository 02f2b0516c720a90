"""How the ranks of a system are laid out: a mesh of replicas, stages, experts and tensor ranks.

A rank is what software sees as one device: a chip, or one of a chip's cores where the degrees
multiply to chips x cores. Experts are spread in one of two ways. Where tensor x pipeline x data
makes up all ranks, `expert` regroups the tensor x data ranks of a stage: experts go to `expert`
groups of them, and each expert's inner width is split within a group, so that a group may take
in tokens of several replicas. Where tensor x expert x pipeline x data makes up all ranks, `expert`
is an axis of the mesh of its own: whatever is not an expert is replicated along it.
"""

import dataclasses
import functools

from emu.errors import EmuError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranks:
    """See the module. All fields are static counts."""

    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    data: int = 1
    per_expert: int = 1  # ranks among which the inner width of one expert is split
    regrouped: bool = False  # experts are spread over the tensor x data ranks of a stage
    per_chip: int = 1  # ranks on each chip

    @property
    def stage(self) -> int:
        """Ranks in one pipeline stage of one replica."""
        return self.tensor * (1 if self.regrouped else self.expert)

    @property
    def count(self) -> int:
        """All ranks."""
        return self.stage * self.pipeline * self.data

    @property
    def gathers_replicas(self) -> bool:
        """Whether an expert's tokens come from more than one replica."""
        return self.regrouped and self.data > 1


@functools.cache
def layout(
    *, chips: int, cores: int, tensor: int, pipeline: int, expert: int, data: int
) -> Ranks | None:
    """The mesh of these degrees; None: they spread nothing, and the chips are a pool.

    Ranks are chips where that makes the degrees come out, cores otherwise; `expert` regroups ranks
    where that does, and is an axis of its own otherwise.

    Raises:
      EmuError: the degrees do not multiply to the chips, or to their cores.
    """
    if tensor == pipeline == expert == 1:
        return None
    for per_chip in sorted({1, cores}):
        ranks = chips * per_chip
        if tensor * pipeline * data == ranks and (tensor * data) % expert == 0:
            return Ranks(
                tensor=tensor,
                pipeline=pipeline,
                expert=expert,
                data=data,
                per_expert=tensor * data // expert if expert > 1 else tensor,
                regrouped=expert > 1,
                per_chip=per_chip,
            )
        if tensor * expert * pipeline * data == ranks:
            return Ranks(
                tensor=tensor,
                pipeline=pipeline,
                expert=expert,
                data=data,
                per_expert=tensor,
                per_chip=per_chip,
            )
    given = f"tensor={tensor} x pipeline={pipeline} x expert={expert} x data={data}"
    or_cores = f" of {cores} cores" if cores > 1 else ""
    regrouped = (
        f", or {tensor * pipeline * data} ranks that go in {expert} equal groups,"
        if expert > 1
        else ""
    )
    raise EmuError(
        f"system: {given} is {tensor * pipeline * expert * data} ranks{regrouped} and there are "
        f"{chips} chips{or_cores}: the degrees must multiply to the chips"
    )

"""What the rows of a HumanEval run say, by dtype and placement, over its tasks.

Each row is one answer: its time to first token (TTFT), the gaps between its tokens (ITL) and its
time per output token after the first (TPOT). TTFT and TPOT are spread over tasks; ITL over the gaps
of all tasks together, as a user meets them.
"""

import dataclasses
import statistics
from collections.abc import Iterable

import emu
from experiments.results import Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """One row: one task answered once."""

    task: str
    dtype: str
    placement: str
    label: str  # of the placement: says so where it overflows
    backend: str  # JAX's
    on_chip: str  # the names of the two memories
    off_chip: str
    weight_bytes: int
    on_chip_bytes: int
    excess_bytes: int
    prompt_tokens: int
    new_tokens: int
    ttft_s: float
    tpot_s: float
    ttft_disturbed: bool
    metered: bool  # False: nothing is known of disturbance
    gaps_s: tuple[float, ...]
    gaps_disturbed: tuple[int, ...]  # their numbers
    disturbed: int  # of the gaps and the first token


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """The answers in one dtype and one placement."""

    dtype: str
    placement: str
    answers: tuple[Answer, ...]

    @property
    def label(self) -> str:
        """What to call its placement."""
        return self.answers[0].label

    @property
    def ttft(self) -> emu.Latency:
        """Over tasks, each of which is one sample."""
        times = [a.ttft_s for a in self.answers]
        return emu.Latency.of(times, [a.ttft_disturbed for a in self.answers])

    @property
    def itl(self) -> emu.Latency:
        """Over the gaps of all tasks together."""
        gaps = [gap for a in self.answers for gap in a.gaps_s]
        marks = [
            number in a.gaps_disturbed for a in self.answers for number in range(len(a.gaps_s))
        ]
        return emu.Latency.of(gaps, marks)

    @property
    def tpot_s(self) -> float:
        """Median over tasks."""
        return statistics.median(a.tpot_s for a in self.answers)

    @property
    def widens_first(self) -> bool:
        """Whether the first token waits for weights to be written out in float32.

        A prompt's tokens go through ordinary products, before which XLA:CPU widens narrower weights
        in memory; the native products of a decode step widen them on the way.
        """
        return self.dtype != "float32" and all(a.backend == "cpu" for a in self.answers)


def answered(row: Row) -> Answer:
    """The answer of a `humaneval` row."""
    m = row["measured"]
    itl = m["itl"]
    own = {f.name for f in dataclasses.fields(Answer)} & set(m)
    return Answer(
        **{name: m[name] for name in own - {"gaps_s", "gaps_disturbed"}},
        backend=row["machine"]["backend"],
        gaps_s=tuple(m["gaps_s"]),
        gaps_disturbed=tuple(m["gaps_disturbed"]),
        disturbed=itl["disturbed_count"] + m["ttft"]["disturbed_count"],
        ttft_s=m["ttft"]["median_s"],
        ttft_disturbed=m["ttft"]["disturbed"],
        metered=itl["metered"] and m["ttft"]["metered"],
    )


def groups(answers: Iterable[Answer]) -> list[Group]:
    """Answers by dtype and placement, in the order in which they first appear."""
    found: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        found.setdefault((answer.dtype, answer.placement), []).append(answer)
    return [
        Group(dtype=dtype, placement=placement, answers=tuple(members))
        for (dtype, placement), members in found.items()
    ]

"""What the rows of a HumanEval run say, by dtype and placement, over its tasks.

Each row is one answer: its time to first token (TTFT), the gaps between its tokens (ITL) and its
time per output token after the first (TPOT). Over tasks, medians of these are given.
"""

import dataclasses
import statistics
from collections.abc import Iterable

import emu
from experiments.cliff_summary import samples
from experiments.results import Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """One row: one task answered once."""

    task: str
    dtype: str
    placement: str
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
    itl_median_s: float
    itl_p10_s: float
    itl_p90_s: float
    itl_p99_s: float
    itl_p99_all_s: float  # of the disturbed gaps too
    itl_count: int  # gaps that those are of
    gaps: int  # all
    disturbed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """How many timings are spread; `p99_all_s` is of the disturbed ones too."""

    median_s: float
    p10_s: float
    p90_s: float
    p99_s: float
    p99_all_s: float
    count: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """The answers in one dtype and one placement."""

    dtype: str
    placement: str
    answers: tuple[Answer, ...]

    @property
    def ttft_s(self) -> float:
        """Median over the tasks whose own was not disturbed, or over all where every one was."""
        return self.ttft.median_s

    @property
    def ttft(self) -> Spread:
        """Over tasks, each of which is one sample."""
        times = [a.ttft_s for a in self.answers]
        found = emu.Latency.of(times, [a.ttft_disturbed for a in self.answers])
        return Spread(
            median_s=found.median_s,
            p10_s=found.p10_s,
            p90_s=found.p90_s,
            p99_s=found.p99_s,
            p99_all_s=found.p99_all_s,
            count=found.count,
        )

    @property
    def itl(self) -> Spread:
        """Medians over tasks of each one's median, p10 and p90; the worst of their p99."""
        return Spread(
            median_s=self.itl_s,
            p10_s=statistics.median(a.itl_p10_s for a in self.answers),
            p90_s=statistics.median(a.itl_p90_s for a in self.answers),
            p99_s=self.itl_p99_s,
            p99_all_s=max(a.itl_p99_all_s for a in self.answers),
            count=sum(a.itl_count for a in self.answers),
        )

    @property
    def tpot_s(self) -> float:
        """Median over tasks."""
        return statistics.median(a.tpot_s for a in self.answers)

    @property
    def itl_s(self) -> float:
        """Median over tasks of each one's median gap."""
        return statistics.median(a.itl_median_s for a in self.answers)

    @property
    def itl_p99_s(self) -> float:
        """The worst of the tasks' p99."""
        return max(a.itl_p99_s for a in self.answers)


def answered(row: Row) -> Answer:
    """The answer of a `humaneval` row."""
    m = row["measured"]
    itl = m["itl"]
    own = {f.name for f in dataclasses.fields(Answer)} & set(m)
    return Answer(
        **{name: m[name] for name in own},
        itl_median_s=itl["median_s"],
        itl_p10_s=itl["p10_s"],
        itl_p90_s=itl["p90_s"],
        itl_p99_s=itl["p99_s"],
        itl_p99_all_s=itl["p99_all_s"],
        itl_count=itl["count"],
        gaps=samples(itl),
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

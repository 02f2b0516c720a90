"""Step times of one deployment as a table, which a simulation can ask a million times a second.

Entries are direct predictions, made as `experiments.predict` makes them (trace, spread, place,
clock), over sequences × context for decode steps and over tokens × prefix for chunks of a prompt.
Between them seconds are interpolated bilinearly: attention reads a cache once, so that the context
and the prefix are straight lines. `checked` says how far that is off between the entries.

In a pipeline the sequences take turns: n of them cross its stages as batches of n / stages, one
behind the other, so that no stage waits, and a token takes what a batch of n / stages takes. Chunks
of a prompt follow each other through the stages alike. Stages of unequal length, which make others
wait, are not modelled. Prompts go in chunks of the size, up to 2,048 tokens, at which a token takes
least: an SRAM has no room for the activations of a long one.
"""

import bisect
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

import emu
from experiments.cases import prefilling
from experiments.deployment import Deployment, Hardware
from experiments.errors import ExperimentError
from experiments.placing import rules_of, runs_from_sram
from experiments.prediction import CHUNK, parts_of
from experiments.question import Question
from experiments.ranges import Moved, range_of
from experiments.steps_traced import decode_work, prefill_work

Array = NDArray[np.float64]

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
TOKENS = (1, 64, 128, 192, 256, 512, 1024, CHUNK)
_CONTEXTS = (0.005, 0.25, 1.0)  # of the window
_PREFIXES = (0.0, 0.25, 0.98)
_TYPICAL = (4, 0.25)  # sequences and share of the window at which ranges are taken


@dataclasses.dataclass(frozen=True, kw_only=True)
class Room:
    """What the fullest chip holds, as bytes that grow with the sequences and their tokens."""

    fixed_bytes: float  # weights and activations
    sequence_bytes: float  # of each sequence, however short
    token_bytes: float  # of each token of each sequence, on this chip
    capacity_bytes: float
    all_token_bytes: float  # of each token, over all chips: what is moved when a cache is moved

    @property
    def free_bytes(self) -> float:
        """What is left for caches."""
        return max(0.0, self.capacity_bytes - self.fixed_bytes)

    def needed_bytes(self, tokens: float) -> float:
        """Bytes of one sequence's cache on the fullest chip."""
        return self.sequence_bytes + tokens * self.token_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Seconds over two rising axes."""

    rows: tuple[float, ...]
    columns: tuple[float, ...]
    seconds: tuple[tuple[float, ...], ...]

    def at(self, row: float, column: float) -> float:
        """Bilinear between the entries; beyond the last ones along their slope, never below 0."""
        i, x = _between(self.rows, row)
        j, y = _between(self.columns, column)
        upper, lower = self.seconds[i], self.seconds[i + 1]
        first = upper[j] + y * (upper[j + 1] - upper[j])
        second = lower[j] + y * (lower[j + 1] - lower[j])
        return max(0.0, first + x * (second - first))

    def over(self, rows: Any, columns: Any) -> Array:
        """`at` for arrays."""
        points = np.stack(np.broadcast_arrays(rows, columns), axis=-1).astype(np.float64)
        found: Array = np.maximum(0.0, self._surface(points)).reshape(points.shape[:-1])
        return found

    def scaled(self, factor: float) -> "Grid":
        """The same with all seconds times a factor."""
        seconds = tuple(tuple(s * factor for s in row) for row in self.seconds)
        return dataclasses.replace(self, seconds=seconds)

    @functools.cached_property
    def _surface(self) -> RegularGridInterpolator:
        axes = (np.asarray(self.rows), np.asarray(self.columns))
        return RegularGridInterpolator(
            axes, np.asarray(self.seconds), bounds_error=False, fill_value=None
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Elastic:
    """A number of a chip or a stack that has a range, and what it does to a typical step."""

    name: str
    kind: str
    value: float
    low: float
    high: float
    elasticity: float  # d log(step) / d log(number), between the ends of its range


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepTimes:
    """See the module. `low` and `high`: the 80 % range of a typical step, over the step."""

    decode: Grid  # sequences that cross together × tokens in each one's cache
    prefill: Grid  # tokens at once × tokens before them, alone
    beside: Grid  # the same in steps that decode other sequences, beside those
    chunk: int  # tokens of a prompt that go together
    stages: int
    chips: int
    room: Room
    power_w: float
    host_bytes_per_s: float  # at which all chips together read caches from their hosts
    low: float
    high: float
    system: str  # for people: chips and split
    moved: tuple[Elastic, ...]  # numbers with a range that the typical step depends on
    checked: tuple[tuple[str, float], ...]  # points between the rows, and how far off they are

    def step_s(self, sequences: float, context: float) -> float:
        """Seconds of a decode step of so many sequences of this mean context."""
        return self.decode.at(max(1.0, sequences / self.stages), context)

    def steps_s(self, sequences: Any, context: Any) -> Array:
        """`step_s` for arrays."""
        return self.decode.over(np.maximum(1.0, np.asarray(sequences) / self.stages), context)

    def prefill_s(self, tokens: Any, prefix: Any, *, beside: bool = False) -> Array:
        """Seconds of prompts, each behind a prefix that is in the cache already; arrays.

        beside: what they add to steps that decode others; else alone.
        """
        grid = self.beside if beside else self.prefill
        tokens, prefix = np.asarray(tokens, np.float64), np.asarray(prefix, np.float64)
        chunk = self.chunk
        whole = np.floor(tokens / chunk)
        rest = tokens - whole * chunk
        first = grid.over(np.clip(tokens, 1, chunk), prefix)
        # Chunks grow evenly with what is before them: all of them take as the middle one.
        total = whole * grid.over(chunk, prefix + chunk * (whole - 1) / 2)
        total += np.where(rest > 0, grid.over(np.maximum(rest, 1), prefix + whole * chunk), 0)
        return np.where(tokens > 0, first + (total - first) / self.stages, 0.0)

    def at_end(self, end: str) -> "StepTimes":
        """The table at an end of its range: `typical` (as it is), `low` or `high`.

        Every step and every chunk of a prompt is taken to be as far off as the typical step.
        """
        factor = {"typical": 1.0, "low": self.low, "high": self.high}[end]
        return dataclasses.replace(
            self,
            decode=self.decode.scaled(factor),
            prefill=self.prefill.scaled(factor),
            beside=self.beside.scaled(factor),
        )

    def with_hosts(self, hardware: Hardware) -> "StepTimes":
        """The table with this rate of caches from the hosts, where the hardware says one."""
        given = hardware.host_bytes_per_s_per_chip
        return dataclasses.replace(self, host_bytes_per_s=given * self.chips) if given else self

    @property
    def worst(self) -> float:
        """The largest error of the table between its rows."""
        return max((abs(error) for _, error in self.checked), default=0.0)


def step_times(of: Deployment) -> StepTimes:
    """The table of a deployment.

    Raises:
      CapacityError: it does not hold the sequences that it has to; says how many chips would do.
      EmuError, ModelError, ExperimentError: as `experiments.prediction.predicted`.
    """
    asked = of.question
    part = parts_of(asked)[0]
    clock = _Clock(question=asked, system=part.placement.system, drafted=of.drafted)
    system = clock.system
    stages = system.pipeline
    window = of.window_tokens - of.drafted - 1
    contexts = tuple(int(share * window) for share in _CONTEXTS)
    batches = BATCHES if stages == 1 else BATCHES[:5]
    decode = _grid(clock.decode_s, clock.decode_fits, batches, contexts)
    prefixes = tuple(int(share * window) for share in _PREFIXES)
    every = _grid(clock.chunk_s, lambda *_: True, TOKENS, prefixes)
    at = min(range(1, len(TOKENS)), key=lambda i: max(every.seconds[i]) / TOKENS[i])
    prefill = dataclasses.replace(every, rows=every.rows[: at + 1], seconds=every.seconds[: at + 1])
    busy = dataclasses.replace(system, stack=prefilling(system.software))
    among = functools.partial(clock.chunk_s, system=busy)
    beside = _grid(among, lambda *_: True, TOKENS[: at + 1], prefixes)
    batch, context = _TYPICAL[0], int(_TYPICAL[1] * window)
    spread = range_of(functools.partial(clock.decode_s, batch, context), system)
    typical = clock.decode_s(batch, context)
    return StepTimes(
        decode=decode,
        prefill=prefill,
        beside=beside,
        chunk=TOKENS[at],
        stages=stages,
        chips=system.chips,
        room=_room(clock, window),
        power_w=_power_w(of, system),
        host_bytes_per_s=_host_bytes_per_s(of, system),
        low=spread.low_s / typical,
        high=spread.high_s / typical,
        system=_named(system),
        moved=tuple(_elastic(m, typical) for m in spread.moved),
        checked=tuple(_checked(clock, decode, prefill, window)),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Clock:
    """Direct predictions on one system. One replica's, whose rules are those of the question."""

    question: Question
    system: emu.System
    drafted: int

    def decode_s(self, batch: float, context: float, system: emu.System | None = None) -> float:
        """A decode step."""
        return self._seconds(self._decode(int(batch), int(context)), system)

    def chunk_s(self, tokens: float, prefix: float, system: emu.System | None = None) -> float:
        """A chunk of a prompt of one sequence."""
        asked = self.question
        work = prefill_work(
            asked.model,
            asked.weights,
            asked.kv,
            batch=1,
            context=int(prefix),
            tokens=int(tokens),
        )
        return self._seconds(work, system)

    def decode_fits(self, batch: float, context: float) -> bool:
        """Whether its cache and activations are where those of a short sequence are."""
        placement = self._placed(self._decode(int(batch), int(context)))
        small = self._placed(self._decode(1, 1))
        return not placement.excess_bytes and placement.activations == small.activations

    def held(self, batch: int, context: int) -> tuple[str, tuple[int, ...]]:
        """The memory that caches are in, and bytes of it on a chip of each pipeline stage."""
        placement = self._placed(self._decode(batch, context))
        memory = next(r.memory for r in placement.residencies if r.leaf.kind == "cache")
        ranks = self.system.ranks
        if ranks is None:
            return memory, (placement.fullest_chip_bytes[memory],)
        return memory, tuple(ranks.per_chip * held[memory] for held in placement.rank_bytes)

    def cache_bytes(self, context: int) -> int:
        """Of one sequence over all chips, once."""
        return self._decode(1, context).cache_bytes

    def _decode(self, batch: int, context: int) -> emu.Work:
        asked = self.question
        return decode_work(
            asked.model,
            asked.weights,
            asked.kv,
            batch=batch,
            context=context,
            tokens=1 + self.drafted,
        )

    def _placed(self, work: emu.Work) -> emu.Placement:
        rules = rules_of(self.question.placement, self.system.chip)
        return emu.place(work, self.system, rules, allow_overflow=True)

    def _seconds(self, work: emu.Work, system: emu.System | None) -> float:
        placement = self._placed(work)
        return float(emu.predict(work, system or self.system, placement).seconds)


def _grid(
    seconds: Callable[[float, float], float],
    fits: Callable[[float, float], bool],
    rows: Sequence[int],
    columns: Sequence[int],
) -> Grid:
    """Entries that do not fit, which nobody can ask for, go on as those before them in the row."""
    found = []
    for row in rows:
        entries: list[float] = []
        for at, column in enumerate(columns):
            if at > 1 and not fits(row, column):
                slope = (entries[-1] - entries[-2]) / (columns[at - 1] - columns[at - 2])
                entries.append(entries[-1] + slope * (column - columns[at - 1]))
            else:
                entries.append(seconds(row, column))
        found.append(tuple(entries))
    return Grid(
        rows=tuple(map(float, rows)), columns=tuple(map(float, columns)), seconds=tuple(found)
    )


def _between(axis: Sequence[float], at: float) -> tuple[int, float]:
    """The interval of a rising axis, and how far into it `at` is; outside: of the nearest one."""
    i = min(max(bisect.bisect_right(axis, at) - 1, 0), len(axis) - 2)
    return i, (at - axis[i]) / (axis[i + 1] - axis[i])


def _room(clock: _Clock, window: int) -> Room:
    """Of the chip (of each pipeline stage, one) that whole windows fill first."""
    short, long = window // 2, window
    memory, ones = clock.held(1, short)
    longs, twos = clock.held(1, long)[1], clock.held(2, short)[1]
    capacity = next(m for m in clock.system.chip.memories if m.name == memory)
    kept = 1.0 - clock.system.software.reserve_share.value
    moved = (clock.cache_bytes(long) - clock.cache_bytes(short)) / (long - short)
    found = []
    for one, more, two in zip(ones, longs, twos, strict=True):
        per_token = (more - one) / (long - short)
        per_sequence = max(0.0, two - one - short * per_token)
        if two > one:  # else it holds no cache: an embedding's stage
            found.append(
                Room(
                    fixed_bytes=one - short * per_token - per_sequence,
                    sequence_bytes=per_sequence,
                    token_bytes=per_token,
                    capacity_bytes=capacity.capacity_bytes.value * kept,
                    all_token_bytes=moved,
                )
            )
    return min(found, key=lambda room: room.free_bytes / room.needed_bytes(window))


def _checked(
    clock: _Clock, decode: Grid, prefill: Grid, window: int
) -> Iterator[tuple[str, float]]:
    """Points between the rows, where they fit."""
    for batch, share in ((3, 0.15), (12, 0.6)):
        context = int(share * window)
        if clock.decode_fits(batch, context):
            direct = clock.decode_s(batch, context)
            yield f"decode {batch} × {context}", decode.at(batch, context) / direct - 1
    for part, share in ((0.1, 0.6), (0.6, 0.1)):
        tokens, prefix = int(part * prefill.rows[-1]), int(share * window)
        direct = clock.chunk_s(tokens, prefix)
        yield f"prefill {tokens} × {prefix}", prefill.at(tokens, prefix) / direct - 1


def _power_w(of: Deployment, system: emu.System) -> float:
    stated = system.chip.power_w
    each = of.hardware.power_w_per_chip or (0.0 if stated is None else float(stated.value))
    return each * system.chips


def _host_bytes_per_s(of: Deployment, system: emu.System) -> float:
    """From where caches go that are not in use, behind the memory that they are used in."""
    if of.hardware.host_bytes_per_s_per_chip:
        return of.hardware.host_bytes_per_s_per_chip * system.chips
    off = [m for m in system.chip.memories if m.placement == "off-chip"]
    behind = off if runs_from_sram(system.chip) else off[1:]
    if not behind:
        raise ExperimentError(
            f"{system.chip.name}: the catalogue has no memory behind the one that caches are used "
            "in; give host_bytes_per_s_per_chip"
        )
    return float(behind[-1].bandwidth_bytes_per_s.value) * system.chips


def _elastic(moved: Moved, typical_s: float) -> Elastic:
    value = float(moved.number.value)
    low = value if moved.number.low is None else float(moved.number.low)
    high = value if moved.number.high is None else float(moved.number.high)
    grown = math.log(moved.high_s / moved.low_s)
    return Elastic(
        name=moved.name,
        kind=moved.number.kind,
        value=value,
        low=low,
        high=high,
        elasticity=grown / math.log(high / low) if low > 0 else grown / math.log(2),
    )


def _named(system: emu.System) -> str:
    degrees = [
        f"{name} {getattr(system, name)}"
        for name in ("tensor", "pipeline", "expert")
        if getattr(system, name) > 1
    ]
    split = f" ({', '.join(degrees)})" if degrees else ""
    return f"{system.chips} × {system.chip.name}{split}"


def as_row(times: StepTimes) -> dict[str, Any]:
    """As JSON takes it."""
    return dataclasses.asdict(times)


def of_row(row: dict[str, Any]) -> StepTimes:
    """The inverse of `as_row`."""
    fields = dict(row)
    for name, record in (("decode", Grid), ("prefill", Grid), ("beside", Grid), ("room", Room)):
        fields[name] = record(**_tuples(row[name]))
    fields["moved"] = tuple(Elastic(**one) for one in row["moved"])
    return StepTimes(**_tuples(fields))


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    def frozen(value: Any) -> Any:
        return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value

    return {name: frozen(value) for name, value in fields.items()}

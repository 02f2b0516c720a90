"""Step times of one deployment as a table, which a simulation can ask a million times a second.

Entries are what `experiments.predict` says (trace, spread, place, clock), by `emu.design.sweep`
from a few traces: over sequences × context for decode steps, over tokens × prefix for chunks of a
prompt. They lie close together, and between them seconds are interpolated bilinearly: attention
reads a cache once, so that the context and the prefix are straight lines but where something else
becomes the longest. `checked` says how far that is off between the entries. An entry that does not
fit, which nobody can ask for, goes on as those before it; on machines that run from SRAM that is
one whose activations would have to leave it, too.

In a pipeline the sequences take turns: n of them cross its stages as batches of n / stages, one
behind the other, so that no stage waits, and a token takes what a batch of n / stages takes. Chunks
of a prompt follow each other through the stages alike. Stages of unequal length, which make others
wait, are not modelled. On wafers the vectors of one step follow each other from region to region
already (`emu.mesh`), and nobody takes turns. Prompts go in chunks of the size, up to 2,048 tokens,
at which a token takes least: an SRAM has no room for the activations of a long one.
"""

import bisect
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

import emu
from emu.design import WorkGrid, sweep
from experiments.cases import prefilling
from experiments.deployment import Deployment, Hardware
from experiments.errors import ExperimentError
from experiments.placing import Rules, rules_of, runs_from_sram
from experiments.prediction import CHUNK, parts_of
from experiments.question import Question
from experiments.ranges import Moved, range_of
from experiments.steps_traced import decode_work, prefill_work

Array = NDArray[np.float64]

MOST_TOGETHER = 512  # sequences that are decoded at once, at most
_LEAST_CHUNK = 64  # tokens: a smaller one is read from the table, but no prompt is cut into such
_OFF_ROWS = ((9, 0.55), (45, 0.083), (225, 0.023))  # sequences and share of the window
_OFF_CHUNKS = ((0.15, 0.4), (0.7, 0.1))  # share of a chunk, and of the window
_TYPICAL = (4, 0.25)  # sequences and share of the window at which ranges are taken


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axes:
    """Where a table has entries; its last row of decode steps is of `MOST_TOGETHER` sequences."""

    sequences: tuple[int, ...]
    contexts: tuple[float, ...]  # shares of the window, as are prefixes
    tokens: tuple[int, ...]  # of a chunk
    prefixes: tuple[float, ...]


FINE = Axes(
    sequences=(1, 2, *(part << n for n in range(8) for part in (3, 4))),
    contexts=(0.001, 0.004, 0.016, 0.06, 0.12, 0.25, 0.5, 0.75, 1.0),
    tokens=(1, 16, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, CHUNK),
    prefixes=(0.0, 0.06, 0.25, 0.6, 0.98),
)


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
    checked: tuple[tuple[str, float], ...]  # points between the entries, and how far off they are

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
        """The largest error of the table between its entries."""
        return max((abs(error) for _, error in self.checked), default=0.0)


def check_together(name: str, sequences: int) -> None:
    """Raises ExperimentError where so many sequences at once are more than tables hold."""
    if sequences > MOST_TOGETHER:
        raise ExperimentError(
            f"{name} is at most {MOST_TOGETHER}, not {sequences}: no step times are made of more"
        )


def step_times(of: Deployment, axes: Axes = FINE) -> StepTimes:
    """The table of a deployment.

    Args:
      of: what is served, and on what.
      axes: where it has entries; fewer are made sooner, and `checked` tells what they are worth.

    Raises:
      CapacityError: it does not hold the sequences that it has to; says how many chips would do.
      EmuError, ModelError, ExperimentError: as `experiments.prediction.predicted`.
    """
    asked = of.question
    part = parts_of(asked)[0]
    clock = _Clock(question=asked, system=part.placement.system, drafted=of.drafted)
    system = clock.system
    stages = 1 if system.chip.mesh is not None else system.pipeline
    window = of.window_tokens - of.drafted - 1
    rows = _up_to(axes.sequences, max(2, math.ceil(MOST_TOGETHER / stages)))
    decode = _table(clock, clock.decode, system, rows, _shares(axes.contexts, window))
    prefixes = _shares(axes.prefixes, window)
    every = _table(clock, clock.chunk, system, axes.tokens, prefixes, as_if_it_fits=False)
    sizes = [i for i, tokens in enumerate(every.rows) if tokens >= _LEAST_CHUNK]
    at = min(sizes, key=lambda i: max(every.seconds[i]) / every.rows[i])
    prefill = dataclasses.replace(every, rows=every.rows[: at + 1], seconds=every.seconds[: at + 1])
    busy = dataclasses.replace(system, stack=prefilling(system.software))
    beside = _table(clock, clock.chunk, busy, axes.tokens[: at + 1], prefixes, as_if_it_fits=False)
    batch, context = _TYPICAL[0], int(_TYPICAL[1] * window)
    step = clock.decode(batch, context)
    spread = range_of(functools.partial(clock.seconds, step), system)
    typical = clock.seconds(step)
    return StepTimes(
        decode=decode,
        prefill=prefill,
        beside=beside,
        chunk=axes.tokens[at],
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

    def decode(self, batch: int, context: int) -> emu.Work:
        """A decode step of so many sequences."""
        asked = self.question
        return decode_work(
            asked.model,
            asked.weights,
            asked.kv,
            batch=batch,
            context=context,
            tokens=1 + self.drafted,
        )

    def chunk(self, tokens: int, prefix: int) -> emu.Work:
        """A chunk of a prompt of one sequence."""
        asked = self.question
        return prefill_work(
            asked.model, asked.weights, asked.kv, batch=1, context=prefix, tokens=tokens
        )

    def seconds(self, work: emu.Work, system: emu.System | None = None) -> float:
        """By `emu.predict`; system: of other numbers than this one."""
        placement = self.placed(work)
        return float(emu.predict(work, system or self.system, placement).seconds)

    def placed(self, work: emu.Work) -> emu.Placement:
        """By the question's rules."""
        return emu.place(work, self.system, self.rules, allow_overflow=True)

    @property
    def rules(self) -> str | Rules:
        """Of the question."""
        return rules_of(self.question.placement, self.system.chip)

    def fits(self, work: emu.Work) -> bool:
        """Whether cache and activations are where those of a short sequence are."""
        placement = self.placed(work)
        if placement.excess_bytes:
            return False
        if not runs_from_sram(self.system.chip):
            return True
        return placement.activations == self.placed(self.decode(1, 1)).activations

    def held(self, batch: int, context: int) -> tuple[str, tuple[int, ...]]:
        """The memory that caches are in, and its bytes on a chip of each room (`emu.capacity`)."""
        placement = self.placed(self.decode(batch, context))
        memory = next(r.memory for r in placement.residencies if r.leaf.kind == "cache")
        ranks = self.system.ranks
        if ranks is None:
            return memory, (placement.fullest_chip_bytes[memory],)
        return memory, tuple(ranks.per_chip * held[memory] for held in placement.rank_bytes)

    def cache_bytes(self, context: int) -> int:
        """Of one sequence over all chips, once."""
        return self.decode(1, context).cache_bytes


def _table(
    clock: _Clock,
    work: Callable[[int, int], emu.Work],
    system: emu.System,
    rows: Sequence[int],
    columns: Sequence[int],
    as_if_it_fits: bool = True,
) -> Grid:
    """Of `work(row, column)`, as far down as the first two columns fit.

    as_if_it_fits: what does not goes on as what is before it in its row.
    """

    # A sweep names its two axes so, whatever they count here: for a chunk, tokens and prefix.
    def one(batch: int, context: int) -> emu.Work:
        return work(batch, context)

    found = sweep(
        WorkGrid(work=one, batch=rows, context=columns),
        [system],
        {"as asked": clock.rules},
        columns=("step_s", "fits", "activations"),
        progress=False,
    )
    assert isinstance(found, pd.DataFrame)
    shape = (len(rows), len(columns))
    seconds = found["step_s"].to_numpy(copy=True).reshape(shape)
    if not as_if_it_fits:
        return _grid(rows, columns, seconds)
    fits = found["fits"].to_numpy().reshape(shape)
    if runs_from_sram(system.chip):
        through = found["activations"].cat.codes.to_numpy().reshape(shape)
        fits = fits & (through == through[0, 0])
    kept = max(2, int(np.cumprod(fits[:, :2].all(axis=1)).sum()))
    for i, j in np.argwhere(~fits[:kept]):
        if j > 1:
            slope = (seconds[i, j - 1] - seconds[i, j - 2]) / (columns[j - 1] - columns[j - 2])
            seconds[i, j] = seconds[i, j - 1] + slope * (columns[j] - columns[j - 1])
    return _grid(rows[:kept], columns, seconds[:kept])


def _grid(rows: Sequence[int], columns: Sequence[int], seconds: Array) -> Grid:
    return Grid(
        rows=tuple(map(float, rows)),
        columns=tuple(map(float, columns)),
        seconds=tuple(map(tuple, seconds.tolist())),
    )


def _up_to(values: Sequence[int], last: int) -> tuple[int, ...]:
    return (*(value for value in values if value < last), last)


def _shares(of: Sequence[float], window: int) -> tuple[int, ...]:
    return tuple(int(share * window) for share in of)


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
    """Points between the entries, where they fit."""
    for batch, share in _OFF_ROWS:
        context = int(share * window)
        if batch <= decode.rows[-1] and clock.fits(step := clock.decode(batch, context)):
            error = decode.at(batch, context) / clock.seconds(step) - 1
            yield f"decode {batch} × {context}", error
    for part, share in _OFF_CHUNKS:
        tokens, prefix = int(part * prefill.rows[-1]), int(share * window)
        error = prefill.at(tokens, prefix) / clock.seconds(clock.chunk(tokens, prefix)) - 1
        yield f"prefill {tokens} × {prefix}", error


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

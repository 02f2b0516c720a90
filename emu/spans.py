"""The step drawn out kernel by kernel, on the resources that it uses.

Replays the recursion of `emu.lookahead` with the lead on the port that decides the step's time, so
that the last kernel ends when the step does. What such a port delivers is drawn when it delivers
it, which for weights may be while earlier kernels run.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from emu.clocked import Clocked
from emu.errors import EmuError
from emu.planning import Plan
from emu.rates import Rated
from emu.schedule import Row
from emu.system import System
from emu.timeline import Span

_MOST = 200_000  # kernels


def build_spans(plan: Plan, rates: Rated, system: System, at: Clocked) -> tuple[Span, ...]:
    """Spans of the whole step, by resource and then by time.

    Raises EmuError for steps of more kernels than anybody can look at.
    """
    of = plan.schedule
    order = np.concatenate(
        [np.tile(np.arange(run.start, run.stop), run.repeats) for run in of.runs]
        if of.calls * of.repeats.sum() <= _MOST
        else [np.zeros(0, np.int64)]
    )
    if not order.size:
        raise EmuError(
            f"this step runs {of.calls * of.repeats.sum():,.0f} kernels: spans are drawn for at "
            f"most {_MOST:,}; predict a part of it"
        )
    order = np.tile(order, of.calls)
    per_step_s = float(at.per_step)
    port = max(at.waits, key=lambda j: float(at.waits[j])) if at.waits else None
    feeding = None
    if port is not None:
        feeding = at.feeds[port], rates.ports[port].rooms(plan.ahead[port])
    played = _played(at, order, feeding)
    spans = list(_of_step(per_step_s))
    spans += _of_kernels(plan, system, at, order, played, port, per_step_s)
    if port is not None:
        name = system.chip.memories[port].name
        spans += _of_feed(of.rows, name, per_step_s, order, played)
    return tuple(sorted(spans, key=lambda span: (span.resource, span.start_s)))


class _Played:
    """When each kernel is launched, begins and ends, and how far the port is by then."""

    def __init__(self, count: int) -> None:
        self.launch, self.begin, self.end = np.zeros(count), np.zeros(count), np.zeros(count)
        self.position: list[tuple[float, float]] = []  # (time, seconds of feed delivered)
        self.fed = np.zeros(count + 1)  # seconds of feed needed by the end of each kernel


def _played(at: Clocked, order: Any, feeding: tuple[Any, Any] | None) -> _Played:
    """The lead settles in the first pass; the second is the one that is kept."""
    zero = np.zeros_like(at.busy)
    feed, caps = feeding or (zero, np.stack((zero, zero), axis=1))
    cap_at_begin, cap_at_end = caps.T
    lead = 0.0
    for _ in range(2 + (feeding is not None)):
        played = _Played(len(order))
        now, needed = 0.0, 0.0
        played.position.append((0.0, lead))
        for n, i in enumerate(order):
            played.launch[n] = now
            ahead = min(cap_at_begin[i], lead + at.before[i])
            ahead = max(ahead, min(lead, cap_at_begin[i]))
            played.position += [
                (now + (ahead - lead), needed + ahead),
                (now + at.before[i], needed + ahead),
            ]
            now += at.before[i]
            played.begin[n] = now
            taken = max(at.busy[i], feed[i] - ahead)
            lead = min(cap_at_end[i], max(0.0, ahead + taken - feed[i]))
            needed += feed[i]
            delivered = needed + lead - played.position[-1][1]
            played.position += [(now + delivered, needed + lead), (now + taken, needed + lead)]
            now += taken
            played.end[n], played.fed[n + 1] = now, needed
    return played


def _of_step(taken: float) -> Iterator[Span]:
    if taken:
        yield Span(name="step", scope="", line="", resource="overhead", start_s=0.0, seconds=taken)


def _of_kernels(
    plan: Plan,
    system: System,
    at: Clocked,
    order: Any,
    played: _Played,
    port: int | None,
    offset: float,
) -> Iterator[Span]:
    columns = [("compute", at.compute), ("link", at.exchange)]
    columns += [
        (system.chip.memories[j].name, seconds)
        for j, seconds in zip(plan.linear.ports, at.at_run, strict=True)
        if j != port
    ]
    rows = plan.schedule.rows
    crossings = np.zeros(len(rows)) if at.crossing is None else at.crossing
    for n, i in enumerate(order):
        row, crossing = rows[i], crossings[i]
        if at.before[i] > crossing:
            yield _span(row, "overhead", offset + played.launch[n], at.before[i] - crossing)
        if crossing > 0:
            yield _span(row, "mesh", offset + played.begin[n] - crossing, crossing)
        for resource, seconds in columns:
            if seconds[i] > 0:
                yield _span(row, resource, offset + played.begin[n], seconds[i])


def _of_feed(
    rows: tuple[Row, ...], memory: str, offset: float, order: Any, played: _Played
) -> Iterator[Span]:
    times, delivered = np.array(played.position).T
    for n, i in enumerate(order):
        first, last = played.fed[n], played.fed[n + 1]
        if last <= first:
            continue
        # The port idles where it is as far ahead as it may be: begin when it goes on.
        after = int(np.searchsorted(delivered, first, side="right"))
        begin = _at(times, delivered, max(after, 1), first)
        end = _at(times, delivered, max(int(np.searchsorted(delivered, last)), 1), last)
        if end > begin:  # else it was there before the step began
            yield _span(rows[i], memory, offset + begin, end - begin)


def _at(times: Any, delivered: Any, after: int, amount: float) -> float:
    """When the port has delivered so much, between two points of its history."""
    after = min(after, len(times) - 1)
    low, high = delivered[after - 1], delivered[after]
    share = 0.0 if high <= low else min(1.0, max(0.0, (amount - low) / (high - low)))
    return float(times[after - 1] + share * (times[after] - times[after - 1]))


def _span(row: Row, resource: str, start_s: float, seconds: float) -> Span:
    main = max(row.ops, key=lambda op: (op.kernel is not None, sum(op.flops.values())))
    return Span(
        name=main.name,
        scope=main.scope,
        line=main.line,
        resource=resource,
        start_s=float(start_s),
        seconds=float(seconds),
    )

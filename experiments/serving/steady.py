"""Traffic on an instance that has been serving for long: sessions that are under way at the start.

An agent's session lasts hours, longer than a simulation that is to be repeated for every rate; an
instance that starts empty would meet too few of them, and too few caches of people who are
thinking. So some have begun before: of a session that lasts D and comes at a rate λ, λ·D are under
way at any time (Little's law), and how long ago each began is uniform over D. That is the
length-biased distribution. Their caches are held when the simulation starts, and so are those of
sessions that have ended, for as long as anybody pauses: both were used in turn, and what has no
room goes as it does later (`experiments.serving.caches`).

How long a session lasts is known from a simulation without load. Under load the model's part takes
longer, which by the published times is an eighth of an agent's session; that is not corrected for.
"""

import dataclasses

import numpy as np

from experiments.serving.simulation import Log
from experiments.workloads.draws import uniform
from experiments.workloads.traffic import Floats, Ints, Traffic


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steady:
    """What comes while new sessions start, and the caches that are there before."""

    traffic: Traffic  # sessions that start, then what is left of those under way
    held: tuple[tuple[int, int], ...]  # (session, tokens), longest unused first; below 0: ended
    whole: np.ndarray[tuple[int], np.dtype[np.bool_]]  # calls of requests that are all there


def steady(of: Traffic, alone: Log, *, per_s: float, network_s: float, seed: int) -> Steady:
    """Sessions under way beside those that start.

    Args:
      of: sessions that start at this rate, whole.
      alone: how the same calls went without load.
      per_s: of sessions.
      network_s: after each call.
      seed: of the random streams.
    """
    first = np.flatnonzero(np.append(True, of.session[1:] != of.session[:-1]))
    stop = np.append(first[1:], len(of))
    took = alone.done_s - alone.arrival_s
    # When each call comes after its session's start, and when a session is over.
    steps = of.delay_s + np.append(0.0, took[:-1] + network_s)
    steps[first] = of.delay_s[first]
    summed = np.cumsum(steps)
    comes = summed - np.repeat(summed[first] - steps[first], stop - first)
    lasts = comes[stop - 1] + took[stop - 1]
    pause = float(of.delay_s.max())
    end = float(of.start_s.max())

    session, age = _begun(lasts + pause, per_s, seed)
    parts = [(first[s], stop[s], start) for s, start in enumerate(of.start_s)]
    parts += [(first[s], stop[s], -a) for s, a in zip(session, age, strict=True)]
    starts: list[float] = []
    calls: list[Ints] = []
    delays: list[Floats] = []
    held: list[tuple[float, int, int]] = []  # when it was used last, session, tokens
    for begin, over, start in parts:
        when = start + comes[begin:over]
        past, cut = np.searchsorted(when, (0.0, end))
        coming = np.arange(begin + past, begin + (max(cut, 1) if start >= 0 else cut))
        if past:
            last = begin + past - 1
            used = start + comes[last] + took[last]
            held.append((used, len(starts) if len(coming) else -len(held) - 1, of.tokens[last]))
        if len(coming):
            delay = of.delay_s[coming]
            starts.append(max(start, 0.0))
            delay[0] = when[past] - starts[-1]
            calls.append(coming)
            delays.append(delay)
    return Steady(
        traffic=_joined(of, starts, calls, delays),
        held=tuple((s, int(tokens)) for _, s, tokens in sorted(held)),
        whole=_whole(of, calls),
    )


def _begun(lasts: Floats, per_s: float, seed: int) -> tuple[Ints, Floats]:
    """Sessions that began so long before that they may matter still, and how long ago."""
    each = np.arange(len(lasts))
    many = per_s / len(lasts) * lasts
    counts = np.floor(many + uniform(seed, "under way", each)).astype(np.int64)
    session = np.repeat(each, counts)
    copy = np.arange(len(session)) - np.repeat(np.cumsum(counts) - counts, counts)
    return session, lasts[session] * uniform(seed, "age", session, copy)


def _joined(of: Traffic, starts: list[float], calls: list[Ints], delays: list[Floats]) -> Traffic:
    at = np.concatenate(calls)
    session = np.repeat(np.arange(len(calls)), [len(some) for some in calls])
    request = of.request[at]
    changes = (session[1:] != session[:-1]) | (request[1:] != request[:-1])
    same = {f.name: getattr(of, f.name)[at] for f in dataclasses.fields(of) if f.name != "start_s"}
    new = {
        "start_s": np.array(starts),
        "session": session,
        "request": np.append(0, np.cumsum(changes)),
        "delay_s": np.concatenate(delays),
    }
    return Traffic(**same | new)


def _whole(of: Traffic, calls: list[Ints]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Marks calls of requests that are neither cut at the start nor at the end."""
    size = np.bincount(of.request)
    marks = []
    for some in calls:
        request = of.request[some]
        there = np.bincount(request - request[0])
        marks.append((there == size[request[0] : request[-1] + 1])[request - request[0]])
    return np.concatenate(marks)

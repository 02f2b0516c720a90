"""Traffic drawn from a workload's percentiles, the same for the same seed.

Each quantity has a random stream of its own, and each session, request and step its place in it
(`experiments.workloads.draws`), so that changing one leaves the draws of the others alone. Sessions
start by a Poisson process.

An agent's context grows from step to step until it is compacted. It is drawn as a walk through the
distribution of prefixes itself: a session begins at a random share u of it, each step adds the same
small share, and after 1 it begins again at 0. So u is uniform at every step and prefixes have the
published distribution at any speed; the speed is the published mean growth. What is appended
depends on the prefix by bins, as published: most of it has been in the cache before and was lost,
so that it is not the growth. Tool times of one request are alike (a Gaussian copula), and the model
takes the shorter the longer the tools do: so the medians of a request and of the model's part of it
are as far apart as published, which they are not where the two are independent. A request's first
step takes longer.
"""

import functools

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from experiments.errors import ExperimentError
from experiments.workloads.draws import normal, uniform
from experiments.workloads.quantiles import Quantiles
from experiments.workloads.traffic import Floats, Ints, Traffic
from experiments.workloads.workload import Workload

_BINS = (
    (0, "append_16k"),
    (32_768, "append_32k"),
    (65_536, "append_64k"),
    (131_072, "append_128k"),
)


def sample(of: Workload, *, sessions: int, per_s: float, seed: int) -> Traffic:
    """So many sessions (calls, chains or an agent's sessions, as the workload has them).

    Args:
      of: the workload.
      sessions: how many.
      per_s: sessions that start in a second.
      seed: of the random streams.

    Raises:
      ExperimentError: counts or rates that are not positive; a workload that lacks what it needs.
    """
    if sessions < 1 or per_s <= 0 or seed < 0:
        raise ExperimentError(
            f"sampling {of.name}: sessions ({sessions}) and their rate ({per_s} a second) must be "
            f"positive, and the seed ({seed}) not negative"
        )
    draws = _Draws(seed)
    start = np.cumsum(-np.log(draws.uniform("start", np.arange(sessions)))) / per_s
    samplers = {"calls": _calls, "chains": _chains, "sessions": _sessions}
    if of.sampler not in samplers:
        raise ExperimentError(f"{of.name}.toml: sampler is one of {', '.join(samplers)}")
    return samplers[of.sampler](of, draws, start)


class _Draws:
    """The numbers of one seed, by stream and address."""

    def __init__(self, seed: int) -> None:
        self.uniform = functools.partial(uniform, seed)
        self.normal = functools.partial(normal, seed)


def _calls(of: Workload, draws: _Draws, start: Floats) -> Traffic:
    return _alone(of, draws, start, np.arange(len(start)), np.zeros(len(start)))


def _chains(of: Workload, draws: _Draws, start: Floats) -> Traffic:
    counts = _whole(of.quantile("calls"), draws.uniform("count", np.arange(len(start))))
    session = np.repeat(np.arange(len(start)), counts)
    delay = np.where(_firsts(counts), 0.0, of.figure("gap_s"))
    return _alone(of, draws, start, session, delay)


def _alone(of: Workload, draws: _Draws, start: Floats, session: Ints, delay: Floats) -> Traffic:
    """Calls without a prefix."""
    calls = len(session)
    whose = (session, np.arange(calls) - _starts(session))
    return Traffic(
        start_s=start,
        session=session,
        request=session,
        delay_s=delay,
        prefix_tokens=np.zeros(calls, np.int64),
        append_tokens=_whole(of.quantile("input_tokens"), draws.uniform("append", *whose)),
        output_tokens=_whole(of.quantile("output_tokens"), draws.uniform("output", *whose)),
        tool_s=np.where(np.append(session[1:] == session[:-1], False), _gap(of), 0.0),
        observed_llm_s=np.full(calls, np.nan),
    )


def _gap(of: Workload) -> float:
    return of.figures["gap_s"].value if "gap_s" in of.figures else 0.0


def _sessions(of: Workload, draws: _Draws, start: Floats) -> Traffic:
    each = np.arange(len(start))
    requests = _whole(of.quantile("requests"), draws.uniform("count", each))
    owner = np.repeat(each, requests)  # the session of each request
    asked = (owner, np.arange(len(owner)) - _starts(owner))  # its address
    tools = np.round(of.quantile("tool_calls").at(draws.uniform("tool_calls", *asked)))
    grouped = np.floor(tools / of.figure("calls_per_step") + draws.uniform("grouped", *asked))
    steps = 1 + np.where(tools > 0, np.maximum(1, grouped), 0).astype(np.int64)
    request = np.repeat(np.arange(len(owner)), steps)
    session = owner[request]
    calls = len(request)
    first, last = _firsts(steps), np.append(_firsts(steps)[1:], True)
    whose = (session, asked[1][request], np.arange(calls) - _starts(request))

    prefix = of.quantile("prefix_tokens")
    ends = prefix.at([0.0, 1.0])
    speed = of.figure("growth_tokens") / float(ends[1] - ends[0])
    in_session = np.arange(calls) - _starts(session)
    at = (draws.uniform("prefix", each)[session] + speed * in_session) % 1.0
    prefix_tokens = np.round(prefix.at(at)).astype(np.int64)

    shared, own = _weights(of.figure("same_tools"))
    of_request = draws.normal("tool_request", *asked)[request]
    score = shared * of_request + own * draws.normal("tool", *whose)
    tool_s = np.where(last, 0.0, of.quantile("tool_s").at(ndtr(score)))

    longer = of.figure("first_llm")
    others = -longer / (of.figure("steps_per_request") - 1)
    against, apart = _weights(of.figure("llm_against_tools"))
    llm = apart * draws.normal("llm", *whose) - against * of_request
    llm += np.where(first, longer, others)

    wait_s = of.quantile("wait_s").at(draws.uniform("wait", *asked))[request]
    before = np.append(0.0, tool_s[:-1])
    starts = in_session == 0
    return Traffic(
        start_s=start,
        session=session,
        request=request,
        delay_s=np.where(starts, 0.0, np.where(first, wait_s, before)),
        prefix_tokens=prefix_tokens,
        append_tokens=_appended(of, prefix_tokens, draws.uniform("append", *whose)),
        output_tokens=_whole(of.quantile("output_tokens"), draws.uniform("output", *whose)),
        tool_s=tool_s,
        observed_llm_s=of.quantile("llm_s").at(ndtr(llm)),
    )


def _weights(correlation: float) -> tuple[float, float]:
    """Of what is shared and of what is not, in a normal score of deviation 1.

    Raises ExperimentError for what is no correlation.
    """
    if not -1 <= correlation <= 1:
        raise ExperimentError(f"a correlation lies between -1 and 1: {correlation:g}")
    return correlation, float(np.sqrt(1 - correlation**2))


def _appended(of: Workload, prefix: Ints, shares: Floats) -> Ints:
    edges = np.array([edge for edge, _ in _BINS])
    which = np.searchsorted(edges, prefix, side="right") - 1
    drawn = np.stack([of.quantile(name).at(shares) for _, name in _BINS])
    found = np.round(drawn[which, np.arange(len(prefix))]).astype(np.int64)
    return np.asarray(np.maximum(1, found), np.int64)


def _whole(quantiles: Quantiles, shares: Floats) -> Ints:
    """Whole numbers of at least 1."""
    return np.asarray(np.maximum(1, np.round(quantiles.at(shares))), np.int64)


def _firsts(counts: Ints) -> NDArray[np.bool_]:
    """Marks the first of each run of so many."""
    marks = np.zeros(int(counts.sum()), bool)
    marks[np.append(0, np.cumsum(counts)[:-1])] = True
    return marks


def _starts(session: Ints) -> Ints:
    """For each entry, where its session (or request) begins."""
    first = np.append(True, session[1:] != session[:-1])
    return np.asarray(np.maximum.accumulate(np.where(first, np.arange(len(session)), 0)), np.int64)

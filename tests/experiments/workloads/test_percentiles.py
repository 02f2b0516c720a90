"""Every percentile that a workload's file takes from a source comes out of the sampler."""

import functools

import numpy as np
import pytest
from scipy.special import ndtr

from experiments.errors import ExperimentError
from experiments.session_time import by_request, sped_up
from experiments.workloads.sampling import sample
from experiments.workloads.traffic import Traffic
from experiments.workloads.workload import Workload, names, parsed, workload

WITHIN = 0.05
SESSIONS = {"agentic": 50_000, "software": 20_000}


@functools.cache
def drawn(name: str) -> Traffic:
    return sample(workload(name), sessions=SESSIONS.get(name, 200_000), per_s=1.0, seed=7)


def sampled(of: Workload, quantity: str) -> np.ndarray:
    """What the sampler drew of one quantity."""
    traffic = drawn(of.name)
    starts = np.append(True, traffic.session[1:] != traffic.session[:-1])
    first = np.append(True, traffic.request[1:] != traffic.request[:-1])
    if quantity.startswith("append_"):
        edges = {"16k": (0, 32768), "32k": (32768, 65536), "64k": (65536, 131072)}
        low, high = edges.get(quantity.removeprefix("append_"), (131072, 10**9))
        inside = (traffic.prefix_tokens >= low) & (traffic.prefix_tokens < high)
        return traffic.append_tokens[inside]
    return {
        "prefix_tokens": lambda: traffic.prefix_tokens,
        "input_tokens": lambda: traffic.append_tokens,
        "output_tokens": lambda: traffic.output_tokens,
        "tool_s": lambda: traffic.tool_s[np.append(~first[1:], False)],
        "llm_s": lambda: traffic.observed_llm_s,
        "wait_s": lambda: traffic.delay_s[first & ~starts],
    }[quantity]()


CLAIMED = [
    (name, of, point.share, point.value)
    for name in names()
    for of, quantiles in workload(name).quantiles.items()
    if of not in ("tool_calls", "requests", "calls")
    for point in quantiles.points
    # Beyond 99 % too few are drawn to say.
    if point.kind == "measured" and point.share <= 0.99
]


@pytest.mark.parametrize(("name", "of", "share", "value"), CLAIMED)
def test_a_published_percentile_comes_out_within_5_percent(
    name: str, of: str, share: float, value: float
) -> None:
    found = float(np.quantile(sampled(workload(name), of), share))
    rounding = 0.5 if of.endswith("tokens") else 0.0
    assert found == pytest.approx(value, rel=WITHIN, abs=rounding)


def test_calls_of_tools_and_whole_requests_come_out_too() -> None:
    traffic, of = drawn("agentic"), workload("agentic")
    tools = of.quantile("tool_calls")
    for point in tools.points:
        assert tools.at(point.share) == pytest.approx(point.value)
    steps = np.bincount(traffic.request)
    assert steps.mean() == pytest.approx(of.figure("steps_per_request"), rel=WITHIN)
    after_tools = np.append(False, traffic.request[1:] == traffic.request[:-1])
    of_session = np.bincount(traffic.session, after_tools)
    assert of_session.mean() == pytest.approx(of.figure("tool_steps_per_session"), rel=WITHIN)
    assert np.quantile(of_session, 0.99) == pytest.approx(of.figure("tool_steps_p99"), rel=WITHIN)
    requests = len(steps) / len(traffic.start_s)
    assert requests == pytest.approx(of.figure("requests_per_session"), rel=WITHIN)

    llm = by_request(traffic, traffic.observed_llm_s)
    called = by_request(traffic, traffic.tool_s)
    whole = llm + called
    assert np.median(llm) == pytest.approx(of.figure("request_llm_p50_s"), rel=WITHIN)
    assert np.median(called) == pytest.approx(of.figure("request_tools_p50_s"), rel=WITHIN)
    for share, name in ((0.5, "request_p50_s"), (0.9, "request_p90_s"), (0.99, "request_p99_s")):
        assert np.quantile(whole, share) == pytest.approx(of.figure(name), rel=WITHIN), name
    assert whole.mean() == pytest.approx(of.figure("request_s"), rel=WITHIN)
    assert llm.sum() / whole.sum() == pytest.approx(of.figure("llm_share"), rel=WITHIN)


def test_appended_tokens_have_the_published_median_over_all_prefixes() -> None:
    assert np.median(drawn("agentic").append_tokens) == pytest.approx(875, rel=WITHIN)


def test_shares_of_short_and_long_completions_are_the_traces() -> None:
    output = drawn("code_completion").output_tokens
    assert np.mean(output <= 16) == pytest.approx(0.625, rel=WITHIN)
    assert np.mean(output >= 128) == pytest.approx(0.030, rel=WITHIN)
    assert output.mean() == pytest.approx(27.9, rel=WITHIN)


def test_without_llm_time_requests_fall_by_at_most_1_7_and_by_about_4_times() -> None:
    of = workload("agentic")
    total, part = of.figure("request_p50_s"), of.figure("request_llm_p50_s")
    published = total / (total - part)
    assert published == pytest.approx(4.0, rel=0.02)  # 38.3 / 9.5
    traffic = drawn("agentic")
    llm = by_request(traffic, traffic.observed_llm_s)
    sped = sped_up(llm + by_request(traffic, traffic.tool_s), llm)
    assert 1.6 <= sped.mean <= 1.7  # tools dominate the mean request
    # The split of the medians, as published; that of requests is below.
    assert sped.medians == pytest.approx(published, rel=0.1)
    # What is left of requests is their tools, whose published median is 0.3 s.
    left = of.figure("request_tools_p50_s")
    assert sped.median == pytest.approx(total / left, rel=2 * WITHIN)
    # Drawn apart from each other, tools and the model would give another split.
    apart = sample(of.assuming({"llm_against_tools": 0.0}), sessions=4000, per_s=1.0, seed=7)
    llm = by_request(apart, apart.observed_llm_s)
    assert sped_up(llm + by_request(apart, apart.tool_s), llm).medians > 1.2 * published


def test_a_correlation_lies_between_minus_1_and_1() -> None:
    with pytest.raises(ExperimentError, match=r"between -1 and 1: 1\.2"):
        sample(workload("agentic").assuming({"same_tools": 1.2}), sessions=10, per_s=1.0, seed=0)


def test_the_same_seed_draws_the_same_and_streams_are_apart() -> None:
    of = workload("agentic")
    one = sample(of, sessions=50, per_s=1.0, seed=3)
    again = sample(of, sessions=50, per_s=1.0, seed=3)
    np.testing.assert_array_equal(one.output_tokens, again.output_tokens)
    other = sample(of.assuming({"output_tokens_p90": 1300.0}), sessions=50, per_s=1.0, seed=3)
    np.testing.assert_array_equal(one.tool_s, other.tool_s)
    # More requests of some sessions change nothing of the calls that were there before.
    more = sample(of.assuming({"requests_p90": 25.0}), sessions=50, per_s=1.0, seed=3)
    assert len(more) > len(one)
    for whose in range(50):
        before, after = (t.output_tokens[t.session == whose] for t in (one, more))
        np.testing.assert_array_equal(before, after[: len(before)])
    assert np.quantile(other.output_tokens, 0.9) > np.quantile(one.output_tokens, 0.9)
    assert (sample(of, sessions=50, per_s=1.0, seed=4).start_s != one.start_s).any()


def test_a_session_grows_until_it_is_compacted() -> None:
    traffic = sample(workload("agentic"), sessions=300, per_s=1.0, seed=0)
    same = traffic.session[1:] == traffic.session[:-1]
    grown = np.diff(traffic.prefix_tokens)[same]
    assert (grown >= 0).mean() > 0.99
    assert grown[grown < 0].max(initial=-(10**6)) < -500_000


def test_what_is_beyond_a_window_is_cut_from_the_prefix() -> None:
    traffic = sample(workload("agentic"), sessions=300, per_s=1.0, seed=0)
    cut = traffic.within(131_000)
    assert cut.tokens.max() <= 131_000
    inside = traffic.tokens <= 131_000
    np.testing.assert_array_equal(cut.prefix_tokens[inside], traffic.prefix_tokens[inside])
    assert traffic.share_beyond(131_000) == pytest.approx(1 - inside.mean())
    chat = sample(workload("chat_long"), sessions=1000, per_s=1.0, seed=0)
    with pytest.raises(ExperimentError, match="new tokens is beyond the window of 2,048"):
        chat.within(2048)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[percentiles.x]\np50 = [1, "nobody"]', r"x.p50: write \[value, source\]"),
        ('[percentiles.x]\np50 = [2, "s"]\np90 = [1, "s"]', "values are positive and do not fall"),
        ('[percentiles.x]\np50 = [2, "s"]', "two or more"),
    ],
)
def test_a_file_that_cannot_be_is_refused(text: str, message: str) -> None:
    head = 'about = "a"\nsampler = "calls"\n[sources]\ns = "somewhere"\n'
    with pytest.raises(ExperimentError, match=message):
        parsed(head + text, "mine")


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(ExperimentError, match="did you mean 'agentic'"):
        workload("agentik")
    with pytest.raises(ExperimentError, match="did you mean 'same_tools'"):
        workload("agentic").assuming({"same_tool": 0.5})
    with pytest.raises(ExperimentError, match="must be positive"):
        sample(workload("chat"), sessions=0, per_s=1.0, seed=0)


def test_every_percentile_has_a_source_or_says_that_it_is_assumed() -> None:
    for name in names():
        of = workload(name)
        entries = [*of.figures.values(), *(p for q in of.quantiles.values() for p in q.points)]
        assert entries
        for entry in entries:
            assert entry.source
            assert (entry.kind == "assumed") == (entry.source == "assumed by us")


def test_a_log_normal_is_a_straight_line() -> None:
    z = np.array([-1.5, 0.2, 1.9])
    shares = ndtr(z)
    lines = "\n".join(
        f'p{100 * s:.12f} = [{np.exp(2 + 0.7 * x):.12f}, "s"]'.replace(".", "_", 1)
        for s, x in zip(shares, z, strict=True)
    )
    text = f'about = "a"\nsampler = "calls"\n[sources]\ns = "w"\n[percentiles.x]\n{lines}'
    found = parsed(text, "mine").quantile("x").at(ndtr(np.array([-1.0, 0.0, 1.0])))
    np.testing.assert_allclose(found, np.exp(2 + 0.7 * np.array([-1.0, 0.0, 1.0])), rtol=1e-6)

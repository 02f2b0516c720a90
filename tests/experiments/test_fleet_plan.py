import itertools
import math

import numpy as np
import pytest

from experiments.errors import ExperimentError
from experiments.fleet_plan import Demand, plan
from experiments.serving.levels import Level


def demand(sessions_per_s: float, calls: float = 1.0) -> Demand:
    return Demand(sessions_per_s=sessions_per_s, calls_per_session=calls)


@pytest.mark.parametrize("seed", range(6))
def test_the_plan_is_the_cheapest_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes, systems = ("a", "b"), ("x", "y", "z")
    demands = {name: demand(float(rng.uniform(1, 9))) for name in classes}
    capacities = {pair: float(rng.uniform(0.5, 4)) for pair in itertools.product(classes, systems)}
    prices = {name: float(rng.uniform(1, 5)) for name in systems}
    found = plan(demands, capacities, prices)
    assert found is not None
    # Each class by itself: all numbers of instances of the three systems.
    least = 0.0
    for name in classes:
        costs = [
            sum(n * prices[s] for n, s in zip(counts, systems, strict=True))
            for counts in itertools.product(range(20), repeat=3)
            if sum(n * capacities[name, s] for n, s in zip(counts, systems, strict=True))
            >= demands[name].sessions_per_s
        ]
        least += min(costs)
    assert found.usd_per_hour == pytest.approx(least, rel=1e-3)
    for name in classes:
        served = sum(y for (of, _), y in found.sessions_per_s.items() if of == name)
        assert served == pytest.approx(demands[name].sessions_per_s)
    for pair, y in found.sessions_per_s.items():
        assert y <= capacities[pair] * found.instances[pair] + 1e-6


def test_a_share_is_kept_and_takes_the_class_that_is_cheapest_to_move() -> None:
    demands = {"long": demand(1.0, calls=50), "short": demand(50.0)}  # half of the calls each
    capacities = {
        ("long", "hbm"): 1.0,
        ("short", "hbm"): 50.0,
        ("long", "sram"): 0.01,
        ("short", "sram"): 50.0,
    }
    prices = {"hbm": 10.0, "sram": 12.0}
    none = plan(demands, capacities, prices, fast=("sram",), share=0.0)
    half = plan(demands, capacities, prices, fast=("sram",), share=0.5)
    every = plan(demands, capacities, prices, fast=("sram",), share=1.0)
    assert none is not None
    assert half is not None
    assert every is not None
    assert none.usd_per_hour == 20
    assert half.instances == {("long", "hbm"): 1, ("short", "sram"): 1}
    assert half.usd_per_hour == 22
    assert every.usd_per_hour == 12 * 101


def test_a_share_that_cannot_be_is_none_and_a_class_nobody_serves_is_refused() -> None:
    demands = {"a": demand(1.0)}
    assert plan(demands, {("a", "hbm"): 1.0}, {"hbm": 1.0}, fast=("sram",), share=0.5) is None
    with pytest.raises(ExperimentError, match="class a: no system can serve it"):
        plan(demands, {("a", "hbm"): 0.0}, {"hbm": 1.0})


def test_more_demand_never_costs_less() -> None:
    prices, capacities = {"x": 3.0, "y": 5.0}, {("a", "x"): 1.0, ("a", "y"): 2.0}
    costs = []
    for per_s in (0.5, 1.0, 1.5, 2.0, 3.1, 10.0):
        found = plan({"a": demand(per_s)}, capacities, prices)
        assert found is not None
        costs.append(found.usd_per_hour)
    assert costs == sorted(costs)
    assert costs[-1] == 5 * math.ceil(10 / 2)


def test_a_promise_is_missed_in_words() -> None:
    figures = {"ttft_p99_s": 2.5, "tokens_per_s_p50": 40.0, "request_p50_s": 12.0}
    assert Level().missed(figures) == ()
    assert Level(ttft_p99_s=3, tokens_per_s=40, request_p50_s=12).missed(figures) == ()
    assert Level(ttft_p99_s=2).missed(figures) == ("TTFT p99 2.5 s, asked 2 s",)
    assert Level(tokens_per_s=50).missed(figures) == ("40 tokens/s, asked 50",)
    assert Level(request_p50_s=5).missed(figures) == ("request 12 s, asked 5 s",)
    with pytest.raises(ExperimentError, match="must not be negative"):
        Level(ttft_p99_s=-1)

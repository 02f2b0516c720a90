"""Ranges of plans, by plans whose arithmetic can be checked by eye."""

import dataclasses
import math
from typing import cast

import pytest

from experiments.fleet_known import Fleet
from experiments.fleet_plan import Plan
from experiments.fleet_ranges import Curve, Spread
from experiments.fleet_report import _series


class Known:
    """A fleet of which only the seconds saved are asked; they are a plan's dollars here."""

    def saved_s(self, made: Plan, slow: Plan) -> float:
        return made.usd_per_hour - slow.usd_per_hour


def curve(cost: float | None, instances: int = 1) -> Curve:
    """Without calls on fast systems it costs 1; with all of them there, so much."""

    def plan(dollars: float) -> Plan:
        count = {("chat", "groq"): instances}
        return Plan(instances=count, sessions_per_s={("chat", "groq"): 1.0}, usd_per_hour=dollars)

    with_all = None if cost is None else plan(cost)
    return Curve(fleet=cast(Fleet, Known()), plans={0.0: plan(1.0), 1.0: with_all}, moved={})


MOVED = {"vllm": (curve(4.0, 3), curve(1.0)), "groqcloud": (curve(4.0, 2), curve(2.0))}
OF = dataclasses.replace(curve(2.0), moved=MOVED)


def test_costs_add_in_quadrature_of_logarithms_above_and_below_apart() -> None:
    found = OF.over_none_range(1.0)
    assert found is not None
    assert found.high == pytest.approx(2.0 * 2.0 ** (2**0.5))  # two stacks that each double it
    assert found.low == pytest.approx(1.0)  # one that halves it, one that does nothing below
    assert found.without == ()


def test_seconds_add_as_they_are() -> None:
    found = OF.saved_range_s(1.0)
    assert found is not None
    assert found.high == pytest.approx(1.0 + 8**0.5)  # 2 and 2 s more than 1 s
    assert found.low == pytest.approx(0.0)


def test_an_end_without_a_plan_is_named_and_a_share_without_one_has_no_range() -> None:
    moved = {**MOVED, "groqcloud": (curve(None), curve(2.0))}
    found = dataclasses.replace(OF, moved=moved).over_none_range(1.0)
    assert found is not None
    assert found.without == ("groqcloud at its low end",)
    assert found.high == pytest.approx(4.0)
    assert dataclasses.replace(curve(None), moved=MOVED).over_none_range(1.0) is None


def test_nothing_is_drawn_as_a_range_that_has_an_end_without_a_plan() -> None:
    whole = Spread(low=1.0, high=3.0, without=())
    open_ended = dataclasses.replace(whole, without=("groqcloud at its low end",))
    drawn = _series("beside", [(0.5, 2.0, whole), (1.0, 2.0, open_ended)])
    assert (drawn.low[0], drawn.high[0]) == (1.0, 3.0)
    assert math.isnan(drawn.low[1])
    assert math.isnan(drawn.high[1])


def test_instances_have_the_fewest_and_the_most_of_any_end() -> None:
    assert OF.instances(1.0) == {("chat", "groq"): (1, 1, 3)}

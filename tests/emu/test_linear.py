"""Counts times rates, against sums by hand."""

import chex
import numpy as np
from toy_chip import chip, op, work

from emu.linear import Rates
from emu.placement import place
from emu.planning import plan_of
from emu.system import System
from emu.work import Work


def test_every_count_meets_its_own_rate():
    of = work((300, 10), (200, 20))
    exchange = {"kind": "all_reduce", "bytes": 50, "group": 4}
    of = Work(leaves=of.leaves, ops=(*of.ops, op(collective=exchange, kernel=2)))
    plan = plan_of(of, place(of, System(chip()), "off-chip"), None)
    rates = Rates(
        byte=[1e-3, 1.0],
        cache_byte=[7.0, 7.0],  # no cache here
        flop=[2.0],
        exchange=[11.0],
        entering=[0.5],
        launch=[3.0],
        unpacked=[0.01],
        late=[5.0],
        latency=[13.0] * len(plan.linear.waited),
    )
    found = plan.linear.seconds(rates.row(np), np)
    assert plan.linear.waited == ((),)  # weights alone are read, and those ahead
    close = chex.assert_trees_all_close
    close(found.compute, np.array([20.0, 40.0, 0.0]))
    close(found.exchange, np.array([0.0, 0.0, 11.0]))
    close(found.entry, np.array([150.0, 100.0, 0.0]))
    # Through SRAM comes what is in HBM; HBM's port has read it before a kernel runs.
    assert (plan.linear.ports, plan.off_chip) == ((0, 1), (1,))
    close(found.at_run, [np.array([0.3, 0.2, 0.0]), np.zeros(3)])
    close(found.in_all, [np.array([300.0, 200.0, 0.0])])
    close(found.by_kind, np.array([[300.0, 200.0, 0.0], [0.0] * 3, [0.0] * 3]))
    # Launch and latency, and of the products whose weights are int8 the unpacking.
    close(found.before, np.array([16.0 + 3.0 + 5.0, 16.0 + 2.0 + 5.0, 16.0]))

import math

import chex
import jax
import numpy as np
import pytest
import toy_chip
from toy_grid import toy_work

import emu
from emu.design import SystemGrid, Target, numbers_of, solve, with_numbers
from emu.design.family import family
from emu.design.target import Clocked

BANDWIDTH = "chip/hbm/bandwidth_bytes_per_s"


def bandwidth(system):
    return system.chip.memory("hbm").bandwidth_bytes_per_s.value


def seconds_of(work, system, rules="off-chip"):
    return float(emu.predict(work, system, emu.place(work, system, rules)).seconds)


def test_a_hidden_bandwidth_is_found():
    work = toy_work(batch=1, context=100)
    system = emu.System(emu.chip("h100"), stack="gpt-fast")
    hidden = 1.7e9  # so slow that reading counts beside the launches of so small a decoder
    asked = seconds_of(work, with_numbers(system, {BANDWIDTH: hidden}))
    target = Target(work=work, system=system, rules="off-chip", seconds=asked)
    found = solve(target, [BANDWIDTH], {BANDWIDTH: (1e8, 1e13)}, bandwidth)
    assert found.numbers[BANDWIDTH] == pytest.approx(hidden, rel=0.01)
    assert found.path[BANDWIDTH].iloc[-1] == pytest.approx(hidden, rel=0.01)  # by the gradient
    assert found.seconds <= asked
    assert found.seconds == seconds_of(work, found.system)
    assert len(found.path) > 1
    assert set(found.path.columns) == {BANDWIDTH, "cost", "seconds"}
    assert "us a step" in str(found)


def test_three_free_numbers_match_a_brute_force_grid():
    # Kernels of both kinds: two wait for bytes, one for arithmetic; all live in the buffer.
    work = toy_chip.work((4000, 100), (6000, 100), (500, 9000))
    system = emu.System(toy_chip.chip())
    free = ("chip/sram/capacity_bytes", "chip/sram/bandwidth_bytes_per_s")
    free = (*free, "chip/peak_flops_per_s/float32")
    bounds = {free[0]: (1e3, 1e6), free[1]: (1e2, 1e6), free[2]: (1e2, 1e6)}

    def cost(of):
        sram = of.chip.memory("sram")
        peak = of.chip.peak_flops_per_s["float32"].value
        size = sram.capacity_bytes.value
        return size + 2.0 * sram.bandwidth_bytes_per_s.value + 0.5 * peak

    target = Target(work=work, system=system, rules="on-chip", seconds=2.0)
    found = solve(target, free, bounds, cost)
    assert found.fill["sram"] == pytest.approx(1.0, abs=2e-3)  # the capacity binds
    assert found.seconds <= 2.0
    axes = {
        free[0]: np.geomspace(8e3, 2e4, 60),
        free[1]: np.geomspace(1e3, 1e5, 150),
        free[2]: np.geomspace(1e3, 1e5, 150),
    }
    grid = SystemGrid.product(system, axes)
    steps = family(lambda batch, context: work, (1,), (0,), grid, "on-chip").steps(grid)
    met = (steps.seconds[0, 0] <= 2.0) & (steps.missing[0, 0] <= 0)
    size, per_s, peak = grid.numbers.values()
    prices = size + 2.0 * per_s + 0.5 * peak
    assert 0.95 * prices[met].min() <= found.cost <= prices[met].min()


@pytest.mark.parametrize("stack", ["vllm-0.19", "vllm-tpu"])
def test_gradients_agree_with_finite_differences(stack):
    work = toy_work(batch=4, context=100)
    chip = "h100" if stack == "vllm-0.19" else "tpu-v5e"
    system = emu.System(emu.chip(chip), chips=2, tensor=2, stack=stack)
    placement = emu.place(work, system, "off-chip")
    target = Target(work=work, system=system, rules="off-chip", seconds=1e-3)
    elastic = {one.name: one.value for one in Clocked.of(target, placement).elasticities(system)}
    direct = {one.name: one.value for one in emu.sensitivity.elasticities(work, system, placement)}
    base = seconds_of(work, system)
    differences = {}
    for name, value in numbers_of(system):
        if not 0 < value < np.inf:
            continue
        ends = [
            float(emu.predict(work, with_numbers(system, {name: value * by}), placement).seconds)
            for by in (1 - 1e-6, 1 + 1e-6)
        ]
        slope = (ends[1] - ends[0]) / (2e-6 * base)
        if abs(slope) > 1e-7:
            differences[name] = slope
    assert len(differences) >= 4
    chex.assert_trees_all_close({n: elastic[n] for n in differences}, differences, atol=2e-6)
    chex.assert_trees_all_close({n: direct[n] for n in differences}, differences, atol=2e-6)


def test_a_bandwidth_bound_steps_elasticities_sum_to_minus_one():
    work = toy_chip.work((4000, 1), (6000, 1))
    system = emu.System(toy_chip.chip())
    placement = emu.place(work, system, "off-chip")
    target = Target(work=work, system=system, rules="off-chip", seconds=1.0)
    found = Clocked.of(target, placement).elasticities(system)
    assert {one.name: one.value for one in found} == {
        BANDWIDTH: pytest.approx(-1.0),
        "stack/off_chip_share": pytest.approx(-1.0),  # of which the bandwidth is a product
    }
    # Of times: launches and latencies grow with the step, rates shrink it; together they are 1.
    slow = emu.System(
        toy_chip.chip(latency=0.1), stack=toy_chip.stack(per_kernel_s=0.5, exposed_latency=1.0)
    )
    placed = emu.place(work, slow, "off-chip")
    found = Clocked.of(target, placed).elasticities(slow)
    times = sum(one.value for one in found if one.name.endswith("_s") and "per_s" not in one.name)
    rates = sum(one.value for one in found if "per_s" in one.name and "stack" not in one.name)
    assert times - rates == pytest.approx(1.0)


def test_a_smooth_clock_is_never_faster_and_tends_to_the_exact_one():
    work = toy_work(batch=4, context=100)
    system = emu.System(emu.chip("tpu-v5e"), stack="vllm-tpu")
    placement = emu.place(work, system, "off-chip")
    target = Target(work=work, system=system, rules="off-chip", seconds=1e-4)
    clock = Clocked.of(target, placement)
    with jax.enable_x64(True):
        times = [float(clock.seconds(system, smooth)) for smooth in (0.3, 0.03, 1e-3, 0.0)]
    assert times == sorted(times, reverse=True)
    assert times[2] == pytest.approx(times[3], rel=5e-3)
    assert times[3] == pytest.approx(seconds_of(work, system), rel=1e-12)


WRONG = [
    ({"seconds": 0.0}, {}, "seconds above 0"),
    ({"rules": "fit"}, {}, "weights move as capacities do"),
    ({"seconds": 1e-9}, {}, "a step takes .* at least"),
    ({}, {"free": ["chip/hmb/bandwidth_bytes_per_s"]}, "no number 'chip/hmb"),
    ({}, {"free": []}, "at least one number"),
    ({}, {"free": BANDWIDTH}, "free is a list"),
    ({"work": None}, {}, "work must be an emu.Work"),
    ({"seconds": True}, {}, "seconds above 0"),
    ({}, {"bounds": {BANDWIDTH: ("a", "b")}}, "are two numbers"),
    ({}, {"cost": lambda of: math.sqrt(bandwidth(of))}, "what JAX can trace"),
    ({}, {"cost": lambda of: 1 / 0}, "cannot be told of a system .division by zero"),
    ({}, {"starts": {"mine": 3.0}}, "start 'mine' needs a number"),
    ({}, {"starts": {"mine": {BANDWIDTH: "fast"}}}, "start 'mine' needs a number"),
    (
        {},
        {"free": ["stack/off_chip_share"], "bounds": {"stack/off_chip_share": (0.1, 3.0)}},
        "off_chip_share is a share above 0 and up to 1, not 3.0",
    ),
    ({}, {"free": [BANDWIDTH, BANDWIDTH]}, "each once"),
    ({}, {"bounds": {}}, "has no bounds"),
    ({}, {"bounds": {BANDWIDTH: 1e8}}, "are .least, most."),
    ({}, {"cost": lambda of: -1.0}, "above 0 and finite, not -1"),
    ({}, {"starts": {"mine": {}}}, "start 'mine' needs a number"),
    ({}, {"bounds": {BANDWIDTH: (2.0, 1.0)}}, "must rise"),
    ({}, {"bounds": {BANDWIDTH: (1.0, 2.0), "chip/power_w": (1, 2)}}, "is not free"),
]


@pytest.mark.parametrize(("of_target", "of_call", "message"), WRONG)
def test_what_cannot_be_asked(of_target, of_call, message):
    work = toy_chip.work((4000, 1))
    given = {"work": work, "system": emu.System(toy_chip.chip()), "rules": "off-chip"}
    call = {"free": [BANDWIDTH], "bounds": {BANDWIDTH: (1e2, 1e6)}, "cost": bandwidth}
    with pytest.raises(emu.EmuError, match=message):
        solve(Target(**(given | {"seconds": 1.0} | of_target)), **(call | of_call))


def test_tensors_that_fit_nowhere_within_the_bounds():
    work = toy_chip.work((4000, 1))
    name = "chip/sram/capacity_bytes"
    target = Target(work=work, system=emu.System(toy_chip.chip()), rules="on-chip", seconds=10.0)
    with pytest.raises(emu.EmuError, match="must hold 4,000 bytes and has room for 2,000"):
        solve(
            target, [name], {name: (1e2, 2e3)}, lambda of: of.chip.memories[0].capacity_bytes.value
        )

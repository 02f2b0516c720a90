"""Laws of the clock, over random works, chips and stacks."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_chip import chip, op, stack

from emu.chips import Sourced
from emu.placement import place
from emu.system import System
from emu.timing import predict
from emu.work import Leaf, Work

pytestmark = pytest.mark.filterwarnings("error")

COSTS = st.tuples(st.integers(0, 4000), st.integers(0, 4000), st.integers(0, 500))
BODIES = st.lists(
    st.tuples(st.lists(COSTS, min_size=1, max_size=5), st.integers(1, 6)), min_size=1, max_size=3
)
STACKS = st.builds(
    stack,
    prefetch_kernels=st.sampled_from([None, 0, 1, 2, 5]),
    prefetch_bytes=st.sampled_from([1e12, 3000.0, 500.0]),
    per_kernel_s=st.sampled_from([0.0, 0.3]),
    exposed_latency=st.sampled_from([0.0, 1.0]),
)
LAWFUL = settings(max_examples=60)


@st.composite
def works(draw):
    """Loops of kernels; each kernel has a leaf of its own, a row for each repeat."""
    ops, leaves = [], []
    for body, count in draw(BODIES):
        for read, flops, moved in body:
            name = f"w{len(ops)}"
            leaves.append(Leaf(path=name, shape=(count, max(1, read)), dtype="int8"))
            ops.append(
                op(
                    name,
                    read=read,
                    flops=flops,
                    activations=moved,
                    count=count,
                    kernel=len(ops),
                    rows=(0, count),
                )
            )
    return Work(leaves=tuple(leaves), ops=tuple(ops))


@st.composite
def placed(draw, of, system):
    """Each leaf in one memory, or split between the two."""
    rules = []
    for leaf in of.leaves:
        split = draw(st.integers(0, leaf.shape[0]))
        if 0 < split < leaf.shape[0]:
            rules.append((f"{leaf.path}[:{split}]", "sram"))
            rules.append((leaf.path, "hbm"))
        else:
            rules.append((leaf.path, "sram" if split else "hbm"))
    return place(of, system, rules, activations="sram")


@LAWFUL
@given(st.data(), works(), STACKS, st.floats(1.0, 4.0))
def test_more_of_anything_is_never_slower(data, of, software, factor):
    system = System(chip(latency=0.2, buffer=5000.0), stack=software)
    there = data.draw(placed(of, place_on := System(chip(), stack=software)))
    assert place_on.chips == system.chips
    before = predict(of, system, there).seconds
    better = {
        "bandwidth on chip": chip(sram=1e4 * factor, latency=0.2, buffer=5000.0),
        "bandwidth off chip": chip(hbm=1e3 * factor, latency=0.2, buffer=5000.0),
        "peak": chip(peak=1e3 * factor, latency=0.2, buffer=5000.0),
        "latency": chip(latency=0.2 / factor, buffer=5000.0),
        "buffer": chip(latency=0.2, buffer=5000.0 * factor),
    }
    for what, improved in better.items():
        after = predict(of, System(improved, stack=software), there).seconds
        assert after <= before * (1 + 1e-9), what


@LAWFUL
@given(st.data(), works(), STACKS)
def test_nothing_beats_bytes_over_bandwidth_or_flops_over_peak(data, of, software):
    system = System(chip(buffer=5000.0), stack=software)
    there = data.draw(placed(of, System(chip(), stack=software)))
    for smooth in (0.0, 0.1):
        at = predict(of, system, there, smooth=smooth)
        floors = [at.traffic["hbm"] / 1e3, sum(at.traffic.values()) / 1e4, of.flops / 1e3]
        assert at.seconds >= max(floors) * (1 - 1e-9)
        assert sum(at.breakdown.values()) == pytest.approx(at.seconds)
        assert min(at.breakdown.values()) >= -1e-9


@LAWFUL
@given(works(), st.sampled_from(["memory", "compute"]))
def test_an_ideal_system_takes_what_its_one_bound_takes(of, bound):
    fast = chip(sram=1e15, peak=1e15) if bound == "memory" else chip(sram=1e15, hbm=1e15)
    at = predict(of, System(fast), place(of, System(fast), "off-chip", activations="sram"))
    most = max(
        of.weight_bytes / fast.memory("hbm").bandwidth_bytes_per_s.value,
        of.flops / fast.peak("float32").value,
    )
    assert at.seconds == pytest.approx(most, rel=1e-6, abs=1e-9)


@LAWFUL
@given(st.data(), works(), STACKS)
def test_a_weight_in_a_faster_memory_never_hurts(data, of, software):
    system = System(chip(latency=0.1, buffer=5000.0), stack=software)
    roomy = System(chip(), stack=software)
    moved = data.draw(st.sampled_from([leaf.path for leaf in of.leaves]))
    others = [
        (leaf.path, data.draw(st.sampled_from(["sram", "hbm"])))
        for leaf in of.leaves
        if leaf.path != moved
    ]
    times = [
        predict(
            of, system, place(of, roomy, [(moved, memory), *others], activations="sram")
        ).seconds
        for memory in ("sram", "hbm")
    ]
    assert times[0] <= times[1] * (1 + 1e-9)


@LAWFUL
@given(works(), STACKS, st.integers(2, 5))
def test_n_times_the_work_takes_n_times_as_long(of, software, times):
    system = System(chip(buffer=5000.0), stack=software)
    roomy = System(chip(), stack=software)
    one, many = (
        predict(w, system, place(w, roomy, "off-chip", activations="sram")).seconds
        for w in (of, times * of)
    )
    assert many == pytest.approx(times * one)


@LAWFUL
@given(works(), STACKS)
def test_a_loop_takes_as_long_as_its_repeats_written_out(of, software):
    body = tuple(itertools.takewhile(lambda o: o.count == of.ops[0].count, of.ops))
    count = body[0].count
    loop = Work(leaves=of.leaves, ops=body)
    flat = Work(
        leaves=of.leaves,
        ops=tuple(
            dataclasses.replace(one, count=1, kernel=len(body) * repeat + i)
            for repeat in range(count)
            for i, one in enumerate(body)
        ),
    )
    system = System(chip(buffer=5000.0), stack=software)
    roomy = System(chip(), stack=software)
    times = [
        predict(w, system, place(w, roomy, "off-chip", activations="sram")).seconds
        for w in (flat, loop)
    ]
    assert times[0] == pytest.approx(times[1], rel=1e-9, abs=1e-12)


def example():
    costs = [(900, 1500, 100), (3000, 500, 20), (100, 2500, 0), (1200, 1201, 7)]
    ops = tuple(
        op(f"w{i}", read=read, flops=flops, activations=moved, count=3, kernel=i)
        for i, (read, flops, moved) in enumerate(costs)
    )
    leaves = tuple(
        Leaf(path=f"w{i}", shape=(3, cost[0]), dtype="int8") for i, cost in enumerate(costs)
    )
    of = Work(leaves=leaves, ops=ops)
    system = System(
        chip(latency=0.05, buffer=1500.0),
        stack=stack(prefetch_kernels=2, prefetch_bytes=1e12, per_kernel_s=0.1, exposed_latency=0.5),
    )
    rules = [("w3", "sram"), ("**", "hbm")]
    roomy = System(chip(), stack=system.stack)
    return of, system, place(of, roomy, rules, activations="sram")


def scaled(system, factors):
    """The system with each of its numbers multiplied by a factor of its own."""
    numbers, structure = jax.tree_util.tree_flatten(system)
    return jax.tree_util.tree_unflatten(
        structure, [n * f for n, f in zip(numbers, factors, strict=True)]
    )


@pytest.mark.newest
@pytest.mark.parametrize("smooth", [0.0, 0.05])
def test_vmap_is_a_loop(smooth):
    of, system, there = example()
    count = len(jax.tree_util.tree_leaves(system))
    factors = np.random.default_rng(0).uniform(0.5, 2.0, (16, count))

    def one(f):
        return predict(of, scaled(system, f), there, smooth=smooth)

    with jax.enable_x64(True):
        together = jax.vmap(one)(factors)
    alone = [one([float(x) for x in f]) for f in factors]
    np.testing.assert_allclose(together.seconds, [t.seconds for t in alone], rtol=1e-12)
    for part, seconds in together.breakdown.items():
        np.testing.assert_allclose(
            seconds, [t.breakdown[part] for t in alone], rtol=1e-9, atol=1e-9
        )


@pytest.mark.newest
@pytest.mark.parametrize("smooth", [0.0, 0.05])
def test_gradients_are_finite_differences(smooth):
    of, system, there = example()
    numbers = jax.tree_util.tree_leaves(system)
    ones = np.ones(len(numbers))

    def seconds(f):
        return predict(of, scaled(system, list(f)), there, smooth=smooth).seconds

    with jax.enable_x64(True):
        gradient = np.asarray(jax.grad(seconds)(ones))
    assert np.any(gradient != 0)
    for i in range(len(numbers)):
        near = [seconds([*ones[:i], 1 + h, *ones[i + 1 :]]) for h in (1e-6, -1e-6)]
        assert gradient[i] == pytest.approx((near[0] - near[1]) / 2e-6, rel=1e-4, abs=1e-6)


def test_smoothing_rounds_the_corners_upwards_and_vanishes():
    of, system, there = example()
    exact = predict(of, system, there).seconds
    soft = [predict(of, system, there, smooth=s).seconds for s in (0.3, 0.1, 0.01, 0.001)]
    assert soft == sorted(soft, reverse=True)
    assert exact <= soft[-1] <= 1.01 * exact


@pytest.mark.newest
def test_float64_inside_float32_and_no_flag_changed():
    of, system, there = example()
    before = jax.config.jax_enable_x64
    slope = jax.grad(
        lambda b: predict(of, scaled(system, [b, *[1.0] * 99][: len(leaves)]), there).seconds
    )
    leaves = jax.tree_util.tree_leaves(system)
    assert np.isfinite(slope(1.0))
    assert jax.config.jax_enable_x64 == before
    assert isinstance(system.chip.memories[0].bandwidth_bytes_per_s, Sourced)

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import emu
from emu.chips import Chip, Curve, Memory, Sourced
from emu.curves import least_seconds, missing_share, read_seconds, reads_of
from emu.edge import GONE, MISSING
from emu.schedule import schedule
from emu.stacks import IDEAL
from emu.system import System

CURVE = Curve(
    dtype="float32",
    read_bytes=(1e5, 1e6, 1e7),
    bytes_per_s=(1e10, 5e10, 1e11),  # 10, 20 and 100 µs
    source="a test",
    kind="measured",
)
CALL_S = 4e-6
HOST = dataclasses.replace(
    IDEAL,
    name="host",
    prefetch_kernels=0,
    per_kernel_s=Sourced(value=CALL_S, source="a test", kind="measured"),
)


def sourced(value, **more):
    return Sourced(value=value, source="a test", kind="measured", **more)


def chip(held=1e8, gone=2e8):
    slow = dataclasses.replace(CURVE, bytes_per_s=(5e9, 1e10, 2e10))  # 20, 100 and 500 µs
    return Chip(
        name="host",
        vendor="a test",
        peak_flops_per_s={"float32": sourced(1e15)},
        memories=tuple(
            Memory(
                name=name,
                placement=placement,
                capacity_bytes=capacity,
                bandwidth_bytes_per_s=sourced(curve.bytes_per_s[-1]),
                latency_s=sourced(1e-7),
                curves=(curve,),
                mechanism="rotation",
            )
            for name, placement, capacity, curve in (
                ("llc", "on-chip", sourced(held, high=gone), CURVE),
                ("dram", "off-chip", sourced(1e12), slow),
            )
        ),
    )


def products(sides):
    """Products of a vector with square matrices, a row for each, and nothing between them."""
    weights = {str(i): jax.ShapeDtypeStruct((n, n), jnp.float32) for i, n in enumerate(sides)}

    def fn(weights, x):
        return [jnp.dot(w, x[: w.shape[0]]) for w in weights.values()]

    return emu.trace(fn, weights, jax.ShapeDtypeStruct((max(sides),), jnp.float32))


def least(work, rules, stack=HOST, of=None):
    of = of or chip()
    system = System(of, stack=stack)
    placement = emu.place(work, system, rules, allow_overflow=True)
    planned = schedule(work, placement, stack.prefetch_kernels)
    return planned, least_seconds(reads_of(planned, placement), system)


@given(st.floats(1.0, 1e9))
def test_an_array_of_reads_takes_what_the_curve_says_of_each(size):
    sizes = np.array([0.0, size, 1e5, 3e6, 1e7, 2e7])
    found = read_seconds(CURVE, sizes)
    np.testing.assert_allclose(found, [CURVE.seconds(n) for n in sizes], rtol=1e-12)


def test_it_does_so_through_jax():
    sizes = np.array([0.0, 3e4, 1e5, 3e6, 1e7, 2e7])
    found = read_seconds(CURVE, sizes)
    with jax.enable_x64(True):
        np.testing.assert_allclose(read_seconds(CURVE, sizes, jnp), found, rtol=1e-12)


def test_a_product_takes_what_its_read_takes_without_the_call_that_the_stack_counts():
    side = 500  # 1 MB
    for rules, curve_s in (("on-chip", 20e-6), ("off-chip", 100e-6)):
        planned, (seconds,) = least(products([side]), rules)
        assert seconds.max() == pytest.approx(curve_s - CALL_S)
        assert np.count_nonzero(seconds) == 1
        assert len(seconds) == len(planned.rows)


def test_curves_say_nothing_for_stacks_that_fetch_ahead_and_chips_without_them():
    work = products([500])
    assert least(work, "on-chip", stack=IDEAL)[1] == []
    plain = dataclasses.replace(
        chip(), memories=tuple(dataclasses.replace(m, curves=()) for m in chip().memories)
    )
    assert least(work, "on-chip", of=plain)[1] == []


def test_what_misses_at_the_edge_comes_from_the_memory_behind():
    work = products([500] * 4)  # 4 MB a step
    of = chip(held=4e6, gone=8e6)
    _, (seconds,) = least(work, "on-chip", of=of)
    mixed = (1 - MISSING) * 20e-6 + MISSING * 100e-6
    assert seconds.max() == pytest.approx(mixed - CALL_S)
    _, (seconds,) = least(work, "on-chip", of=chip(held=1e5, gone=2e5))
    assert seconds.max() == pytest.approx(100e-6 - CALL_S)
    # What is meant to come from off chip passes through the cache too.
    rules = [("0", "on-chip"), ("**", "off-chip")]
    _, (seconds,) = least(work, rules, of=of)
    # The three from off chip are alike, and one row.
    assert sorted(seconds)[-2:] == pytest.approx([mixed - CALL_S, 100e-6 - CALL_S])


def test_the_share_that_is_missing_rises_through_the_two_measured_points():
    llc, dram = chip(held=20e6, gone=40e6).memories
    assert missing_share(llc, 20e6) == pytest.approx(MISSING)
    assert missing_share(llc, 40e6) == pytest.approx(GONE)
    assert missing_share(llc, 30e6) == pytest.approx((MISSING + GONE) / 2)
    assert missing_share(llc, 1e6) == 0
    assert missing_share(llc, 1e9) == 1
    assert missing_share(dram, 1e12) == 0
    sharp = dataclasses.replace(llc, capacity_bytes=sourced(20e6))
    assert missing_share(sharp, 19e6) == 0
    assert missing_share(sharp, 21e6) == 1


def test_a_row_of_two_memories_takes_its_share_of_each():
    one = {"a": jax.ShapeDtypeStruct((1000, 500), jnp.float32)}
    work = emu.trace(lambda w, x: w["a"] @ x, one, jax.ShapeDtypeStruct((500,), jnp.float32))
    _, (seconds,) = least(work, [("a[:500]", "on-chip"), ("**", "off-chip")])
    whole = [CURVE.seconds(2e6), chip().memories[1].curves[0].seconds(2e6)]
    assert seconds.max() == pytest.approx(sum(whole) / 2 - CALL_S)


def test_gradients_go_through():
    work = products([500])
    system = System(chip(), stack=HOST)
    placement = emu.place(work, system, "on-chip")
    reads = reads_of(schedule(work, placement, 0), placement)

    def seconds(system):
        return jnp.sum(least_seconds(reads, system, jnp)[0])

    with jax.enable_x64(True):
        slope = jax.grad(seconds)(jax.tree.map(jnp.asarray, system))
    # 1 MB is a measured size: seconds = 1e6 / bandwidth, but for one side of the kink.
    of_curve = float(slope.chip.memories[0].curves[0].bytes_per_s[1])
    assert of_curve == pytest.approx(-1e6 / 5e10**2)
    assert float(slope.software.per_kernel_s.value) == -1

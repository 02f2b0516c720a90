"""The clock on works whose time can be told by hand: HBM of 1 kB/s, 1 kFLOP/s."""

from functools import partial

import jax
import pytest
from toy_chip import chip, op, sourced, stack, work
from toy_decoder import Toy, step

import emu
from emu.errors import EmuError
from emu.placement import place
from emu.system import System
from emu.timing import predict
from emu.work import Access, Leaf, Op, Work


def seconds(of, system, rules="off-chip", **options):
    return predict(of, system, place(of, system, rules, activations="sram"), **options).seconds


@pytest.mark.newest
def test_a_step_bound_by_memory_takes_bytes_over_bandwidth():
    of = work((3000, 10), (2000, 20), (1, 0))
    assert seconds(of, System(chip())) == pytest.approx(5.001)


def test_a_step_bound_by_arithmetic_takes_flops_over_peak():
    of = work((10, 3000), (0, 4000), (20, 1000))
    assert seconds(of, System(chip())) == pytest.approx(8.0)


def test_without_prefetch_each_kernel_waits_for_its_own_bytes():
    of = work((1000, 5000), (5000, 1000))
    assert seconds(of, System(chip(), stack=stack())) == pytest.approx(10.0)
    # Ahead without bound, the port reads 6 s while the arithmetic takes 6 s.
    assert seconds(of, System(chip())) == pytest.approx(6.0)


def test_a_buffer_bounds_what_is_fetched_ahead():
    of = work((1000, 5000), (5000, 1000))
    # 2000 bytes of the next kernel's 5000 are there when it begins: 5 s, then 3 s more.
    assert seconds(of, System(chip(buffer=2000.0))) == pytest.approx(8.0)
    ahead = stack(prefetch_kernels=None, prefetch_bytes=500.0)
    # Half of the first kernel's bytes and a tenth of the second's are there when they begin.
    assert seconds(of, System(chip(), stack=ahead)) == pytest.approx(5.0 + 4.5)


def test_one_kernel_ahead_is_not_two():
    of = work((0, 4000), (0, 4000), (3000, 0), (3000, 0))
    fast = chip(sram=1e9)
    assert seconds(of, System(fast)) == pytest.approx(8.0)
    # The fourth is fetched only once the third runs, which it does at once: 3 s more.
    one = System(fast, stack=stack(prefetch_kernels=1))
    assert seconds(of, one) == pytest.approx(11.0)
    two = System(fast, stack=stack(prefetch_kernels=2))
    assert seconds(of, two) == pytest.approx(8.0)


def test_launches_and_latency_are_paid_for_each_kernel():
    of = work((1000, 0), (1000, 0), count=3)
    slow = stack(per_kernel_s=0.5, per_step_s=7.0, exposed_latency=0.5)
    assert seconds(of, System(chip(latency=0.2), stack=slow)) == pytest.approx(
        7.0 + 6 * (0.5 + 0.5 * 0.2 + 1.0)
    )
    ahead = stack(per_kernel_s=0.5, prefetch_kernels=1)  # the port goes on during a launch
    assert seconds(of, System(chip(), stack=ahead)) == pytest.approx(6.0)


def test_shares_of_bandwidth_and_peak():
    half = stack(off_chip_share=0.5, on_chip_share=0.1, compute_share=0.25)
    assert seconds(work((1000, 10)), System(chip(), stack=half)) == pytest.approx(2.0)
    assert seconds(work((1000, 10)), System(chip(), stack=half), "on-chip") == pytest.approx(1.0)
    assert seconds(work((0, 1000)), System(chip(), stack=half)) == pytest.approx(4.0)


def test_what_comes_from_behind_passes_through_the_memory_in_front():
    narrow = System(chip(sram=500.0))
    assert seconds(work((1000, 0)), narrow) == pytest.approx(2.0)


def test_weights_enter_no_faster_than_they_can():
    slow = System(chip(weight_entry_bytes_per_s=sourced(2000.0)))
    assert seconds(work((4000, 0)), slow, "on-chip") == pytest.approx(2.0)


def test_a_stack_in_two_memories_is_two_loops():
    leaf = Leaf(path="layers/w", shape=(10, 100), dtype="int8")
    of = Work(leaves=(leaf,), ops=(op("layers/w", read=100, count=10, rows=(0, 10)),))
    rules = [("layers[:4]/**", "sram"), ("**", "hbm")]
    # 4 layers of 100 B at 10 kB/s, 6 at 1 kB/s.
    plain = System(chip(), stack=stack())
    assert seconds(of, plain, rules) == pytest.approx(4 * 0.01 + 6 * 0.1)
    assert predict(of, plain, place(of, plain, rules)).traffic == {"sram": 400, "hbm": 600}


def test_collectives_take_hops_and_bytes():
    exchange = {"kind": "all_reduce", "bytes": 50, "group": 4}
    of = work((1000, 0))
    of = Work(leaves=of.leaves, ops=(*of.ops, op(collective=exchange, kernel=1)))
    system = System(chip(hop=0.25), stack=stack())
    at = predict(of, system, place(of, system, "off-chip"))
    # One shot: 0.25 + 3 * 50 / 100 = 1.75 s; two: 0.5 + 2 * 3/4 * 50 / 100 = 1.25 s.
    assert at.seconds == pytest.approx(1.0 + 1.25)
    assert at.breakdown["collectives"] == pytest.approx(1.25)


def test_the_breakdown_says_who_waits_for_what():
    reads = (
        Access(tensor="w", kind="weights", bytes=3000),
        Access(tensor="cache/k", kind="cache", bytes=1000),
    )
    leaves = (
        Leaf(path="w", shape=(3000,), dtype="int8"),
        Leaf(path="cache/k", shape=(1000,), dtype="int8", kind="cache"),
    )
    ops = (
        Op(name="dot", kind="dot", reads=reads, kernel=0),
        op(flops=2000, kernel=1),
    )
    of = Work(leaves=leaves, ops=ops)
    system = System(chip(), stack=stack(per_kernel_s=0.5, per_step_s=1.0))
    at = predict(of, system, place(of, system, "off-chip"))
    assert at.breakdown == pytest.approx(
        {
            "weights": 3.0,
            "cache": 1.0,
            "activations": 0.0,
            "compute": 2.0,
            "collectives": 0.0,
            "overhead": 2.0,
        }
    )
    assert at.seconds == pytest.approx(8.0)
    assert "8000 ms a step" in str(at)


def test_energy_is_power_times_time_where_the_power_is_stated():
    of = work((1000, 0))
    assert predict(of, System(chip()), place(of, System(chip()), "off-chip")).energy_j is None
    known = System(chip(power_w=sourced(300.0)))
    assert predict(of, known, place(of, known, "off-chip")).energy_j == pytest.approx(300.0)


def test_spans_end_when_the_step_does_and_do_not_overlap_on_a_resource():
    of = work((1000, 5000), (5000, 1000), (0, 2000), (4000, 100), count=2)
    for stacked in (stack(per_kernel_s=0.1), stack(prefetch_kernels=1), "ideal"):
        system = System(chip(buffer=2500.0), stack=stacked)
        at = predict(of, system, place(of, system, "off-chip"))
        last = {}
        for span in at.spans:
            assert span.start_s >= last.get(span.resource, 0.0) - 1e-12
            last[span.resource] = span.start_s + span.seconds
        assert max(last.values()) == pytest.approx(at.seconds)


def test_what_cannot_be_asked_is_refused():
    of = work((10, 10))
    system = System(chip())
    there = place(of, system, "off-chip")
    with pytest.raises(EmuError, match="placed with chips=1 and the system has chips=2"):
        predict(of, System(chip(), chips=2, data=2), there)
    pool = System(chip(), chips=2)
    with pytest.raises(EmuError, match="such as tensor=2"):
        predict(of, pool, place(of, pool, "off-chip"))
    with pytest.raises(EmuError, match="whose memories are not those of 'groq-lpu-v1'"):
        predict(of, System(emu.chip("groq-lpu-v1")), there)
    double = Op(name="dot", kind="dot", flops={"float64": 1}, kernel=0)
    with pytest.raises(EmuError, match="has no peak FLOP/s for float64"):
        predict(Work(leaves=of.leaves, ops=(double,)), system, there)
    with pytest.raises(EmuError, match="touches 'w1', which the placement does not place"):
        predict(work((10, 10), (10, 10)), system, there)
    with pytest.raises(EmuError, match=r"predict: system must be an emu.System, not of type Pl"):
        predict(of, there, system)
    with pytest.raises(EmuError, match="smooth must be from 0 to below 1"):
        predict(of, system, there, smooth=1.0)
    with pytest.raises(EmuError, match="there is no stack 'idea'; the nearest is 'ideal'"):
        System(chip(), stack="idea")
    with pytest.raises(EmuError, match="no operations"):
        predict(Work(leaves=of.leaves), system, there)
    jitted = jax.jit(lambda s: predict(of, s, there))(system)
    assert float(jitted.seconds) == pytest.approx(0.01)
    with pytest.raises(EmuError, match="spans are built for one system of plain numbers"):
        _ = jitted.spans
    long = predict(300_000 * of, system, there)
    with pytest.raises(EmuError, match="runs 300,000 kernels: spans are drawn for at most"):
        _ = long.spans


def decode(toy, stacked, **hints):
    return emu.trace(
        partial(step, toy),
        toy.weights(stacked),
        toy.cache(stacked),
        *toy.tokens(),
        cache=1,
        hints=hints,
    )


@pytest.mark.parametrize("depth", [0, 3, None])
def test_layers_scanned_and_written_out_take_equally_long(depth):
    times = []
    for stacked in (False, True):
        of = decode(Toy(layers=6), stacked, context=20)
        system = System(chip(buffer=3e4), stack=stack(prefetch_kernels=depth, per_kernel_s=0.01))
        times.append(seconds(of, system))
    # Between the layers the scan moves what it carries; all else is alike.
    assert times[0] == pytest.approx(times[1], rel=0.01)


LLAMA_8B = Toy(
    layers=32,
    width=4096,
    heads=32,
    kv_heads=8,
    head=128,
    mlp=14336,
    vocab=128256,
    length=8192,
    dtype="bfloat16",
)


@pytest.mark.newest
@pytest.mark.parametrize("stacked", [False, True])
def test_llama_8b_on_an_a100(stacked):
    of = decode(LLAMA_8B, stacked, context=2000)
    # 32 layers of (2*4096*4096 + 2*4096*1024 + 3*4096*14336) weights, the head, the norms, one
    # embedding row; in bfloat16.
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096
    held = 2 * (32 * layer + 4096 * 128256 + 4096 + 4096)
    assert of.weight_bytes == held == pytest.approx(15.0e9, rel=0.001)
    system = System(emu.chip("a100-80gb"))
    at = predict(of, system, place(of, system, "off-chip"))
    assert 7.36e-3 <= held / 2.039e12 <= at.seconds < 1.03 * held / 2.039e12


def test_every_chip_of_the_catalogue_has_a_time():
    of = decode(Toy(dtype="bfloat16"), False, context=20)
    for name in set(emu.chips()) - {"host"}:
        system = System(emu.chip(name))
        placed = place(of, system, system.chip.memories[0].placement)
        assert 0 < predict(of, system, placed).seconds < 1, name

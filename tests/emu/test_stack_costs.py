"""What a stack adds, number by number, on works whose time can be told by hand."""

import dataclasses

import pytest
from toy_chip import chip, op, sourced, stack, work

import emu
from emu import exchanges
from emu.chips import Link
from emu.counted import layers_of_experts, tokens_given, unpacked, with_all_experts
from emu.errors import EmuError
from emu.placement import place
from emu.rates import peaks_of
from emu.schedule import schedule
from emu.system import System
from emu.work import Access, Collective, Dot, Leaf, Op, Routed, Work


def step(of, on=None, static=None, **numbers):
    software = dataclasses.replace(stack(**numbers), **(static or {}))
    system = System(on or chip(), stack=software)
    return emu.predict(of, system, place(of, system, "off-chip", activations="sram"))


def product(read, routed=None, kind="weights", leaf="w", kernel=0, dot=(1, 1, 4, 4), count=1):
    access = Access(tensor=leaf, kind=kind, bytes=read, routed=routed)
    batch, m, n, k = dot
    return Op(
        name="dot_general",
        kind="dot",
        count=count,
        flops={"float32": 2},
        reads=(access,),
        kernel=kernel,
        dot=Dot(batch=batch, m=m, n=n, k=k),
    )


def leaf(path="w", size=1000, dtype="int8", kind="weights"):
    return Leaf(path=path, shape=(size,), dtype=dtype, kind=kind)


def test_a_cache_may_be_read_more_slowly_than_weights():
    cache = leaf("cache/k", kind="cache")
    of = Work(
        leaves=(leaf(dtype="float32"), cache),
        ops=(product(1000), product(1000, kind="cache", leaf="cache/k", kernel=1)),
    )
    assert step(of).seconds == pytest.approx(2.0)
    assert step(of, cache_share=0.5).seconds == pytest.approx(3.0)
    assert step(of, off_chip_share=0.5, cache_share=0.5).seconds == pytest.approx(6.0)


def test_integers_are_unpacked_by_the_arithmetic_units():
    of = Work(leaves=(leaf(),), ops=(product(1000),))
    assert step(of, unpack_flops=3.0).seconds == pytest.approx(1.0 + 3.0)
    packed = Work(leaves=(leaf(dtype="uint8"),), ops=(product(1000),))
    assert step(packed, unpack_flops=3.0).seconds == pytest.approx(1.0 + 6.0)
    floats = Work(leaves=(leaf(dtype="float8_e4m3fn"),), ops=(product(1000),))
    assert step(floats, unpack_flops=3.0).seconds == pytest.approx(1.0)
    assert step(of, per_unpack_s=5.0).seconds == pytest.approx(1.0 + 5.0)
    assert step(floats, per_unpack_s=5.0).seconds == pytest.approx(1.0)


def test_float4_is_unpacked_where_the_chip_does_not_multiply_it():
    in_float4 = dataclasses.replace(product(1000), flops={"float4_e2m1fn": 2})
    of = Work(leaves=(leaf(dtype="uint8"),), ops=(in_float4,))
    software = stack(unpack_flops=3.0, per_unpack_s=5.0)
    for peaks, unpacking in ({"bfloat16": sourced(1.0)}, 6.0), ({"float4": sourced(1.0)}, 0.0):
        has = {"float32": sourced(1000.0), **peaks}
        system = System(dataclasses.replace(chip(), peak_flops_per_s=has), stack=software)
        before = 5.0 + unpacking  # activations are narrowed, or weights unpacked
        at = emu.predict(of, system, place(of, system, "off-chip"))
        assert at.seconds == pytest.approx(before + 2.0)  # two FLOPs, at the peak that serves them
    without = dataclasses.replace(chip(), peak_flops_per_s={"float8": sourced(1.0)})
    with pytest.raises(EmuError, match="no peak FLOP/s for bfloat16: it has float8"):
        peaks_of((("float4_e2m1fn", True),), without)


def test_measured_shares_and_kernels_count_only_where_the_stack_says_so():
    one = chip()
    memories = tuple(dataclasses.replace(m, achieved_share=sourced(0.5)) for m in one.memories)
    on = dataclasses.replace(one, memories=memories, kernel_s=sourced(0.25))
    of = work((1000, 0))
    assert step(of, on).seconds == pytest.approx(1.0)
    as_measured = {"as_measured": True}
    assert step(of, on, as_measured).seconds == pytest.approx(2.25)
    assert step(of, on, as_measured, per_kernel_s=0.5).seconds == pytest.approx(2.75)


def test_a_link_gives_what_software_and_measurements_leave_of_it():
    wire = Link(
        name="wire",
        topology="switch",
        bandwidth_bytes_per_s=sourced(100.0),
        latency_s=sourced(0.0),
        achieved_share=sourced(0.5),
    )
    on = dataclasses.replace(chip(), links=(wire,))
    sent = op(collective={"kind": "permute", "bytes": 100, "group": 2})
    of = Work(leaves=(), ops=(sent,))
    assert of.ops[0].collective == Collective(kind="permute", bytes=100, group=2)
    assert step(of, on).seconds == pytest.approx(1.0)
    assert step(of, on, link_share=0.5).seconds == pytest.approx(2.0)
    assert step(of, on, {"as_measured": True}, link_share=0.5).seconds == pytest.approx(4.0)
    assert step(of, on, per_exchange_s=0.125).seconds == pytest.approx(1.125)


def test_tokens_and_layers_of_experts_are_paid_for_once_a_step():
    routed = Routed(experts=8, chosen=2, tokens=3)
    ops = (
        product(10, routed, kernel=0, count=5),
        product(10, routed, kernel=1, count=5),
        product(10, kernel=2, count=5),
        product(10, kernel=3, dot=(1, 3, 100, 4)),
    )
    of = Work(leaves=(leaf(dtype="float32"),), ops=ops)
    assert layers_of_experts(of) == 5
    assert tokens_given(of) == 3
    plain = step(of).seconds
    assert step(of, per_routing_s=2.0).seconds == pytest.approx(plain + 10.0)
    assert step(of, per_sequence_s=2.0).seconds == pytest.approx(plain + 6.0)
    at = step(of, per_step_s=1.0, per_sequence_s=2.0)
    assert at.breakdown["overhead"] == pytest.approx(7.0)
    assert max(s.start_s + s.seconds for s in at.spans) == pytest.approx(at.seconds)


def test_a_static_schedule_reads_all_experts():
    routed = Routed(experts=8, chosen=2, tokens=1)
    of = Work(leaves=(leaf(dtype="float32"),), ops=(product(250, routed),))
    assert with_all_experts(of).ops[0].reads[0].bytes == 1000
    assert step(of).seconds == pytest.approx(0.25)
    assert step(of, None, {"all_experts": True}).seconds == pytest.approx(1.0)


def test_only_weights_in_products_are_unpacked():
    of = Work(
        leaves=(leaf(), leaf("cache/k", kind="cache")),
        ops=(product(1000, kind="cache", leaf="cache/k"),),
    )
    system = System(chip(), stack=stack())
    (row,) = schedule(of, place(of, system, "off-chip"), 0).rows
    assert unpacked(row, {"w": "int8", "cache/k": "int8"}, emu.chip("b200")) == 0


def exchanged(count, group, link=(), **software):
    """Seconds of one all-reduce over links of 1 byte a second and hops of 1 second."""
    joined = Link(
        name="net",
        bandwidth_bytes_per_s=sourced(1.0),
        latency_s=sourced(1.0),
        nodes=64,
        **{name: sourced(value) for name, value in dict(link).items()},
    )
    of = Collective(kind="all_reduce", bytes=count, group=group)
    on = dataclasses.replace(chip(), links=(joined,))
    return exchanges.seconds(exchanges.way_of(on, of.group, **software), of.kind, of.bytes)


def test_weights_laid_out_over_two_dimensions_exchange_less():
    # 64 chips, two shots: 2 hops and 2 * 63/64 * 640 = 1260 bytes, or 4 ÷ √64 of them.
    assert exchanged(640, 64) == pytest.approx(2 + 1260)
    assert exchanged(640, 64, two_dimensional=True) == pytest.approx(2 + 630)
    assert exchanged(640, 16, two_dimensional=True) == exchanged(640, 16)


def test_large_exchanges_may_go_by_another_algorithm():
    slow = {"achieved_share": 0.1}
    both = {**slow, "streamed_share": 1.0, "streamed_start_s": 100.0}
    # 4 chips: 2 * 3/4 of the bytes, at a tenth of a byte a second or, after 100 seconds, at one.
    assert exchanged(400, 4, slow, as_measured=True) == pytest.approx(2 + 6000)
    assert exchanged(400, 4, both, as_measured=True) == pytest.approx(100 + 600)
    assert exchanged(4, 4, both, as_measured=True) == pytest.approx(2 + 60)
    assert exchanged(400, 4, both) == pytest.approx(2 + 600)  # nothing is as measured

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu import drift, small_steps, streams
from emu.chips import Chip, Curve, Memory, Sourced
from emu.drift import Drift, Now, References, Retimed, Turn, around, drifted, drifts
from emu.errors import EmuError
from emu.stacks import IDEAL

SIZES = (10_000.0, 100_000.0, 1_000_000.0)
THEN = {"llc": (1e10, 5e10, 1e11), "dram": (5e9, 1e10, 2e10)}


def sourced(value, **more):
    return Sourced(value=value, source="a test", kind="measured", **more)


def chip(mechanism="rotation", dtypes=("float32", "int8"), sizes=SIZES):
    return Chip(
        name="host",
        vendor="a test",
        memories=tuple(
            Memory(
                name=name,
                placement=placement,
                capacity_bytes=sourced(capacity, high=2 * capacity),
                bandwidth_bytes_per_s=sourced(THEN[name][-1]),
                latency_s=sourced(1e-7),
                curves=tuple(
                    Curve(
                        dtype=dtype,
                        read_bytes=sizes,
                        bytes_per_s=THEN[name][: len(sizes)],
                        source="a test",
                        kind="measured",
                    )
                    for dtype in dtypes
                ),
                mechanism=mechanism,
            )
            for name, placement, capacity in (("llc", "on-chip", 1e5), ("dram", "off-chip", 1e9))
        ),
    )


def read(size, factor, memory="dram", dtype="float32"):
    """A read that gives so many times the bandwidth of then."""
    then_s = chip().memory(memory).seconds(size, dtype)
    return Drift(memory=memory, dtype=dtype, read_bytes=size, then_s=then_s, now_s=then_s / factor)


def retimed(seconds, **more):
    given = {"memory": "dram", "dtype": "float32", "read_bytes": 100_000, **more}
    return Retimed(seconds=tuple(seconds), **given)


def test_a_memory_that_gives_half_takes_twice_as_long_at_every_size():
    now = drifted(chip(), [read(100_000, 0.5)])
    before, after = chip().memory("dram"), now.memory("dram")
    for size in (100, 10_000, 33_000, 100_000, 5_000_000):
        assert after.seconds(size) == pytest.approx(2 * before.seconds(size))
        assert after.seconds(size, "int8") == before.seconds(size, "int8")
    assert after.bandwidth_bytes_per_s.value == before.bandwidth_bytes_per_s.value / 2
    told = "a test, scaled by float32 reads of 0.10 MB that were timed again"
    assert after.curves[0].source == after.bandwidth_bytes_per_s.source == told
    assert after.capacity_bytes == before.capacity_bytes
    assert now.memory("llc") == chip().memory("llc")


@given(st.floats(0.1, 10), st.floats(0.1, 10))
def test_each_read_takes_what_it_takes_now_and_those_between_lie_between(small, large):
    found = [read(1_000_000, large), read(10_000, small)]  # in any order
    now, then = (of.memory("dram") for of in (drifted(chip(), found), chip()))
    for one in found:
        assert now.seconds(one.read_bytes) == pytest.approx(one.now_s)
    middle = then.seconds(100_000) / now.seconds(100_000)
    assert middle == pytest.approx(np.sqrt(small * large))  # half way, in logarithms


def test_without_a_drift_the_chip_is_as_it_was():
    assert drifted(chip(), ()) == chip()
    same = drifted(chip(), [read(int(n), 1.0) for n in SIZES]).memory("dram").curves[0]
    assert same.bytes_per_s == pytest.approx(THEN["dram"])


def test_each_memory_and_size_drifts_by_itself():
    turns = [retimed([1e-5]), retimed([4e-6], memory="llc"), retimed([1e-4], read_bytes=1_000_000)]
    found = drifts(chip(), turns)
    assert [one.factor for one in found] == pytest.approx([1.0, 0.5, 0.5])
    assert drifts(chip(), ()) == ()


def test_the_sizes_timed_again_have_those_asked_for_between():
    curve = chip().memory("dram").curves[0]
    assert around(curve, [20_000, 50_000]) == (10_000, 100_000)
    assert around(curve, [100_000]) == (100_000,)
    assert around(curve, [150_000, 9e9]) == (100_000, 1_000_000)
    assert around(curve, [1]) == (10_000,)


@pytest.fixture(scope="module")
def references():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "ROUND_S", 1e-5)
        patch.setattr(streams, "CHAIN", 2)
        yield References(chip(sizes=SIZES[:2]), "float32", [50_000])


def test_reads_and_small_programs_are_timed_turn_after_turn(references):
    turns = [references.take(), references.take()]
    for turn in turns:
        assert {(one.memory, one.read_bytes) for one in turn.reads} == set(
            itertools.product(("llc", "dram"), (10_000, 100_000))
        )
        times = [one.seconds for one in turn.reads] + list(zip(*turn.starts, strict=True))
        assert all(len(rounds) == drift.ROUNDS and min(rounds) > 0 for rounds in times)
    now = references.now(turns)
    assert all(one.factor > 0 for one in now.reads)
    assert 0 <= now.per_kernel_s < 1e-2
    assert 0 <= now.per_step_s < 1


def a_turn(*seconds, calm=True):
    """Reads of so many seconds; 5 µs a step, 3 µs a small kernel, 2 µs a product."""
    lengths = (small_steps.SHORT, small_steps.LONG)
    short_s, long_s = (5e-6 + 3e-6 * (2 * n + 1) + 2e-6 * 2 * n for n in lengths)
    return Turn(reads=(retimed(seconds),), starts=((short_s, long_s, 2e-6),), calm=calm)


def test_now_is_the_median_of_undisturbed_turns(references):
    slow = dataclasses.replace(a_turn(9.0, calm=False), starts=((1.0, 1.0, 1.0),))
    now = references.now([a_turn(3e-5, 2e-5, 1e-5), slow, a_turn(4e-5, 5e-5)])
    (one,) = now.reads
    assert (one.memory, one.dtype, one.read_bytes) == ("dram", "float32", 100_000)
    assert one.now_s == 3e-5
    assert one.then_s == pytest.approx(1e-5)
    assert one.factor == pytest.approx(1 / 3)
    assert now.per_step_s == pytest.approx(5e-6)
    assert now.per_kernel_s == pytest.approx(3e-6)


def test_where_every_turn_was_disturbed_it_is_of_all(references):
    now = references.now([a_turn(2e-5, calm=False), a_turn(4e-5, calm=False)])
    assert now.reads[0].now_s == pytest.approx(3e-5)
    with pytest.raises(EmuError, match="take a turn before"):
        references.now([])


def test_now_changes_a_chip_and_a_stack_by_what_was_timed_again():
    assert Now().chip(chip()) == chip()
    assert Now().stack(IDEAL) == IDEAL
    found = (read(100_000, 0.5),)
    now = Now(reads=found, per_step_s=5e-6, per_kernel_s=3e-6)
    assert now.chip(chip()) == drifted(chip(), found)
    stack = now.stack(IDEAL)
    assert (stack.per_step_s.value, stack.per_kernel_s.value) == (5e-6, 3e-6)
    assert stack.per_kernel_s.source == f"{IDEAL.per_kernel_s.source}, timed again"
    as_it_was = {"per_step_s": IDEAL.per_step_s, "per_kernel_s": IDEAL.per_kernel_s}
    assert dataclasses.replace(stack, **as_it_was) == IDEAL


def test_what_was_not_measured_is_refused():
    sizes = [50_000]
    with pytest.raises(EmuError, match=r"bfloat16 from llc of 'host' were not measured \(measured"):
        References(chip(), "bfloat16", sizes)
    with pytest.raises(EmuError, match=r"were: none\), so that there is nothing"):
        References(chip(dtypes=()), "float32", sizes)
    with pytest.raises(EmuError, match="llc of 'host' is not read by rotation"):
        References(chip(mechanism="memory-kind"), "float32", sizes)
    for wrong in ([], [0], [-1.0]):
        with pytest.raises(EmuError, match="need sizes of some bytes"):
            References(chip(), "float32", wrong)
    with pytest.raises(EmuError, match="has no memory 'tape'"):
        drifted(chip(), [dataclasses.replace(read(100_000, 1.0), memory="tape")])
    with pytest.raises(EmuError, match="bfloat16 from dram"):
        drifted(chip(), [dataclasses.replace(read(100_000, 1.0), dtype="bfloat16")])
    for name in ("then_s", "now_s", "read_bytes"):
        with pytest.raises(EmuError, match="takes some seconds, then and now"):
            dataclasses.replace(read(100_000, 1.0), **{name: 0})

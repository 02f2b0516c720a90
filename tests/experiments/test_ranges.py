import dataclasses
import math

import pytest

import emu
from emu.stacks import IDEAL
from experiments.ranges import range_of


def number(value: float, low: float | None = None, high: float | None = None) -> emu.Sourced:
    return emu.Sourced(value=value, source="a test", kind="assumed", low=low, high=high)


def system(**stack: emu.Sourced) -> emu.System:
    hbm = emu.Memory(
        name="hbm",
        placement="off-chip",
        capacity_bytes=number(100.0, 50.0, 200.0),
        bandwidth_bytes_per_s=number(8.0, 4.0, 16.0),
        latency_s=number(0.0),
    )
    chip = emu.Chip(name="toy", vendor="nobody", memories=(hbm,))
    return emu.System(chip, stack=dataclasses.replace(IDEAL, name="toy", **stack))


def bytes_over_bandwidth(of: emu.System) -> float:
    (hbm,) = of.chip.memories
    return 16.0 / float(hbm.bandwidth_bytes_per_s.value) + float(of.software.per_step_s.value)


def test_one_number_gives_its_own_range() -> None:
    found = range_of(bytes_over_bandwidth, system())
    assert (found.low_s, found.high_s) == pytest.approx((1.0, 4.0))  # 16 B at 16 and at 4 B/s
    (moved,) = found.moved  # the capacity has a range too, and nothing depends on it
    assert moved.name == "chip/hbm/bandwidth_bytes_per_s"
    assert (moved.low_s, moved.high_s) == (4.0, 1.0)


def test_several_add_in_quadrature_of_logarithms_each_way() -> None:
    found = range_of(bytes_over_bandwidth, system(per_step_s=number(2.0, 2.0, 10.0)))
    # 2 s of bytes (1 to 4) and 2 s of the step (2 to 10): 4 s.
    slower = math.hypot(math.log(6 / 4), math.log(12 / 4))
    assert found.high_s == pytest.approx(4 * math.exp(slower))
    assert found.low_s == pytest.approx(3.0)  # only the bandwidth makes it faster
    assert [m.name for m in found.moved] == [
        "stack/per_step_s",
        "chip/hbm/bandwidth_bytes_per_s",
    ]


def test_a_number_that_may_be_nothing_and_one_with_one_end() -> None:
    found = range_of(bytes_over_bandwidth, system(per_step_s=number(0.0, None, 2.0)))
    assert found.high_s == pytest.approx(2 * math.exp(math.hypot(math.log(2), math.log(2))))


def test_without_ranges_there_is_none() -> None:
    plain = system()
    (hbm,) = plain.chip.memories
    fixed = dataclasses.replace(hbm, bandwidth_bytes_per_s=number(8.0), capacity_bytes=number(9.0))
    chip = dataclasses.replace(plain.chip, memories=(fixed,))
    found = range_of(bytes_over_bandwidth, dataclasses.replace(plain, chip=chip))
    assert (found.low_s, found.high_s, found.moved) == (2.0, 2.0, ())

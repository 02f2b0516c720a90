import dataclasses

import pytest
from toy_chip import chip, stack, work

import emu
from emu.placement import place
from emu.sensitivity import elasticities
from emu.system import System


def found(of, system):
    placed = place(of, system, "off-chip", activations="sram")
    return {one.name: one.value for one in elasticities(of, system, placed)}


def test_a_step_bound_by_one_memory_depends_on_its_bandwidth_alone():
    at = found(work((3000, 10)), System(chip()))
    assert at == pytest.approx(
        {"chip/hbm/bandwidth_bytes_per_s": -1.0, "stack/off_chip_share": -1.0}
    )


def test_shares_of_the_step_are_elasticities():
    # 1 s of launches, 3 s of reading, without prefetch.
    system = System(chip(), stack=stack(per_kernel_s=1.0))
    at = found(work((3000, 10)), system)
    assert at["stack/per_kernel_s"] == pytest.approx(0.25)
    assert at["chip/hbm/bandwidth_bytes_per_s"] == pytest.approx(-0.75)
    assert next(iter(at)) in ("chip/hbm/bandwidth_bytes_per_s", "stack/off_chip_share")


def test_they_are_what_a_small_change_does():
    of = work((3000, 10), (100, 4000))
    system = System(chip(), stack=stack(per_kernel_s=0.5))
    placed = place(of, system, "off-chip", activations="sram")
    before = emu.predict(of, system, placed).seconds
    for one in elasticities(of, system, placed):
        if not one.name.startswith("stack/per_kernel_s"):
            continue
        number = dataclasses.replace(one.number, value=one.number.value * 1.001)
        changed = dataclasses.replace(system.software, per_kernel_s=number)
        after = emu.predict(of, dataclasses.replace(system, stack=changed), placed).seconds
        assert (after / before - 1) / 0.001 == pytest.approx(one.value, rel=0.01)
        break
    else:
        pytest.fail("the launch cost does not show")

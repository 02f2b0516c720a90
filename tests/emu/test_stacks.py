import dataclasses

import pytest
from toy_chip import sourced, stack

import emu
from emu.errors import EmuError
from emu.stacks import IDEAL


def test_ideal_adds_nothing_and_wastes_nothing():
    assert emu.stack("ideal") is IDEAL
    assert IDEAL in emu.stacks()
    added = (IDEAL.per_step_s, IDEAL.per_kernel_s, IDEAL.exposed_latency, IDEAL.reserve_share)
    assert [number.value for number in added] == [0.0] * 4
    kept = (IDEAL.on_chip_share, IDEAL.off_chip_share, IDEAL.compute_share)
    assert [number.value for number in kept] == [1.0] * 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": ""}, "needs a name"),
        ({"prefetch_kernels": -1}, "at least 0, not -1"),
        ({"prefetch_kernels": 1.5}, "a count or None, not 1.5"),
        ({"per_step_s": 0.1}, "per_step_s must be Sourced"),
        ({"off_chip_share": sourced(0.0)}, "off_chip_share is a share above 0 and up to 1"),
        ({"compute_share": sourced(1.2)}, "compute_share is a share above 0 and up to 1"),
        ({"exposed_latency": sourced(2.0)}, "exposed_latency is a share from 0 to 1"),
    ],
)
def test_a_stack_is_checked(changed, message):
    with pytest.raises(EmuError, match=message):
        dataclasses.replace(stack(), **changed)

import pytest

import emu
from emu.errors import EmuError
from emu.fitted import fitted, for_chip, for_stack, read
from emu.stacks import read_stacks

NUMBER = """
[[number]]
name = "a kernel"
field = "{field}"
{owners}
value = 0.5
prior = 0.4
spread = 0.3
kind = "fitted"
source = "a test"
"""


def numbers(field, owners):
    return read(NUMBER.format(field=field, owners=owners))


def test_a_chip_gets_what_is_its():
    chip = emu.chip("h100")
    (on_memory,) = numbers("hbm.achieved_share", 'chips = ["h100"]')
    assert for_chip(chip, (on_memory,)).memory("hbm").achieved_share.value == 0.5
    changed = for_chip(chip, numbers("kernel_s", 'chips = ["h100", "b200"]'))
    assert changed.kernel_s.value == 0.5
    assert for_chip(chip, numbers("kernel_s", 'chips = ["b200"]')) == chip
    link = for_chip(chip, numbers("link.achieved_share", 'chips = ["h100"]'))
    assert link.links[0].achieved_share.value == 0.5


def test_a_stack_gets_what_is_its_and_the_rest_from_ideal():
    text = '[[stack]]\nname = "mine"\nprefetch_kernels = 0\nabout = "a test"\n'
    stacks = read_stacks(text, numbers("per_step_s", 'stacks = ["mine"]'))
    assert stacks["mine"].per_step_s.value == 0.5
    assert stacks["mine"].per_kernel_s.value == 0.0
    assert stacks["mine"].as_measured
    assert for_stack("other", numbers("per_step_s", 'stacks = ["mine"]')) == {}


@pytest.mark.parametrize(
    ("field", "owners", "message"),
    [
        ("kernel_s", "", "is of chips or of stacks"),
        ("kernel_s", 'chips = ["h100"]\nstacks = ["x"]', "is of chips or of stacks"),
        ("kernel_s", 'chips = ["h100"]\nfoo = 1', "it may have"),
    ],
)
def test_a_number_without_one_kind_of_owner_is_refused(field, owners, message):
    with pytest.raises(EmuError, match=message):
        numbers(field, owners)


def test_a_memory_that_is_not_there_is_refused():
    with pytest.raises(EmuError, match="has no memory 'hmb'"):
        for_chip(emu.chip("h100"), numbers("hmb.achieved_share", 'chips = ["h100"]'))


def test_unknown_fields_of_a_stack_are_refused():
    with pytest.raises(EmuError, match="prefetch_kernel"):
        read_stacks('[[stack]]\nname = "mine"\nprefetch_kernel = 0\n', ())


def test_committed_numbers_belong_to_chips_and_stacks_that_are_there():
    names = {stack.name for stack in emu.stacks()}
    for one in fitted():
        assert set(one.chips) <= set(emu.chips())
        assert set(one.stacks) <= names
        if one.number.kind == "fitted":
            assert one.number.low <= one.number.value <= one.number.high
            # Nothing that the data pulled beyond five deviations of what was plausible.
            assert one.prior / 2.72 ** (5 * one.spread) < one.number.value
            assert one.number.value < one.prior * 2.72 ** (5 * one.spread)
    of_data = sum(one.number.kind == "fitted" for one in fitted())
    assert of_data <= 148 / 4

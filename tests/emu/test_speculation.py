import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_chip import chip, work

import emu
from emu.errors import EmuError
from emu.placement import place
from emu.speculation import Speculation, tokens_kept
from emu.system import System


def timeline(*costs):
    of, system = work(*costs), System(chip())
    return emu.predict(of, system, place(of, system, "off-chip"))


@given(st.floats(0, 1), st.integers(0, 6))
def test_tokens_kept_are_counted_over_all_outcomes(acceptance, drafts):
    mean = 0.0
    for right in itertools.product([True, False], repeat=drafts):
        chance = 1.0
        for one in right:
            chance *= acceptance if one else 1 - acceptance
        kept = next((n for n, one in enumerate(right) if not one), drafts) + 1
        mean += chance * kept
    assert tokens_kept(acceptance, drafts) == pytest.approx(mean)


def test_a_step_is_all_drafts_and_one_check():
    model, draft = timeline((3000, 10)), timeline((500, 10))
    step = Speculation(model=model, draft=draft, drafts=4, tokens_per_step=2.5)
    assert step.seconds_per_step == pytest.approx(4 * 0.5 + 3.0)
    assert step.seconds_per_token == pytest.approx(2.0)
    free = Speculation(model=model, draft=None, drafts=4, tokens_per_step=1.0)
    assert free.seconds_per_token == pytest.approx(3.0)


def test_more_tokens_than_there_can_be_are_refused():
    with pytest.raises(EmuError, match="4 drafts give 1 to 5 tokens per step, not 6"):
        Speculation(model=timeline((1, 1)), draft=None, drafts=4, tokens_per_step=6)
    with pytest.raises(EmuError, match=r"share from 0 to 1, not 1\.5"):
        tokens_kept(1.5, 2)
    with pytest.raises(EmuError, match="at least 0, not -1"):
        tokens_kept(0.5, -1)

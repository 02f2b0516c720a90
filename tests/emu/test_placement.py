import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from emu.chips import Chip, Memory, Sourced
from emu.errors import CapacityError, EmuError
from emu.patterns import Members, match
from emu.placement import place
from emu.rules import Rule
from emu.stacks import IDEAL
from emu.system import System
from emu.work import Leaf, Work, leaves_of


def sourced(value):
    return Sourced(value=value, source="a test", kind="assumed")


def memory(name, placement, capacity, mechanism=None):
    return Memory(
        name=name,
        placement=placement,
        capacity_bytes=sourced(capacity),
        bandwidth_bytes_per_s=sourced(1e9),
        latency_s=sourced(1e-7),
        mechanism=mechanism,
    )


def system(on_chip=1_000, off_chip=10**9, mechanism=None, **spread):
    memories = (
        memory("sram", "on-chip", on_chip, mechanism),
        memory("hbm", "off-chip", off_chip, mechanism),
    )
    return System(Chip(name="toy", vendor="nobody", memories=memories), **spread)


def leaf(path, *shape, dtype="float32"):
    return Leaf(path=path, shape=shape, dtype=dtype)


def listed(layers=30):
    """A decoder whose layers are numbered members, 2 leaves of 8 bytes each."""
    return Work(
        leaves=(
            leaf("embedding/weight", 10, 2),
            *(leaf(f"layers/{i}/mlp/up/kernel", 2) for i in range(layers)),
            *(leaf(f"layers/{i}/norm/scale", 2) for i in range(layers)),
            leaf("norm/scale", 2),
        )
    )


def stacked(layers=30):
    """The same with all layers of a leaf in one array."""
    return Work(
        leaves=(
            leaf("embedding/weight", 10, 2),
            leaf("layers/mlp/up/kernel", layers, 2),
            leaf("layers/norm/scale", layers, 2),
            leaf("norm/scale", 2),
        )
    )


def matched(pattern, work):
    members = Members(work.leaves)
    return {
        one.path: found.rows
        for one in work.leaves
        if (found := match(pattern, one, members)) is not None
    }


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("layers/*/mlp/**", "layers/0/mlp/up/kernel", True),
        ("layers/*/mlp/**", "layers/0/attention/q/kernel", False),
        ("layers/*/mlp", "layers/0/mlp/up/kernel", False),
        ("**/kernel", "layers/0/mlp/up/kernel", True),
        ("**/kernel", "kernel", True),
        ("**", "norm/scale", True),
        ("*", "norm/scale", False),
        ("norm/**", "norm", True),
        ("layers/**/kernel*", "layers/0/mlp/up/kernel_scale", True),
        ("layers/?/**", "layers/10/norm", False),
        ("norm.scale", "norm/scale", False),
    ],
)
def test_patterns_match_whole_key_paths(pattern, path, expected):
    assert (match(pattern, leaf(path, 4), Members([])) is not None) == expected


@pytest.mark.parametrize(
    ("index", "chosen"),
    [
        ("3", {3}),
        ("-1", {29}),
        (":20", set(range(20))),
        ("20:", set(range(20, 30))),
        ("4:8", {4, 5, 6, 7}),
        ("-3:", {27, 28, 29}),
        (":", set(range(30))),
        ("30", set()),
        ("40:", set()),
    ],
)
@pytest.mark.newest
def test_an_index_means_the_same_layers_in_both_forms(index, chosen):
    pattern = f"layers[{index}]/**"
    by_member = matched(pattern, listed())
    assert {int(path.split("/")[1]) for path in by_member} == chosen
    assert all(rows is None for rows in by_member.values())
    by_row = matched(pattern, stacked())
    assert set(by_row) == ({"layers/mlp/up/kernel", "layers/norm/scale"} if chosen else set())
    assert all(set(rows) == chosen for rows in by_row.values())


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "is empty"),
        ("/", "is empty"),
        ("a//b", "empty segment"),
        ("layers[]/x", "cannot read"),
        ("layers[a]/x", "cannot read"),
        ("layers[1:2:3]/x", "cannot read"),
        ("layers[1 2]/x", "cannot read"),
        ("layers[2]x", "cannot read"),
        ("layers]2[", "cannot read"),
        ("**[2]/x", "cannot read"),
        ("a**/x", "must stand alone"),
    ],
)
def test_a_pattern_that_cannot_be_read_is_refused(pattern, message):
    with pytest.raises(EmuError, match=message):
        Rule(pattern, "on-chip")


def test_the_first_rule_that_matches_decides():
    rules = [Rule("layers[:1]/**", "sram"), ("**/norm/**", "hbm"), ("**", "off-chip")]
    placement = place(listed(3), system(), rules)
    assert placement.memories_of("layers/0/norm/scale") == ("sram",)
    assert placement.memories_of("layers/1/norm/scale") == ("hbm",)
    assert placement.bytes_by_memory == {"sram": 16, "hbm": 80 + 4 * 8 + 8}
    assert placement.bytes_in("on-chip") == 16
    with pytest.raises(EmuError, match="no leaf 'norm/scal'; the nearest is 'norm/scale'"):
        placement.memories_of("norm/scal")


@pytest.mark.newest
def test_an_indexed_rule_splits_a_stacked_leaf():
    rules = [("layers[:20]/**", "on-chip"), ("layers[20:]/**", "off-chip"), ("**", "off-chip")]
    split, whole = place(stacked(), system(), rules), place(listed(), system(), rules)
    assert split.memories_of("layers/norm/scale") == ("sram", "hbm")
    assert split.bytes_by_memory == whole.bytes_by_memory == {"sram": 320, "hbm": 80 + 160 + 8}
    rows = [r.rows for r in split.residencies if r.leaf.path == "layers/norm/scale"]
    assert rows == [range(20), range(20, 30)]


def test_neighbouring_rows_in_one_memory_are_one_part():
    rules = [("layers[1:2]/**", "hbm"), ("layers[5]/**", "sram"), ("**", "hbm")]
    parts = [r for r in place(stacked(9), system(), rules).residencies if "mlp" in r.leaf.path]
    assert [(r.memory, r.rows) for r in parts] == [
        ("hbm", range(5)),
        ("sram", range(5, 6)),
        ("hbm", range(6, 9)),
    ]
    rejoined = place(stacked(9), system(), [("layers[:4]/**", "hbm"), ("**", "hbm")])
    assert all(r.rows is None for r in rejoined.residencies)


def test_two_indices_on_one_stacked_leaf_are_refused():
    with pytest.raises(EmuError, match="both fall on the stacked leaf"):
        place(stacked(), system(), [("layers[:4]/norm[3]/*", "hbm"), ("**", "hbm")])


def test_an_index_on_leaves_of_different_lengths_is_refused():
    work = Work(leaves=(leaf("layers/a", 30), leaf("layers/b", 12)))
    with pytest.raises(EmuError, match=r"layers/a has 30, layers/b has 12"):
        place(work, system(), [("layers[:10]/**", "sram"), ("**", "hbm")])


def test_rules_are_total():
    with pytest.raises(EmuError, match=r"no rule covers embedding/weight, norm/scale: end the"):
        place(listed(), system(), [("layers/**", "hbm")])
    with pytest.raises(EmuError, match=r"layers/0/norm/scale, .* and 28 more"):
        place(listed(30), system(), [("**/kernel", "hbm"), ("embedding/**", "hbm")])
    with pytest.raises(EmuError, match=r"covers layers/mlp/up/kernel\[20:30\], layers/norm"):
        place(stacked(), system(), [("layers[:20]/mlp/**", "hbm"), ("*/*", "hbm")])
    with pytest.raises(EmuError, match="no rule covers embedding/weight"):
        place(listed(), system(), [])


def test_a_rule_that_matches_nothing_is_named_with_the_nearest_path():
    with pytest.raises(
        EmuError, match=r"'layers/\*/mpl/\*\*' -> 'sram' matches no leaf; the nearest is 'layers/"
    ):
        place(listed(), system(), [("layers/*/mpl/**", "sram"), ("**", "hbm")])


def test_a_rule_that_comes_too_late_is_named_with_those_before_it():
    late = [("layers/**", "hbm"), ("layers/*/mlp/**", "sram"), ("**", "hbm")]
    with pytest.raises(
        EmuError,
        match=r"rule 'layers/\*/mlp/\*\*' -> 'sram' decides nothing: all that it matches is taken "
        r"by 'layers/\*\*' -> 'hbm' before it; the first match wins",
    ):
        place(listed(), system(), late)
    place(listed(), system(), [late[1], late[0], late[2]])
    halves = [("layers[:20]/**", "hbm"), ("layers[20:]/**", "hbm")]
    with pytest.raises(EmuError, match=r"'layers/\*\*' .* by 'layers\[:20\].*, 'layers\[20:\]"):
        place(stacked(), system(), [*halves, ("layers/**", "sram"), ("**", "hbm")])
    with pytest.raises(EmuError, match=r"rule '\*\*' -> 'sram' decides nothing"):
        place(listed(), system(), [("**", "hbm"), ("**", "sram")])


def test_a_closing_catch_all_may_find_nothing_left():
    rules = [("layers/**", "hbm"), ("*/*", "hbm"), ("**", "sram")]
    assert place(listed(), system(), rules).bytes_by_memory["sram"] == 0


def test_unknown_memories_and_policies_and_malformed_rules_are_refused():
    with pytest.raises(EmuError, match=r"no memory 'vram': it has sram \(on-chip\), hbm"):
        place(listed(), system(), [("**", "vram")])
    with pytest.raises(EmuError, match="unknown policy 'fits': take one of on-chip, off-chip, fit"):
        place(listed(), system(), "fits")
    with pytest.raises(EmuError, match=r"\(pattern, memory\) pair, not"):
        place(listed(), system(), [("**", "hbm", "sram")])
    with pytest.raises(EmuError, match=r"\(pattern, memory\) pair, not"):
        place(listed(), system(), ["**"])
    with pytest.raises(EmuError, match=r"'\*\*' is one of them: write \[Rule\(pattern="):
        place(listed(), system(), Rule("**", "hbm"))
    with pytest.raises(EmuError, match="name a memory"):
        Rule("**", "")


def test_what_is_no_work_or_no_system_is_told():
    with pytest.raises(EmuError, match=r"place: work must be an emu.Work, not of type System"):
        place(system(), listed(), "off-chip")
    with pytest.raises(EmuError, match=r"place: system must be an emu.System, not 'h100'"):
        place(listed(), "h100", "off-chip")
    with pytest.raises(EmuError, match=r"such as emu.chip\('h100'\), not 'h100'"):
        System("h100")


def test_policies():
    work = listed(3)  # 80 + 6 * 8 + 8 bytes
    assert place(work, system(), "on-chip").bytes_by_memory == {"sram": 136, "hbm": 0}
    assert place(work, system(), "off-chip").bytes_by_memory == {"sram": 0, "hbm": 136}
    # In leaf order and whole: the embedding is too large for 20 bytes, two leaves of 8 are not.
    fit = place(work, system(on_chip=20), "fit")
    assert fit.bytes_by_memory == {"sram": 16, "hbm": 120}
    assert fit.memories_of("layers/1/mlp/up/kernel") == ("sram",)


def test_what_does_not_fit_says_where_by_how_much_and_how_many_chips_would_do():
    with pytest.raises(
        CapacityError,
        match=r"sram \(on-chip\) of 1 x toy holds 50 bytes and 136 are placed there: "
        r"86 bytes over; 3 chips would do",
    ):
        place(listed(3), system(on_chip=50), "on-chip")
    placement = place(listed(3), system(on_chip=50), "on-chip", allow_overflow=True)
    assert placement.excess_bytes == {"sram": 86}
    assert "over capacity" in str(placement)
    assert place(listed(3), system(on_chip=50, chips=3), "on-chip").excess_bytes == {}
    with pytest.raises(CapacityError, match="6 chips would do"):  # two replicas of three chips
        place(listed(3), system(on_chip=50, chips=4, data=2), "on-chip")
    with pytest.raises(CapacityError, match="hbm"):
        place(listed(3), system(on_chip=50, off_chip=85), "fit")


def test_a_chip_without_off_chip_memory():
    chip = Chip(name="lpu", vendor="nobody", memories=(memory("sram", "on-chip", 100),))
    with pytest.raises(EmuError, match="no memory 'off-chip'"):
        place(listed(3), System(chip), "off-chip")
    with pytest.raises(CapacityError, match="36 bytes over; 2 chips"):
        place(listed(3), System(chip), "fit")


@pytest.mark.newest
def test_nnx_states_dicts_and_sub_byte_leaves_are_placed():
    module = nnx.Linear(4, 8, rngs=nnx.Rngs(0))
    state = nnx.state(module)
    placement = place(
        Work(leaves=leaves_of(state)), system(), [("kernel", "on-chip"), ("bias", "off-chip")]
    )
    assert placement.bytes_by_memory == {"sram": 4 * 8 * 4, "hbm": 8 * 4}
    packed = {"w": jax.ShapeDtypeStruct((3, 5), jnp.int4)}  # 15 half bytes take 8
    halves = place(
        Work(leaves=leaves_of(packed)), system(), [("w[:1]", "on-chip"), ("w", "off-chip")]
    )
    assert sum(halves.bytes_by_memory.values()) == 8


def test_empty_leaves_and_scalars_have_a_place():
    work = Work(leaves=(leaf("empty", 0, 4), leaf("step"), leaf("layers", 4)))
    placement = place(work, system(), [("layers[:2]", "sram"), ("**", "hbm")])
    assert placement.memories_of("empty") == placement.memories_of("step") == ("hbm",)
    with pytest.raises(EmuError, match="matches no leaf"):
        place(work, system(), [("step[0]", "sram"), ("**", "hbm")])
    assert place(Work(leaves=()), system(), "fit").bytes_by_memory == {"sram": 0, "hbm": 0}


def test_the_table_groups_layers_and_a_cache_that_cannot_keep_its_part_is_noted():
    table = str(place(listed(30), system(), [("layers/**", "sram"), ("**", "hbm")]))
    assert "layers/*/mlp/up/kernel x30" in table
    assert "sram (on-chip): 0.000 of 0.001 MB" in table
    assert "note" not in table
    cache = system(on_chip=500, mechanism="rotation")
    rules = [("layers[:15]/**", "on-chip"), ("**", "off-chip")]
    assert "is a cache" in str(place(listed(30), cache, rules))  # 240 stay, 328 pass: 568 > 500
    assert place(listed(10), cache, "off-chip").notes == ()


@given(
    on_chip=st.integers(1, 2_000),
    cut=st.integers(-30, 30),
    rows=st.booleans(),
)
def test_every_byte_has_exactly_one_place(on_chip, cut, rows):
    work = stacked(29) if rows else listed(29)
    total = sum(one.bytes for one in work.leaves)
    rules = [(f"layers[{cut}:]/**", "on-chip"), ("**", "off-chip")] if cut < 29 else "fit"
    placement = place(work, system(on_chip=on_chip), rules, allow_overflow=True)
    assert sum(placement.bytes_by_memory.values()) == total
    assert sum(r.bytes for r in placement.residencies) == total


def test_activations_and_what_the_stack_keeps_take_room_too():
    of = dataclasses.replace(listed(3), peak_activation_bytes=100)  # and 136 bytes of weights
    assert place(of, system(on_chip=236), "on-chip").activations == "sram"
    # Activations that find no room on chip go off chip, unless they are told to stay.
    assert place(of, system(on_chip=235), "on-chip").activations == "hbm"
    with pytest.raises(
        CapacityError,
        match=r"holds 235 bytes and 136 are placed there, and 100 of activations are alive at "
        r"once: 1 bytes over; 2 chips would do",
    ):
        place(of, system(on_chip=235), "on-chip", activations="sram")
    there = place(of, system(on_chip=235), "on-chip", allow_overflow=True, activations="on-chip")
    assert there.excess_bytes == {"sram": 1}
    tenth = dataclasses.replace(IDEAL, name="greedy", reserve_share=sourced(0.1))
    with pytest.raises(
        CapacityError, match=r"holds 135 bytes beside the 10.0% that greedy keeps and 136 are"
    ):
        place(of, system(on_chip=150, stack=tenth), "on-chip")

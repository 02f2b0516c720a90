import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_spread import decoder

from emu.errors import EmuError
from emu.stages import even_cuts, parts_of, stages_of
from emu.work import Access, Leaf, Op, Work


def runs(sizes, cuts):
    return [sum(sizes[a:b]) for a, b in itertools.pairwise(cuts)]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.data())
def test_the_fullest_stage_is_as_small_as_any_cut_makes_it(sizes, data):
    count = data.draw(st.integers(1, len(sizes)))
    cuts = even_cuts(sizes, count)
    assert [cuts[0], cuts[-1], len(cuts)] == [0, len(sizes), count + 1]
    assert all(a < b for a, b in itertools.pairwise(cuts))
    inner = itertools.combinations(range(1, len(sizes)), count - 1)
    best = min(max(runs(sizes, (0, *some, len(sizes)))) for some in inner)
    assert max(runs(sizes, cuts)) == best


@pytest.mark.parametrize("scanned", [True, False])
def test_parts_are_the_input_each_layer_and_the_output(scanned):
    work = decoder(layers=5, scanned=scanned)
    parts = parts_of(work)
    assert [part.layer for part in parts] == [False, *[True] * 5, False]
    assert "embedding/weight" in parts[0].rows
    assert {"norm/scale", "head/kernel"} <= set(parts[-1].rows)
    q = "layers/attention/q/kernel" if scanned else "layers/2/attention/q/kernel"
    assert parts[3].rows[q] == ((2, 3) if scanned else None)
    assert ("cache/keys/0" if scanned else "cache/keys/2") in parts[3].rows


@pytest.mark.parametrize("scanned", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 6, 7])
def test_every_byte_of_a_leaf_is_on_one_stage(scanned, count):
    work = decoder(layers=5, scanned=scanned)
    held = {leaf.path: leaf.bytes for leaf in work.leaves}
    stages = stages_of(parts_of(work), held, work.leaves, count)
    assert len(stages) == count
    for leaf in work.leaves:
        if leaf.path != "cache/position":
            assert sum(stage.held(leaf, leaf.bytes) for stage in stages) == leaf.bytes
    ops = [part for stage in stages for part in stage.parts]
    assert ops == list(parts_of(work))


def test_rows_of_a_stacked_leaf_are_counted_where_they_live():
    work = decoder(layers=6)
    held = {leaf.path: leaf.bytes for leaf in work.leaves}
    stages = stages_of(parts_of(work), held, work.leaves, 2)
    leaf = next(leaf for leaf in work.leaves if leaf.path == "layers/mlp/up/kernel")
    each = leaf.bytes // 6
    inside = [stage.held(leaf, leaf.bytes, range(2, 5)) for stage in stages]
    assert sum(inside) == 3 * each
    assert inside[0] == sum(
        each for part in stages[0].parts if part.name in ("layer 2", "layer 3", "layer 4")
    )


def test_a_leaf_that_two_stages_use_is_held_by_both_and_an_unused_one_by_the_first():
    def op(path):
        return Op(
            name="dot",
            kind="dot",
            reads=(Access(tensor=path, kind="weights", bytes=8),),
            kernel=0,
        )

    tied, unused = (
        Leaf(path="table", shape=(2,), dtype="float32"),
        Leaf(path="unused", shape=(3,), dtype="float32"),
    )
    layers = [Leaf(path=f"layers/{i}/w", shape=(2,), dtype="float32") for i in range(2)]
    order = ["table", "layers/0/w", "layers/1/w", "table"]
    work = Work(leaves=(tied, unused, *layers), ops=tuple(map(op, order)))
    held = {leaf.path: leaf.bytes for leaf in work.leaves}
    stages = stages_of(parts_of(work), held, work.leaves, 4)
    assert [stage.held(tied, 8) for stage in stages] == [8, 0, 0, 8]
    assert [stage.held(unused, 12) for stage in stages] == [12, 0, 0, 0]


@pytest.mark.parametrize(
    ("stacks", "order"),
    [
        (("0:2", "2:4"), ["0:2", "0:2", "2:4", "2:4"]),  # two loops, one after the other
        (("0:4:2", "1:4:2"), ["0:4:2", "1:4:2", "0:4:2", "1:4:2"]),  # two layers in each turn
    ],
)
def test_stacks_that_are_equally_long_follow_one_another_or_take_turns(stacks, order):
    leaves = tuple(Leaf(path=f"layers/{name}/w", shape=(2, 3), dtype="float32") for name in stacks)

    def op(leaf):
        read = Access(tensor=leaf.path, kind="weights", bytes=12, rows=(0, 2))
        return Op(name="dot", kind="dot", count=2, reads=(read,), kernel=0)

    parts = parts_of(Work(leaves=leaves, ops=tuple(map(op, leaves))))
    assert [path for part in parts for path in part.rows] == [f"layers/{n}/w" for n in order]
    first = [rows[0] for part in parts for rows in part.rows.values()]
    assert first == [order[:at].count(name) for at, name in enumerate(order)]


def test_more_stages_than_there_is_to_give_them():
    work = decoder(layers=4)
    held = {leaf.path: leaf.bytes for leaf in work.leaves}
    with pytest.raises(
        EmuError,
        match=r"pipeline=7 stages, and there are 4 layers \(6 with what is before and after\); "
        "take at most pipeline=6",
    ):
        stages_of(parts_of(work), held, work.leaves, 7)

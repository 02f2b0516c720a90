import pytest

import emu
from emu.work import Leaf, Work
from experiments.errors import ExperimentError
from experiments.usual_split import Asked, _candidates, placed, usual_width


def tried(
    name: str, at_least: int = 1, layers: int = 80, **asked: int
) -> list[tuple[int, int, int]]:
    """(chips, tensor, pipeline) in the order in which they are tried."""
    found = _candidates(emu.chip(name), Asked(**asked), layers, at_least)
    return [(c.chips, -c.minus_tensor, c.pipeline) for c in found]


@pytest.mark.parametrize(
    ("chip", "at_least", "first"),
    [
        # Within a node, then nodes in a pipeline.
        ("h100", 1, [(1, 1, 1), (2, 2, 1), (4, 4, 1), (8, 8, 1), (16, 8, 2)]),
        ("h100", 11, [(16, 8, 2), (24, 8, 3)]),
        ("tpu-v5e", 9, [(16, 16, 1), (32, 32, 1)]),
        # Both cores of a chip have a rank.
        ("tpu-v7", 1, [(1, 2, 1), (1, 1, 1), (2, 4, 1), (4, 8, 1)]),
        # Groups of 8 in a pipeline; wider groups where 82 stages of 8 are too few.
        ("groq-lpu-v1", 300, [(304, 8, 38), (312, 8, 39)]),
        ("groq-lpu-v1", 657, [(672, 16, 42)]),
        # A stage a wafer.
        ("wse-3", 2, [(2, 1, 2), (3, 1, 3)]),
        # Cards of which a bridge joins two.
        ("corsair", 1, [(1, 1, 1), (2, 2, 1), (4, 2, 2)]),
    ],
)
def test_chips_are_split_as_they_usually_are(
    chip: str, at_least: int, first: list[tuple[int, int, int]]
) -> None:
    assert tried(chip, at_least)[: len(first)] == first


def test_what_is_asked_is_kept() -> None:
    assert tried("groq-lpu-v1", chips=576, tensor=8, pipeline=72) == [(576, 8, 72)]
    assert tried("h100", chips=16)[0] == (16, 8, 2)
    assert tried("h100", chips=6)[:2] == [(6, 6, 1), (6, 3, 2)]
    assert tried("h100", tensor=4)[:3] == [(4, 4, 1), (8, 4, 2), (12, 4, 3)]
    assert tried("h100", pipeline=3)[:2] == [(3, 1, 3), (6, 2, 3)]
    assert tried("tpu-v5e", chips=16, data=2)[0] == (16, 8, 1)
    # 32 layers are too few for 72 groups of 8.
    assert tried("groq-lpu-v1", chips=576, layers=32)[0] == (576, 32, 18)
    assert tried("tpu-v7", chips=4)[0] == (4, 8, 1)
    assert tried("b200", chips=8, expert=4)[0] == (8, 8, 1)
    assert tried("b200", expert=4)[:3] == [(4, 4, 1), (4, 1, 1), (8, 8, 1)]
    with pytest.raises(ExperimentError, match="no split of h100 has --chips=5, --tensor=2"):
        tried("h100", chips=5, tensor=2)


def test_a_chip_without_links_works_alone() -> None:
    alone = emu.System(emu.chip("h100")).chip
    assert usual_width(alone) == 8
    found = _candidates(emu.chip("groq-lpu-v1"), Asked(tensor=1, pipeline=1), 4, 1)
    assert [(c.chips, c.pipeline) for c in found] == [(1, 1)]


def test_the_first_that_holds_it_is_taken() -> None:
    # 1 GB of weights on chips of 0.23 GB: five, and so the next group of eight.
    work = Work(leaves=(Leaf(path="w", shape=(10**9,), dtype="int8"),))
    _, placement = placed(
        lambda _: work, emu.chip("h100"), emu.stack("ideal"), Asked(), "off-chip", 4
    )
    assert placement.system.chips == 1
    with pytest.raises(emu.CapacityError, match="bytes over"):
        placed(
            lambda _: work,
            emu.chip("groq-lpu-v1"),
            emu.stack("ideal"),
            Asked(chips=1),
            "on-chip",
            4,
        )

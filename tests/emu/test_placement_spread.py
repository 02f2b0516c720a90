"""What the degrees leave on each chip must fit there."""

import dataclasses
import math
import re

import numpy as np
import pytest
from toy_spread import decoder

import emu
from emu import CapacityError, Chip, Memory, Sourced, System, place
from emu.capacity import rooms
from emu.stacks import IDEAL

LPU = "groq-lpu-v1"


def sourced(value):
    return Sourced(value=value, source="a test", kind="assumed")


def system(on_chip, off_chip=10**9, cores=1, stack="ideal", **degrees):
    memories = tuple(
        Memory(
            name=name,
            placement=placement,
            capacity_bytes=sourced(capacity),
            bandwidth_bytes_per_s=sourced(1e9),
            latency_s=sourced(1e-7),
        )
        for name, placement, capacity in (
            ("sram", "on-chip", on_chip),
            ("hbm", "off-chip", off_chip),
        )
    )
    chips = degrees.pop("chips", math.prod(degrees.values()) // cores)
    chip = Chip(name="toy", vendor="nobody", memories=memories, cores=cores)
    return System(chip, chips=chips, stack=stack, **degrees)


def llama_70b(**more):
    """Llama-3.1-70B in float8, by hand."""
    return decoder(
        layers=80,
        width=8192,
        kv=8,
        group=8,
        head=128,
        ffn=28672,
        vocab=128256,
        slots=2048,
        dtype="float8_e4m3fn",
        **more,
    )


def named(error):
    """The system that a CapacityError says would do: chips and degrees."""
    found = re.search(r"(\d+) chips(?: as ([a-z0-9= ]+))? would do", str(error))
    degrees = re.findall(r"([a-z]+)=(\d+)", found[2] or "")
    return int(found[1]), {name: int(degree) for name, degree in degrees}


def needed(placement, work):
    """The most that any rank has to have of the on-chip memory."""
    share = emu.spread(work, placement.system).work.peak_activation_bytes
    return max(held["sram"] for held in placement.rank_bytes) + share


@pytest.mark.parametrize("scanned", [True, False])
def test_seventy_billion_weights_on_576_lpus(scanned):
    work = llama_70b(scanned=scanned)
    placement = place(work, System(emu.chip(LPU), chips=576, tensor=8, pipeline=72), "on-chip")
    # Two layers' matrices are 1.711 GB: 214 MB on each of 8 ranks, beside norms, whole on each,
    # and 2048 slots of keys and values. One layer and the embedding (131 MB) do not fit together.
    layer = (2 * 8192 * 8192 + 2 * 1024 * 8192 + 3 * 28672 * 8192) // 8
    norms, slots = 8192 * 4, 2 * 2048 * 128 * 2
    fullest = 2 * (layer + norms + slots)
    assert placement.fullest_chip_bytes["sram"] == fullest
    assert 213.9e6 < 2 * layer < 214.1e6
    stages = emu.spread(work, placement.system).stages
    assert len(stages) == 72
    counts = [sum(part.layer for part in stage.parts) for stage in stages]
    assert [counts[0], counts[-1]] == [0, 0]
    assert sorted(counts[1:-1]) == [1] * 60 + [2] * 10
    assert placement.excess_bytes == {}
    assert placement.bytes_by_memory["sram"] == 8 * sum(h["sram"] for h in placement.rank_bytes)


def test_too_few_chips_are_told_how_many_and_how():
    work = llama_70b()
    with pytest.raises(CapacityError, match="336 chips as tensor=8 x pipeline=42 would do") as told:
        place(work, System(emu.chip(LPU), chips=64, tensor=8, pipeline=8), "on-chip")
    assert r"sram (on-chip) of each groq-lpu-v1 of stage 1 of 8 (layer " in str(told.value)
    chips, degrees = named(told.value)
    place(work, System(emu.chip(LPU), chips=chips, **degrees), "on-chip")
    with pytest.raises(CapacityError):  # one stage fewer of the same
        place(work, System(emu.chip(LPU), chips=328, tensor=8, pipeline=41), "on-chip")


@pytest.mark.parametrize("experts", [0, 8])
@pytest.mark.parametrize("capacity", [25_000, 40_000, 60_000, 200_000])
def test_the_smallest_number_is_the_smallest(experts, capacity):
    work = decoder(layers=3, experts=experts, ffn=48)
    asked = {"tensor": 1, "pipeline": 2}
    try:
        placement = place(work, system(capacity, **asked), "on-chip")
    except CapacityError as error:
        text = str(error)
    else:
        assert needed(placement, work) <= capacity
        return
    fits = []
    for tensor in (1, 2, 4):
        for pipeline in range(1, 6):
            if tensor == pipeline == 1:
                continue
            try:
                place(work, system(capacity, tensor=tensor, pipeline=pipeline), "on-chip")
            except CapacityError:
                continue
            fits.append(tensor * pipeline)
    if not fits:
        assert "no split of it over more chips would do" in text
        return
    chips, degrees = named(text)
    assert chips == min(fits)
    place(work, system(capacity, **degrees), "on-chip")


def test_over_by_a_byte():
    work = decoder(layers=3)
    roomy = place(work, system(10**9, tensor=2, pipeline=2), "on-chip")
    exactly = needed(roomy, work)
    assert place(work, system(exactly, tensor=2, pipeline=2), "on-chip").activations == "sram"
    with pytest.raises(CapacityError, match="1 bytes over"):
        place(work, system(exactly - 1, tensor=2, pipeline=2), "on-chip", activations="sram")
    over = place(
        work,
        system(exactly - 1, tensor=2, pipeline=2),
        "on-chip",
        activations="sram",
        allow_overflow=True,
    )
    assert over.excess_bytes == {"sram": 2}  # on both ranks of the stage
    tenth = dataclasses.replace(IDEAL, name="greedy", reserve_share=sourced(0.5))
    place(work, system(2 * exactly, stack=tenth, tensor=2, pipeline=2), "on-chip")
    with pytest.raises(CapacityError, match=r"beside the 50\.0% that greedy keeps"):
        place(work, system(2 * exactly - 2, stack=tenth, tensor=2, pipeline=2), "on-chip",
              activations="sram")  # fmt: skip


def test_each_core_has_its_part_of_its_chips_memory():
    work = decoder()
    roomy = place(work, system(10**9, cores=2, tensor=2, chips=1), "on-chip")
    exactly = needed(roomy, work)
    assert roomy.fullest_chip_bytes["sram"] == 2 * roomy.rank_bytes[0]["sram"]
    place(work, system(2 * exactly, cores=2, tensor=2, chips=1), "on-chip")
    with pytest.raises(CapacityError, match="each of 2 cores of each toy holds"):
        place(work, system(2 * exactly - 2, cores=2, tensor=2, chips=1), "on-chip",
              activations="sram")  # fmt: skip


def test_rules_place_rows_where_their_stage_is():
    work = decoder(layers=4)
    rules = [("layers[:3]/**", "on-chip"), ("**", "off-chip")]
    of = place(work, system(10**9, tensor=2, pipeline=6), rules)
    assert [held["sram"] > 0 for held in of.rank_bytes] == [False, True, True, True, False, False]
    total = sum(leaf.bytes for leaf in work.leaves if leaf.path.startswith("layers/"))
    norms = 4 * 64 * 4
    assert of.bytes_by_memory["sram"] == (total - norms) * 3 // 4 + 2 * norms * 3 // 4


def test_what_fits_on_every_rank_goes_on_chip():
    work = decoder(layers=4)
    all_there = place(work, system(10**9, tensor=2, pipeline=2), "fit")
    assert all_there.bytes_by_memory["hbm"] == 0
    some = place(work, system(40_000, tensor=2, pipeline=2), "fit")
    assert 0 < max(held["sram"] for held in some.rank_bytes) <= 40_000
    assert some.bytes_by_memory["hbm"] > 0


def test_the_splits_are_kept_and_a_pool_stays_a_pool():
    work = decoder()
    split = emu.Split("layers/mlp/**", None)
    of = place(work, system(10**9, tensor=2), "on-chip", splits=[split])
    assert of.splits == (split,)
    plain = place(work, system(10**9, tensor=2), "on-chip")
    mlp = sum(leaf.bytes for leaf in work.leaves if "/mlp/" in leaf.path)
    assert of.bytes_by_memory["sram"] - plain.bytes_by_memory["sram"] == mlp
    pool = place(work, system(10**9, chips=4), "on-chip")
    assert pool.rank_bytes == ()
    assert pool.bytes_by_memory["sram"] == sum(leaf.bytes for leaf in work.leaves)
    assert pool.fullest_chip_bytes["sram"] == -(-pool.bytes_by_memory["sram"] // 4)


def in_memory(placement: emu.Placement, memory: str) -> set[tuple[str, int]]:
    """(path without its layer, layer) of all weights of layers that live in this memory."""
    found = set()
    for part in placement.residencies:
        names = part.leaf.path.split("/")
        if names[0] != "layers":
            continue
        numbered = names[1].isdecimal()
        rows = [int(names[1])] if numbered else part.rows or range(part.leaf.shape[0])
        if part.memory == memory:
            found |= {("/".join(names[1 + numbered :]), row) for row in rows}
    return found


def test_fit_takes_stacked_layers_as_it_takes_layers_of_their_own():
    stacked, listed = decoder(layers=4), decoder(layers=4, scanned=False)
    weights = sum(leaf.bytes for leaf in stacked.leaves if leaf.kind == "weights")
    for capacity in np.linspace(1_000, weights, 12).astype(int).tolist():
        one, other = (place(work, system(capacity), "fit") for work in (stacked, listed))
        assert in_memory(one, "sram") == in_memory(other, "sram")
        assert one.bytes_by_memory == other.bytes_by_memory
        largest_row = 96 * 64 * 2  # of a product with the feed-forward's width, in bfloat16
        assert one.bytes_by_memory["sram"] > capacity - largest_row


@pytest.mark.parametrize("degrees", [{}, {"tensor": 2}, {"tensor": 2, "pipeline": 3}])
def test_fit_leaves_nothing_off_chip_that_there_is_room_for(degrees):
    work = decoder(layers=4)
    of = system(30_000, **degrees)
    placed = place(work, of, "fit")
    stages = rooms(work, of)
    free = [
        room.capacity["sram"] - sum(room.held(p.leaf, p.rows) for p in placed.residencies
                                    if p.memory == "sram")
        for room in stages
    ]  # fmt: skip
    assert min(free) >= 0
    far = [part for part in placed.residencies if part.memory == "hbm"]
    assert any(part.rows is not None for part in far)
    for part in far:
        in_rows = part.rows and [range(row, row + 1) for row in part.rows]
        for rows in in_rows or [None]:
            needed = [room.held(part.leaf, rows) for room in stages]
            assert any(n > left for n, left in zip(needed, free, strict=True))


def test_fit_keeps_leaves_whole_that_no_loop_walks_and_on_a_machine_of_ones_own():
    listed = decoder(layers=4, scanned=False)
    assert all(part.rows is None for part in place(listed, system(60_000), "fit").residencies)
    machine = system(60_000)
    memories = tuple(
        dataclasses.replace(memory, mechanism="rotation") for memory in machine.chip.memories
    )
    machine = dataclasses.replace(
        machine, chip=dataclasses.replace(machine.chip, memories=memories)
    )
    placed = place(decoder(layers=4), machine, "fit")
    assert placed.bytes_by_memory["hbm"] > 0
    assert all(part.rows is None for part in placed.residencies)  # as `emu.realize` needs it


def test_on_a_mesh_of_cores_a_layer_may_begin_on_one_chip_and_end_on_the_next():
    whole = llama_70b()  # 80 layers of 0.856 GB, 1.05 GB at each end: of 7 stages one has 12
    wafers = [System(emu.chip("wse-3"), chips=n, pipeline=n) for n in (7, 1)]
    cut = place(whole, wafers[0], "on-chip").fullest_chip_bytes["sram"]
    held = place(whole, wafers[1], "on-chip", allow_overflow=True).fullest_chip_bytes["sram"]
    assert held <= 7 * cut < held + 7 * len(whole.leaves)
    least = dataclasses.replace(
        wafers[0].chip,
        memories=tuple(
            dataclasses.replace(m, capacity_bytes=sourced(cut)) if m.name == "sram" else m
            for m in wafers[0].chip.memories
        ),
    )
    place(whole, dataclasses.replace(wafers[0], chip=least), "on-chip", activations="memoryx")
    with pytest.raises(CapacityError, match="of each wse-3 of 6 even stages holds") as told:
        place(whole, System(least, chips=6, pipeline=6), "on-chip", activations="memoryx")
    assert named(told.value) == (7, {"pipeline": 7})

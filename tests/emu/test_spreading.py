import dataclasses
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_spread import decoder

import emu
from emu import Chip, Memory, Sourced, Split, System, spread
from emu.busiest import busiest_distinct, expected_distinct
from emu.chip_file import parse_chips
from emu.errors import EmuError


def sourced(value):
    return Sourced(value=value, source="a test", kind="assumed")


def system(cores=1, **degrees):
    memory = Memory(
        name="sram",
        placement="on-chip",
        capacity_bytes=sourced(10**9),
        bandwidth_bytes_per_s=sourced(1e9),
        latency_s=sourced(1e-7),
    )
    degrees.setdefault("chips", math.prod(degrees.values()) // cores)
    return System(Chip(name="toy", vendor="nobody", memories=(memory,), cores=cores), **degrees)


def exchanges(of):
    """(kind, group, bytes, runs) of all exchanges, in order."""
    return [
        (op.collective.kind, op.collective.group, op.collective.bytes, op.count)
        for op in of.work.collectives
    ]


def each_exchange(of):
    """(kind, group, bytes) of each run, sorted."""
    return sorted(one for *one, runs in exchanges(of) for _ in range(runs))


def per_layer(of, layers):
    """How many exchanges of each kind there are in each layer, and outside."""
    inside, outside = {}, {}
    for op in of.work.collectives:
        kind = op.collective.kind
        where = inside if op.count % layers == 0 else outside
        where[kind] = where.get(kind, 0) + (op.count // layers if where is inside else op.count)
    return inside, outside


def test_a_decoder_over_tensor_ranks_by_hand():
    # width 64, 2 kv heads x 2 x 8 wide, MLP 96, vocabulary 160; 3 layers; numbers of 4 bytes.
    work = decoder(layers=3)
    of = spread(work, system(tensor=2))
    assert of.splits["layers/attention/q/kernel"] == (1, 2, 1)
    assert of.splits["layers/attention/o/kernel"] == (1, 1, 2)
    assert of.splits["layers/mlp/down/kernel"] == (1, 1, 2)
    assert of.splits["embedding/weight"] == of.splits["head/kernel"] == (2, 1)
    assert of.splits["cache/keys/0"] == (1, 1, 2, 1, 1)
    assert of.splits["layers/norm/scale"] == (1, 1)
    assert exchanges(of) == [
        ("all_reduce", 2, 64 * 2, 1),  # a row of the embedding, in bfloat16
        ("all_reduce", 2, 64 * 4, 3),  # after attention
        ("all_reduce", 2, 64 * 4, 3),  # after the MLP
        ("all_gather", 2, 160 * 4, 1),  # the logits
    ]
    assert of.work.dot_flops == work.dot_flops // 2
    assert (
        of.work.weight_bytes
        == sum(
            leaf.bytes // (1 if leaf.path.endswith("scale") else 2)
            for leaf in work.leaves
            if leaf.kind == "weights" and leaf.path != "embedding/weight"
        )
        + 64 * 2
    )  # the row that was looked up


def test_keys_and_values_are_held_several_times_where_ranks_exceed_their_heads():
    of = spread(decoder(), system(tensor=4))
    assert of.splits["layers/attention/q/kernel"] == (1, 4, 1)
    assert of.splits["layers/attention/k/kernel"] == (1, 2, 1)
    assert of.splits["cache/values/0"] == (1, 1, 2, 1, 1)


def test_layers_written_out_are_spread_as_scanned_ones_are():
    for degrees in ({"tensor": 2}, {"tensor": 4}, {"pipeline": 3}, {"tensor": 2, "pipeline": 6}):
        one, many = (
            spread(decoder(scanned=scanned, layers=4), system(**degrees))
            for scanned in (True, False)
        )
        assert one.work.flops == many.work.flops
        assert one.work.weight_bytes == many.work.weight_bytes
        assert one.work.kernels == many.work.kernels
        assert exchanges(one)
        assert each_exchange(one) == each_exchange(many)
        held = [
            [sum(sizes) for sizes in zip(*of.leaf_bytes.values(), strict=True)]
            for of in (one, many)
        ]
        assert held[0] == held[1]


@settings(max_examples=30)
@given(
    tensor=st.sampled_from([1, 2, 4]),
    pipeline=st.integers(1, 5),
    data=st.sampled_from([1, 2]),
    experts=st.sampled_from([0, 8]),
    expert=st.sampled_from([1, 2, 4]),
    regroup=st.booleans(),
    scanned=st.booleans(),
)
def test_laws(tensor, pipeline, data, experts, expert, regroup, scanned):
    expert = expert if experts else 1
    work = decoder(kv=4, batch=4, layers=3, experts=experts, scanned=scanned)
    degrees = {"tensor": tensor, "pipeline": pipeline, "data": data, "expert": expert}
    chips = tensor * pipeline * data * expert
    if regroup and expert > 1:
        if tensor * data % expert:
            return
        chips //= expert
    if tensor == pipeline == expert == 1:
        return
    of = spread(work, system(chips=chips, **degrees))
    ranks = of.ranks.count
    assert ranks == chips
    # What all ranks hold is each leaf once, times the ranks that have equal copies of it.
    for leaf in work.leaves:
        split = math.prod(of.splits[leaf.path])
        held = sum(of.leaf_bytes[leaf.path])
        if leaf.path != "cache/position":
            assert split * held == leaf.bytes
        assert ranks // pipeline % split == 0
    # No rank does less than its share, or more than everything.
    assert work.flops <= of.work.flops * ranks // pipeline
    assert of.work.flops <= work.flops
    assert work.weight_bytes <= of.work.weight_bytes * tensor * expert * data
    assert of.work.weight_bytes <= work.weight_bytes
    assert of.work.cache_bytes * data * min(tensor, 4) == work.cache_bytes
    permutes = sum(runs for kind, _, _, runs in exchanges(of) if kind == "permute")
    assert permutes == pipeline - 1
    assert all(size > 0 and 1 < group <= chips for _, group, size, _ in exchanges(of))


def test_experts_are_spread_and_the_busiest_rank_has_more_than_its_share():
    work = decoder(experts=8, chosen=2, batch=4, layers=3)
    one = next(a for op in work.ops for a in op.reads if a.routed)
    of = spread(work, system(expert=4))
    assert of.splits["layers/mlp/up/kernel"] == (1, 4, 1, 1)
    assert of.splits["layers/router/kernel"] == (1, 1, 1)
    path = "layers/mlp/up/kernel"
    here = of.work.bytes_by_leaf[path] / work.bytes_by_leaf[path]
    expected = busiest_distinct(8, 2, 4, 4) / expected_distinct(8, 2, 4)
    assert here == pytest.approx(expected, rel=1e-4)
    assert here > 1 / 4
    assert one.tensor in of.rank_bytes
    assert exchanges(of) == [("all_reduce", 4, 4 * 64 * 4, 3)]  # a vector for each of 4 tokens


def test_a_stack_that_streams_all_experts_reads_an_equal_part_on_each_rank():
    work = decoder(experts=8, chosen=2, batch=4, layers=3)
    plain = system(expert=4)
    stack = dataclasses.replace(plain.software, name="static", all_experts=True)
    of = spread(work, dataclasses.replace(plain, stack=stack))
    up = next(leaf for leaf in work.leaves if leaf.path == "layers/mlp/up/kernel")
    assert of.work.bytes_by_leaf[up.path] == pytest.approx(up.bytes / 4, rel=1e-4)
    assert spread(work, plain).work.bytes_by_leaf[up.path] < up.bytes / 4


def test_regrouped_experts_split_what_tensor_ranks_would():
    work = decoder(experts=8, batch=4)
    of = spread(work, system(chips=4, tensor=4, expert=2))
    assert of.splits["layers/mlp/up/kernel"] == (1, 2, 2, 1)
    assert of.splits["layers/mlp/down/kernel"] == (1, 2, 1, 2)
    assert of.splits["layers/attention/q/kernel"] == (1, 4, 1)
    inside, _ = per_layer(of, 4)
    assert inside == {"all_reduce": 2}


def test_tokens_of_several_replicas_go_to_their_experts_and_back():
    work = decoder(experts=8, batch=4)
    of = spread(work, system(chips=4, data=4, expert=4))
    assert of.splits["layers/mlp/up/kernel"] == (1, 4, 1, 1)
    assert of.splits["cache/keys/0"][1] == 4
    inside, outside = per_layer(of, 4)
    assert inside == {"all_to_all": 2}
    assert outside == {}


def test_replicas_divide_the_batch_and_hold_all_weights():
    work = decoder(batch=4)
    of = spread(work, system(tensor=2, data=2))
    assert of.splits["cache/keys/0"] == (1, 2, 2, 1, 1)
    assert of.work.dot_flops * 4 == work.dot_flops
    assert sum(of.leaf_bytes["layers/mlp/up/kernel"]) * 2 == 4 * 96 * 64 * 2
    fewer = spread(decoder(batch=2), system(tensor=2))
    assert of.work.cache_bytes == fewer.work.cache_bytes
    assert exchanges(of) == exchanges(fewer)


def test_rules_override_what_the_work_suggests():
    work = decoder()
    of = spread(work, system(tensor=2), [Split("layers/attention/**", None)])
    assert of.splits["layers/attention/q/kernel"] == (1, 1, 1)
    assert of.splits["layers/mlp/up/kernel"] == (1, 2, 1)
    assert per_layer(of, 4)[0] == {"all_reduce": 1}
    # First match wins.
    of = spread(work, system(tensor=2), [Split("head/**", 0), Split("**", None)])
    assert {path for path, dims in of.splits.items() if max(dims, default=1) > 1} == {"head/kernel"}
    assert exchanges(of) == [("all_gather", 2, 160 * 4, 1)]
    # One matrix kept whole among split ones: what it reads is gathered, and nothing is summed.
    of = spread(work, system(tensor=2), [Split("layers/mlp/down/kernel", None)])
    assert of.splits["layers/mlp/down/kernel"] == (1, 1, 1)
    assert per_layer(of, 4)[0] == {"all_reduce": 1, "all_gather": 1}
    assert ("all_gather", 2, 96 * 4, 4) in exchanges(of)


def test_cores_are_ranks_where_the_degrees_say_so():
    one = system(cores=2, chips=2, tensor=4)
    assert (one.ranks.count, one.ranks.per_chip) == (4, 2)
    assert system(cores=2, chips=4, tensor=4).ranks.per_chip == 1
    assert emu.chip("tpu-v7").cores == emu.chip("mi250x").cores == 2
    assert emu.chip("h100").cores == 1


def test_cores_are_read_from_a_chip_file():
    text = (Path(emu.__file__).parent / "catalogue" / "groq.toml").read_text(encoding="utf-8")
    given = 'cores = {{ value = {}, source = "ship", kind = "vendor" }}\nyear = 2020'
    assert parse_chips(text.replace("year = 2020", given.format(4)), "a test")[0].cores == 4
    for cores in ("1.5", "inf"):
        with pytest.raises(EmuError, match=f"whole number of at least 1, not {re.escape(cores)}"):
            parse_chips(text.replace("year = 2020", given.format(cores)), "a test")
    with pytest.raises(EmuError, match="must say where it is from"):
        parse_chips(text.replace("year = 2020", "cores = 2\nyear = 2020"), "a test")


def padded(of):
    """The same system under software that pads."""
    return dataclasses.replace(of, stack=dataclasses.replace(of.software, name="pad", pads=True))


def test_a_stack_that_pads_gives_the_fullest_rank_what_it_gets():
    # 2 groups of 7 heads over 8 ranks: 2 of the groups x 4 of 2, 2, 2 and 1 heads.
    work = decoder(kv=2, group=7)
    with pytest.raises(EmuError, match="14 heads"):
        spread(work, system(tensor=8))
    of = spread(work, padded(system(tensor=8)))
    assert of.splits["layers/attention/q/kernel"] == (1, 8, 1)
    assert of.splits["layers/attention/k/kernel"] == (1, 2, 1)
    assert of.rank_bytes["layers/attention/q/kernel"] == 4 * (2 * 8) * 64 * 2
    q = work.bytes_by_leaf["layers/attention/q/kernel"]
    assert of.work.bytes_by_leaf["layers/attention/q/kernel"] == q * 2 // 14
    assert ("all_reduce", 8, 64 * 4, 4) in exchanges(of)
    # 3 x 3 heads over 8 ranks: the fullest has 2 of the first axis and 1 of the second.
    of = spread(decoder(kv=3, group=3), padded(system(tensor=8)))
    assert of.rank_bytes["layers/attention/q/kernel"] == 4 * (2 * 8) * 64 * 2


@pytest.mark.parametrize(
    ("degrees", "message"),
    [
        ({"tensor": 3}, r"4 heads \(layers/attention/q/kernel\) over 3 tensor ranks: not divisi"),
        ({"tensor": 8}, r"over 8 tensor ranks: not divisible; take a degree such as 4"),
        ({"pipeline": 7}, "pipeline=7 stages, and there are 4 layers"),
        ({"expert": 2}, "expert=2, and the work has no routed experts"),
        ({"tensor": 2, "data": 2}, "data>1 divides the sequences of a batch"),
        ({"tensor": 2, "chips": 6}, "must multiply to the chips"),
        ({"chips": 4, "tensor": 4, "expert": 3}, "in 3 equal groups, and there are 4 chips"),
    ],
)
def test_splits_that_cannot_be_made(degrees, message):
    with pytest.raises(EmuError, match=message) as raised:
        spread(decoder(), system(**degrees))
    assert "\n" not in str(raised.value)


def test_more_splits_that_cannot_be_made():
    with pytest.raises(EmuError, match="8 experts over expert=3: not divisible"):
        spread(decoder(experts=8), system(expert=3))
    with pytest.raises(EmuError, match="3 sequences over data=2: not divisible"):
        spread(decoder(batch=3), system(tensor=2, data=2))
    with pytest.raises(EmuError, match=r"split 'layers/\*/mlp/\*\*' matches no leaf; the nearest"):
        spread(decoder(), system(tensor=2), [Split("layers/*/mlp/**", None)])
    with pytest.raises(EmuError, match=r"has no dimension 5"):
        spread(decoder(), system(tensor=2), [Split("layers/mlp/**", 5)])
    with pytest.raises(EmuError, match=r"leave the \[index\] out"):
        Split("layers[:2]/**", None)
    with pytest.raises(EmuError, match="the system has no degrees"):
        spread(decoder(), system(chips=4))
    blind = dataclasses.replace(
        decoder(),
        axes=(),
        ops=tuple(dataclasses.replace(op, axes=(), summed=(), indexed=()) for op in decoder().ops),
        leaves=tuple(dataclasses.replace(leaf, axes=()) for leaf in decoder().leaves),
    )
    with pytest.raises(EmuError, match="trace it anew: it says nothing of its axes"):
        spread(blind, system(tensor=2))
    assert len(spread(blind, system(pipeline=3)).stages) == 3


def test_spreading_again_gives_the_same_object_and_lets_go_of_it():
    import gc  # noqa: PLC0415
    import weakref  # noqa: PLC0415

    work = decoder()
    of = spread(work, system(tensor=2))
    assert spread(work, system(tensor=2)) is of
    assert spread(work, system(tensor=4)) is not of
    gone = weakref.ref(of)
    del work, of
    gc.collect()
    assert gone() is None


def test_the_work_of_a_rank_is_numbered_and_written_like_any_other():
    of = spread(decoder(layers=3), system(tensor=2, pipeline=3)).work
    assert emu.Work.from_json(of.to_json()) == of
    kernels = [op.kernel for op in of.ops]
    assert kernels == sorted(kernels)
    assert len(set(kernels)) == len(kernels)

"""Spreading decoders as they are traced, named ones among them."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import pytest

import emu
from emu import CapacityError, System, place, spread
from emu.busiest import busiest_distinct
from models.steps import decode_step
from models.zoo import architecture


@functools.cache
def traced(name, dtype="bfloat16", *, batch=1, scanned=True, length=2048, layers=None):
    of = architecture(name)
    if layers:
        of = dataclasses.replace(of, config=dataclasses.replace(of.config, layers=layers))
    weights = of.weights(dtype, scanned=scanned)
    cache = of.cache(batch=batch, length=length, dtype=jnp.float8_e4m3fn, scanned=scanned)
    tokens = jax.ShapeDtypeStruct((batch, 1), jnp.int32)
    step = functools.partial(decode_step, of.config)
    return emu.trace(step, weights, cache, tokens, weights=0, cache=1)


def system(chip="h100", **degrees):
    chips = 1
    for degree in degrees.values():
        chips *= degree
    return System(emu.chip(chip), chips=chips, **degrees)


def per_layer(of, kind):
    return sum(op.count for op in of.work.collectives if op.collective.kind == kind)


def test_a_stack_may_have_the_embedding_and_the_head_on_every_rank():
    work = traced("llama-3.2-1b")  # whose head is its embedding
    split, whole = (
        spread(work, dataclasses.replace(system(tensor=8), stack=stack))
        for stack in (emu.stack("ideal"), dataclasses.replace(emu.stack("ideal"), head_whole=True))
    )
    table = 128256 * 2048 * 2
    assert whole.work.weight_bytes - split.work.weight_bytes == table * 7 // 8
    assert whole.rank_bytes["embedding/weight"] == table
    assert (per_layer(split, "all_gather"), per_layer(whole, "all_gather")) == (1, 0)
    assert per_layer(split, "all_reduce") == per_layer(whole, "all_reduce") + 1  # rows looked up


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("llama-3.1-70b", "bfloat16"),
        ("llama-3.1-70b", "fp8"),
        ("llama-3.1-70b", "nvfp4"),
        ("qwen3-32b", "int8"),
        ("qwen2.5-72b", "fp8"),  # more vectors of heads, biases and scales, than matrices of width
        ("gemma-3-27b", "bfloat16"),
        ("mixtral-8x7b", "bfloat16"),
        ("gpt-oss-20b", "bfloat16"),
    ],
)
def test_heads_widths_and_vocabularies_are_split_and_nothing_else(name, dtype):
    work = traced(name, dtype, batch=2)
    of = spread(work, system(tensor=8))
    layers = architecture(name).config.layers
    assert per_layer(of, "all_reduce") == 2 * layers + 1
    assert per_layer(of, "all_gather") == 1
    whole = {path for path, dims in of.splits.items() if max(dims, default=1) == 1}
    # Norms, what is added after a sum, scales per output of what sums, the router.
    rest = ("scale", "bias", "router/kernel", "cache/position")
    assert all(path.endswith(rest) for path in whole), whole
    assert of.work.cache_bytes == pytest.approx(work.cache_bytes / 8, rel=1e-3)
    assert 1 / 8 <= of.work.weight_bytes / work.weight_bytes < 0.134


@pytest.mark.parametrize("scanned", [True, False])
def test_llama_70b_on_576_lpus_and_on_fewer(scanned):
    work = traced("llama-3.1-70b", "fp8", scanned=scanned)
    on = system("groq-lpu-v1", tensor=8, pipeline=72)
    placement = place(work, on, "on-chip")
    fullest = placement.fullest_chip_bytes["sram"]
    assert 214e6 < fullest < 217e6  # two layers, and 2048 slots of their keys and values
    assert placement.excess_bytes == {}
    stages = spread(work, on).stages
    counts = [sum(part.layer for part in stage.parts) for stage in stages]
    assert (counts[0], counts[-1], max(counts), sum(counts)) == (0, 0, 2, 80)
    assert per_layer(spread(work, on), "permute") == 71
    if scanned:
        with pytest.raises(CapacityError) as told:
            place(work, system("groq-lpu-v1", tensor=8, pipeline=8), "on-chip")
        assert "336 chips as tensor=8 x pipeline=42 would do" in str(told.value)
        place(work, system("groq-lpu-v1", tensor=8, pipeline=42), "on-chip")


def test_an_indexer_is_on_every_rank():
    work = traced("deepseek-v3.2", "fp8", batch=1)
    of = spread(work, System(emu.chip("h200"), chips=8, tensor=8))
    indexers = {p: split for p, split in of.splits.items() if "index" in p}
    assert {p.split("/")[0] for p in indexers} == {"layers", "cache"}
    assert all(set(split) == {1} for split in indexers.values())
    assert of.work.cache_bytes == work.cache_bytes
    of_dense = spread(
        traced("deepseek-r1", "fp8", batch=1), System(emu.chip("h200"), chips=8, tensor=8)
    )
    assert [op.collective for op in of.work.collectives] == [
        op.collective for op in of_dense.work.collectives
    ]


def test_deepseek_by_experts_and_heads():
    work = traced("deepseek-r1", "fp8", batch=1)
    of = spread(work, System(emu.chip("h200"), chips=8, tensor=8, expert=8))
    latents = [path for path in of.splits if path.startswith("cache/")]
    assert all(set(of.splits[path]) == {1} for path in latents)  # every rank has all latents
    assert of.work.cache_bytes == work.cache_bytes
    heads = "layers/3:61/attention"
    assert of.splits[f"{heads}/q/kernel"] == of.splits[f"{heads}/kv/kernel"] == (1, 8, 1)
    assert of.splits[f"{heads}/o/kernel"] == (1, 1, 8)
    assert of.splits[f"{heads}/kv_down/kernel"] == of.splits[f"{heads}/q_down/kernel"] == (1, 1, 1)
    up = "layers/3:61/mlp/experts/up/kernel"
    assert of.splits[up] == (1, 8, 1, 1)
    # 8 of 256 experts for a token, 32 on each rank: the busiest has 2.56 of them, not 1.
    here, all_read = of.work.bytes_by_leaf[up], work.bytes_by_leaf[up]
    assert here / all_read == pytest.approx(busiest_distinct(256, 8, 1, 8) / 8, rel=1e-6)
    assert here > 2.5 * all_read / 8
    # Experts' and the shared expert's sums go together.
    assert per_layer(of, "all_reduce") == 1 + 2 * 61
    # Sorted by expert, as many tokens are, the busiest rank is nearer to the mean.
    many = traced("deepseek-r1", "fp8", batch=256)
    spread_many = spread(many, System(emu.chip("h200"), chips=8, tensor=8, expert=8))
    share = spread_many.work.bytes_by_leaf[up] / many.bytes_by_leaf[up]
    assert 1 / 8 < share < 1.01 / 8


def test_deepseek_with_a_replica_of_attention_on_each_rank():
    work = traced("deepseek-r1", "fp8", batch=256)
    of = spread(work, System(emu.chip("h200"), chips=32, data=32, expert=32))
    assert of.ranks.gathers_replicas
    assert of.splits["cache/values/1"][1] == 32
    assert per_layer(of, "all_to_all") == 2 * 58
    assert per_layer(of, "all_reduce") == 0
    sent = [op.collective for op in of.work.collectives]
    # 8 tokens of this rank, to 8 experts each.
    vector = 7168 * (2 if architecture("deepseek-r1").config.arithmetic == "bfloat16" else 4)
    assert {(one.bytes, one.group) for one in sent} == {(8 * 8 * vector, 32)}


@pytest.mark.parametrize(
    ("name", "layers", "degrees"),  # the pattern of layers twice, and a part of it
    [
        ("gpt-oss-20b", 6, {"pipeline": 6}),
        ("gemma-3-4b", 14, {"tensor": 2, "pipeline": 7}),
        ("deepseek-r1", 7, {"tensor": 4, "pipeline": 6}),
        ("llama-4-scout", 10, {"tensor": 8, "pipeline": 3}),
    ],
)
def test_scanned_and_written_out_decoders_spread_alike(name, layers, degrees):
    one, many = (
        spread(traced(name, scanned=scanned, layers=layers), system(**degrees))
        for scanned in (True, False)
    )
    assert one.work.flops == many.work.flops
    assert one.work.weight_bytes == many.work.weight_bytes
    assert one.work.cache_bytes == many.work.cache_bytes
    sums = [
        sorted((op.collective.kind, op.collective.bytes) for op in of.work.collectives
               for _ in range(op.count))
        for of in (one, many)
    ]  # fmt: skip
    assert sums[0] == sums[1]
    held = [
        [sum(sizes) for sizes in zip(*of.leaf_bytes.values(), strict=True)] for of in (one, many)
    ]
    assert held[0] == held[1]
    assert sum(part.layer for stage in one.stages for part in stage.parts) == layers


def test_stages_of_a_loop_stand_in_the_order_of_its_turns():
    of = spread(traced("gpt-oss-20b"), system(pipeline=26))
    names = [part.name for stage in of.stages for part in stage.parts if part.layer]
    assert names == [f"layer {n}" for n in range(24)]
    first, second = of.stages[1].rows, of.stages[2].rows
    assert {path.split("/")[1] for path in first if "/mlp/" in path} == {"0:23:2"}
    assert {path.split("/")[1] for path in second if "/mlp/" in path} == {"1:24:2"}
    for stage, other in itertools.pairwise(of.stages):
        shared = set(stage.rows) & set(other.rows)
        assert all(path == "cache/position" for path in shared)


def test_heads_that_do_not_divide():
    with pytest.raises(emu.EmuError, match=r"28 heads \(.*\) over 8 tensor ranks: not divisible"):
        spread(traced("qwen2.5-7b"), system(tensor=8))
    with pytest.raises(emu.EmuError, match="at most pipeline=30"):
        spread(traced("qwen2.5-7b"), system(pipeline=31))


@pytest.mark.parametrize("scanned", [True, False])
def test_a_sum_of_works_is_spread_over_tensor_ranks_but_not_over_stages(scanned):
    work = traced("llama-3.2-1b", scanned=scanned)
    both = work + 3 * work
    of, one = spread(both, system(tensor=8)), spread(work, system(tensor=8))
    assert of.work.flops == 4 * one.work.flops
    assert of.work.weight_bytes == 4 * one.work.weight_bytes
    assert per_layer(of, "all_reduce") == 4 * per_layer(one, "all_reduce")
    with pytest.raises(emu.EmuError, match="more than once, as sums of works do"):
        spread(both, system(pipeline=2))
    thrice = spread(3 * work, system(pipeline=4))
    assert per_layer(thrice, "permute") == 3 * 3


def test_functions_that_are_no_decoders():
    def mlp(weights, x):
        return jax.nn.relu(x @ weights["a"]) @ weights["b"]

    shape = jax.ShapeDtypeStruct
    weights = {
        "a": shape((256, 1024), jnp.float32),
        "b": shape((1024, 256), jnp.float32),
    }
    x = shape((4, 256), jnp.float32)
    for fn in (mlp, lambda weights, x: x + mlp(weights, x)):
        of = spread(emu.trace(fn, weights, x), system(tensor=8))
        assert of.splits == {"a": (1, 8), "b": (8, 1)}
        (only,) = of.work.collectives
        assert only.collective == emu.Collective(kind="all_reduce", bytes=4 * 256 * 4, group=8)
    of = spread(emu.trace(lambda w, x: x @ w, weights["a"], x), system(tensor=8))
    (only,) = of.work.collectives
    assert only.collective == emu.Collective(kind="all_gather", bytes=4 * 1024 * 4, group=8)
    with pytest.raises(emu.EmuError, match="no axis that weights could be split along"):
        spread(emu.trace(lambda w, x: x + w, shape((256,), jnp.float32), x), system(tensor=8))


def test_logits_are_gathered_for_what_needs_them_all():
    of = architecture("llama-3.2-1b")

    def greedy(weights, cache, tokens):
        logits, cache = decode_step(of.config, weights, cache, tokens)
        return jnp.argmax(logits[:, -1], axis=-1), cache

    cache = of.cache(batch=2, length=64)
    tokens = jax.ShapeDtypeStruct((2, 1), jnp.int32)
    work = emu.trace(greedy, of.weights("bfloat16"), cache, tokens, weights=0, cache=1)
    sent = spread(work, system(tensor=8)).work.collectives
    assert [op.collective.kind for op in sent][-1] == "all_gather"
    assert [op.collective.kind for op in sent].count("all_gather") == 1
    assert sent[-1].collective.bytes == pytest.approx(2 * 128256 * 4, rel=1e-4)

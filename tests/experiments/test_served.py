import dataclasses

import pytest

import emu
from emu.work import Work
from experiments.served import as_served
from experiments.steps_traced import decode_work, prefill_work


def accessed(work: Work, kind: str) -> int:
    return sum(op.count * a.bytes for op in work.ops for a in op.reads if a.kind == kind)


def test_scores_do_not_leave_the_kernel() -> None:
    short, long = (
        prefill_work("llama-3.2-1b", "bf16", "bf16", batch=1, context=0, tokens=n)
        for n in (512, 1024)
    )
    # Scores would be four times as many bytes; what is left grows with the tokens.
    assert long.activation_bytes < 2.05 * short.activation_bytes
    # 16 layers, heads of 64 x 32 and 4 x 512 x 512 bytes of scores each: more than all that's left.
    assert long.peak_activation_bytes < 4 * 32 * 1024 * 1024


def test_scores_over_keys_made_from_latents_do_not_either() -> None:
    work = prefill_work("deepseek-v3", "fp8", "bf16", batch=1, context=0, tokens=1024)
    most = max(a.bytes for op in work.ops for a in (*op.reads, *op.writes) if a.kind != "weights")
    assert most < 4 * 128 * 1024 * 1024  # 128 heads' scores in float32


def test_attention_is_one_kernel_and_the_rest_stays() -> None:
    work = decode_work("llama-3.2-1b", "bf16", "bf16", batch=4, context=1000)
    cached = [
        op for op in work.ops if op.kind == "dot" and any(a.kind == "cache" for a in op.reads)
    ]
    assert len(cached) == 2  # scores and sums, in one scanned layer
    assert len({op.kernel for op in cached}) == 1
    again = as_served(work)  # nothing is left to do
    assert again.activation_bytes == work.activation_bytes
    assert again.kernels == work.kernels
    assert again.weight_bytes == work.weight_bytes


def test_a_latent_that_is_keys_and_values_is_read_once() -> None:
    work = decode_work("deepseek-v3", "fp8", "bf16", batch=1, context=1000)
    # 512 of the latent and 64 that turn, two bytes each, in 61 layers.
    read = 1000 * 61 * (512 + 64) * 2
    assert read <= accessed(work, "cache") < 1.01 * read


def test_an_indexers_products_do_not_leave_the_kernel_that_sums_them() -> None:
    work = decode_work("deepseek-v3.2", "fp8", "bf16", batch=1, context=100_000)
    # A score in float32 for each token goes to the choice; the products of 64 heads stay.
    in_layers = (a for op in work.ops if op.count > 1 for a in (*op.reads, *op.writes))
    assert max(a.bytes for a in in_layers if a.kind == "activations") == 4 * 100_001
    # Attention is one kernel as well, over the tokens that were chosen.
    read = 61 * (100_000 * 128 + 2048 * (512 + 64)) * 2
    assert read <= accessed(work, "cache") < 1.01 * read


def test_an_indexer_multiplies_keys_in_float8_where_they_are_stored_so() -> None:
    bf16, fp8 = (
        decode_work("glm-5", "bf16", kv, batch=1, context=10_000).flops_by_dtype
        for kv in ("bf16", "fp8")
    )
    assert fp8["float8_e4m3fn"] == 78 * 2 * 32 * 128 * 10_001  # a query of 32 heads by each key
    assert "float8_e4m3fn" not in bf16


def test_narrow_floats_are_multiplied_as_such_and_integers_are_not() -> None:
    def flops(weights: str) -> dict[str, int]:
        work = decode_work("llama-3.2-1b", weights, "fp8", batch=1, context=1000)
        found: dict[str, int] = {}
        for op in work.ops:
            for dtype, n in op.flops.items() if op.kind == "dot" else ():
                found[dtype] = found.get(dtype, 0) + op.count * n
        return found

    in_fp8 = flops("fp8")
    # The matrices and the tied head; attention stays in bfloat16.
    assert in_fp8["float8_e4m3fn"] == 2 * (
        16 * (2 * 2048**2 + 2 * 2048 * 512 + 3 * 2048 * 8192) + 128256 * 2048
    )
    assert in_fp8["bfloat16"] == 16 * 4 * 1001 * 2048
    for float4 in ("nvfp4", "mxfp4"):
        assert flops(float4) == {
            "float4_e2m1fn": in_fp8["float8_e4m3fn"],
            "bfloat16": in_fp8["bfloat16"],
        }
    for other in ("bf16", "int8", "int4", "int4-g32"):
        assert set(flops(other)) == {"bfloat16"}


def layer_kernels(model: str, weights: str = "bf16") -> int:
    """Kernels of one of the layers, which are scanned."""
    work = decode_work(model, weights, "bf16", batch=1, context=1000)
    layers = max(op.count for op in work.ops)
    return len({op.kernel for op in work.ops if op.count == layers and op.kernel is not None})


def test_a_layer_has_the_kernels_that_servers_launch() -> None:
    # norm, qkv, rotated queries, rotated keys and the cache, attention, o, norm, gate and up,
    # silu, down; and one for the sum that goes on.
    assert layer_kernels("llama-3.1-8b") == 11
    assert layer_kernels("llama-3.1-8b", "int8") == 11
    # The router's product and its choice come on top.
    assert layer_kernels("mixtral-8x7b") == 13
    assert layer_kernels("mixtral-8x7b", "int8") == 13


def cache_read(stack: str, *, batch: int, tensor: int, model: str = "llama-3.1-70b") -> int:
    work = decode_work(model, "int8", "bf16", batch=batch, context=1000)
    system = emu.System(emu.chip("tpu-v5e"), chips=tensor, tensor=tensor, stack=stack)
    return emu.spread(work, system).work.cache_bytes


def test_ranks_of_the_same_heads_may_share_their_cache_by_sequences() -> None:
    whole, shared = "vllm-tpu", "jax-llm-examples"
    # Eight key-value heads: over eight ranks there is nothing to share, over 16 two have each.
    assert cache_read(shared, batch=8, tensor=8) == cache_read(whole, batch=8, tensor=8)
    eight = cache_read(whole, batch=8, tensor=8)
    assert cache_read(whole, batch=8, tensor=16) == pytest.approx(eight, rel=1e-3)
    assert cache_read(shared, batch=8, tensor=16) == pytest.approx(eight / 2, rel=1e-3)
    assert cache_read(shared, batch=7, tensor=16) == pytest.approx(eight * 4 / 8, rel=1e-3)
    one = cache_read(whole, batch=1, tensor=16)
    assert cache_read(shared, batch=1, tensor=16) == one
    # What sharing costs: queries go there, and results come back.
    work = decode_work("llama-3.1-70b", "int8", "bf16", batch=8, context=1000)
    system = emu.System(emu.chip("tpu-v5e"), chips=16, tensor=16, stack=shared)
    sent = [op.collective for op in emu.spread(work, system).work.ops if op.collective]
    there_and_back = [of for of in sent if of.kind == "all_to_all"]
    assert len(there_and_back) == 2
    assert there_and_back[0].group == 2
    # 8 sequences of 64 heads of 128 in bfloat16, a sixteenth on each rank.
    assert there_and_back[0].bytes == 8 * 64 * 128 * 2 // 16


def test_latents_are_on_every_rank() -> None:
    reads = [
        cache_read(stack, batch=8, tensor=tensor, model="deepseek-v3")
        for stack in ("vllm-tpu", "jax-llm-examples")
        for tensor in (8, 16)
    ]
    assert max(reads) - min(reads) < 0.01 * max(reads)


def test_heads_that_share_keys_may_each_read_them() -> None:
    def traffic(repeats: bool) -> float:
        stack = dataclasses.replace(emu.stack("ideal"), pads=True, repeats_heads=repeats)
        work = decode_work("llama-3.1-70b", "int8", "bf16", batch=1, context=64000)
        system = emu.System(emu.chip("h100"), chips=8, tensor=8, stack=stack)
        placement = emu.place(work, system, "off-chip")
        return emu.predict(work, system, placement).traffic["hbm"] - work.weight_bytes

    # Eight query heads to each key-value head.
    assert traffic(True) == pytest.approx(8 * traffic(False), rel=0.05)

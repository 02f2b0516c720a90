"""What a step of the zoo reads, by `emu.trace`. About 10 seconds."""

import dataclasses
import functools
import time

import jax
import pytest

import emu
import kernels
from models import zoo
from models.steps import decode_step


def traced(name, dtype="bfloat16", *, scanned=True, batch=1, length=4096, context=2000):
    found = zoo.architecture(name)
    return emu.trace(
        functools.partial(decode_step, found.config),
        found.weights(dtype, scanned=scanned),
        found.cache(batch=batch, length=length, scanned=scanned),
        jax.ShapeDtypeStruct((batch, 1), "int32"),
        cache=1,
        hints={"context": context},
    )


def once(name):
    """Bytes of all weights in bfloat16 read once (norms and biases in float32), from the table."""
    found = zoo.architecture(name)
    leaves = jax.tree.leaves_with_path(found.weights())
    table = sum(
        leaf.size * leaf.dtype.itemsize
        for path, leaf in leaves
        if path[0].key == "embedding" and not found.config.tied_embeddings
    )
    return sum(leaf.size * leaf.dtype.itemsize for _, leaf in leaves) - table


def kv_bytes(work):
    """Bytes of keys and values, without the few of the positions."""
    return sum(
        n for path, n in work.bytes_by_leaf.items() if path.startswith(("cache/k", "cache/v"))
    )


@pytest.mark.parametrize("name", ["llama-3.1-8b", "smollm2-135m", "starcoder2-15b", "gemma-3-1b"])
def test_a_token_reads_every_weight_once_and_its_embedding_row(name):
    work = traced(name)
    assert work.weight_bytes == once(name) + 2 * zoo.architecture(name).config.width


def test_a_list_of_layers_reads_what_a_scan_over_them_does():
    # The list's single-token step calls the native products, where they are built.
    stacked, listed = traced("gemma-3-270m"), traced("gemma-3-270m", scanned=False)
    assert stacked.weight_bytes == listed.weight_bytes
    assert stacked.cache_bytes == listed.cache_bytes
    assert stacked.cache_written_bytes == listed.cache_written_bytes
    assert stacked.dot_flops == listed.dot_flops


def test_layers_read_in_place_count_as_layers_one_by_one():
    # In float32 both call the native products, where they are built: of a stack, or of a layer.
    found = zoo.architecture("smollm2-135m")
    config = dataclasses.replace(found.config, arithmetic="float32")

    def counted(scanned):
        return emu.trace(
            functools.partial(decode_step, config, in_place=True),
            found.weights("int8", scanned=scanned),
            found.cache(batch=1, length=4096, scanned=scanned),
            jax.ShapeDtypeStruct((1, 1), "int32"),
            cache=1,
            hints={"context": 2000},
        )

    stacked, listed = counted(True), counted(False)
    assert stacked.weight_bytes == listed.weight_bytes
    assert stacked.cache_bytes == listed.cache_bytes
    assert stacked.cache_written_bytes == listed.cache_written_bytes
    assert stacked.flops_by_dtype == listed.flops_by_dtype
    assert ("ffi_call" in {op.name for op in stacked.ops}) == kernels.native()


def test_local_layers_read_their_window():
    # Gemma-3-270M: 18 layers, each sixth global; one head of keys and of values, 256 wide.
    work = traced("gemma-3-270m", context=2000)
    assert kv_bytes(work) == 2 * 2 * 256 * (3 * 2000 + 15 * 512)
    assert kv_bytes(traced("gemma-3-270m", context=100)) == 2 * 2 * 256 * 18 * 100


def test_405b_is_traced_in_under_two_seconds():
    start = time.process_time()
    work = traced("llama-3.1-405b")
    assert time.process_time() - start < 2
    assert work.weight_bytes == once("llama-3.1-405b") + 2 * 16384


def distinct(experts, batch):
    """Expected distinct experts that a batch of tokens is routed to, all alike likely."""
    return experts.count * (1 - (1 - experts.chosen / experts.count) ** batch)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", ["mixtral-8x7b", "gpt-oss-20b", "qwen3-30b-a3b", "deepseek-r1"])
def test_a_batch_reads_the_experts_that_it_is_expected_to_touch(name, batch):
    found = zoo.architecture(name)
    work = traced(name, batch=batch)
    experts = found.config.experts
    for path, read in work.bytes_by_leaf.items():
        if "/experts/" in path and path.endswith("kernel"):
            leaf = next(leaf for leaf in work.leaves if leaf.path == path)
            share = distinct(experts, batch) / experts.count
            assert float(read) == pytest.approx(float(leaf.bytes * share), rel=1e-6), path


def test_deepseek_r1_reads_37_billion_parameters_and_is_traced_in_two_seconds():
    # 671 billion in all; 37.6 are active, of which the embedding's 0.93 are read but for a row.
    start = time.process_time()
    work = traced("deepseek-r1")
    assert time.process_time() - start < 2
    assert float(work.weight_bytes) / 2 == pytest.approx((37.55 - 0.93) * 1e9, rel=0.001)
    # One latent of 512 and one key of 64 in each of 61 layers, whatever the heads: 70,272 bytes are
    # held for a token. Scores and mix are two products, each of which reads the latents.
    cache = zoo.architecture("deepseek-r1").cache(batch=1, length=1)
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in (*cache.keys, *cache.values))
    assert held == 61 * (512 + 64) * 2 == 70_272
    assert kv_bytes(work) == 2000 * 61 * (2 * 512 + 64) * 2


@pytest.mark.parametrize(
    ("name", "layers", "heads", "queries"),
    [("deepseek-v3.2", 61, 64, 1536), ("glm-5", 78, 32, 2048)],
)
def test_an_indexer_reads_all_its_keys_and_attention_the_chosen_tokens(
    name, layers, heads, queries
):
    def read(context, length=140_000, **how):
        return traced(name, length=length, context=context, **how)

    def by_cache(work):
        return [
            sum(n for path, n in work.bytes_by_leaf.items() if path.startswith(f"cache/{kind}/"))
            for kind in ("keys", "values", "index_keys")
        ]

    # In bfloat16: a key of 64, a latent of 512 that is read twice, and an indexer's key of 128.
    for context in (1000, 2000, 130_000):
        chosen = min(context, 2048)
        per_token = [2 * 64 * chosen, 2 * 2 * 512 * chosen, 2 * 128 * context]
        assert by_cache(read(context)) == [layers * n for n in per_token]
        assert by_cache(read(context, batch=3)) == [3 * layers * n for n in per_token]
    # Twice the slots cost the indexer's products and their sums, and nothing of attention's.
    short, long = read(100, length=8192), read(100, length=16_384)
    assert long.dot_flops - short.dot_flops == layers * 8192 * 2 * heads * (128 + 1)
    # What it chooses are tokens, no experts.
    accesses = [a for op in short.ops for a in op.reads if a.kind == "cache"]
    assert accesses
    assert all(a.routed is None for a in accesses)
    indexer = zoo.architecture(name).weights("fp8")["layers"][f"3:{layers}"]["attention"]["indexer"]
    assert indexer["q"]["kernel"].shape == (layers - 3, heads * 128, queries)
    assert indexer["q"]["kernel"].dtype == "float8_e4m3fn"
    assert indexer["head_weights"]["kernel"].dtype == "bfloat16"


def test_llama_4_reads_a_chunk_in_three_layers_of_four():
    work = traced("llama-4-maverick", length=20_000, context=10_000)
    assert kv_bytes(work) == 2 * 2 * 8 * 128 * (36 * 8192 + 12 * 10_000)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt-oss-20b", "deepseek-r1", "palm-8b"])
def test_arithmetic_in_bfloat16_is_traced_as_such(name):
    found = zoo.architecture(name)
    config = dataclasses.replace(found.config, arithmetic="bfloat16")
    step = functools.partial(decode_step, config)
    cache = found.cache(batch=1, length=128)
    tokens = jax.ShapeDtypeStruct((1, 1), "int32")
    work = emu.trace(step, found.weights("bfloat16"), cache, tokens, weights=0, cache=1)
    by_dtype: dict[str, int] = {}
    for op in work.ops:
        assert op.name != "ffi_call"
        for dtype, flops in op.flops.items():
            if op.kind == "dot":
                by_dtype[dtype] = by_dtype.get(dtype, 0) + op.count * flops
    assert by_dtype["bfloat16"] >= 0.99 * sum(by_dtype.values())

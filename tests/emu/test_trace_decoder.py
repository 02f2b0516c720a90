"""A whole decoder, traced: exact weight bytes, FLOPs against XLA's own counts."""

import functools
import re
import resource
import time

import jax
import pytest
from toy_decoder import Toy, step

from emu.tracing import trace


def traced(toy, *, stacked=False, tokens=1, **hints):
    return trace(
        functools.partial(step, toy),
        toy.weights(stacked),
        toy.cache(stacked),
        *toy.tokens(tokens),
        cache=1,
        hints=hints,
    )


@pytest.mark.newest
@pytest.mark.parametrize("stacked", [False, True])
def test_one_token_reads_every_weight_once_and_its_embedding_row(stacked):
    toy = Toy(batch=3)
    work = traced(toy, stacked=stacked, context=20)
    rows = 3 * toy.width  # one embedding row for each sequence
    head = toy.width * toy.vocab
    elements = toy.layers * toy.layer_elements + toy.width + head + rows
    assert work.weight_bytes == 4 * elements
    kv = toy.kv_heads * toy.head
    assert work.cache_bytes == 4 * toy.layers * 2 * toy.batch * 20 * kv
    assert work.cache_written_bytes == 4 * toy.layers * 2 * toy.batch * kv


def test_the_stack_counts_like_the_list():
    flat, stack = traced(Toy(), context=20), traced(Toy(), stacked=True, context=20)
    assert flat.flops_by_dtype == stack.flops_by_dtype
    assert flat.weight_bytes == stack.weight_bytes
    assert flat.cache_bytes == stack.cache_bytes
    assert flat.cache_written_bytes == stack.cache_written_bytes


def test_a_tied_head_reads_the_embedding_again():
    toy = Toy(tied=True)
    work = traced(toy, context=20)
    assert work.bytes_by_leaf["embedding"] == 4 * (toy.width + toy.width * toy.vocab)


def test_prefill_reads_the_weights_once_for_all_tokens():
    toy = Toy()
    work = traced(toy, tokens=8)
    head = toy.width * toy.vocab
    elements = toy.layers * toy.layer_elements + toy.width + head + 8 * toy.width
    assert work.weight_bytes == 4 * elements
    assert work.dot_flops == 8 * traced(toy).dot_flops


def dot_flops_of(text):
    """2 x elements of the result x summed elements, over the `dot_general`s of StableHLO text."""
    functions = {}
    for name, body in re.findall(r"func\.func \w+ @(\w+)\((.*?)\n  }", text, re.S):
        total = 0
        for summed, left, out in re.findall(
            r"stablehlo\.dot_general .*?contracting_dims = \[([\d, ]*)\] x .*?"
            r": \(tensor<([^>]*)>, tensor<[^>]*>\) -> tensor<([^>]*)>",
            body,
        ):
            dims = [int(n) for n in left.split("x")[:-1]]
            size = 1
            for n in out.split("x")[:-1]:
                size *= int(n)
            for d in summed.split(","):
                size *= dims[int(d)]
            total += 2 * size
        functions[name] = (total, re.findall(r"call @(\w+)", body))

    def count(name):
        total, calls = functions[name]
        return total + sum(count(called) for called in calls)

    return count("main")


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("toy", [Toy(), Toy(tied=True, batch=2, dtype="bfloat16", kv_heads=4)])
def test_dot_flops_are_those_of_the_stablehlo(toy, tokens):
    function = jax.jit(functools.partial(step, toy))
    text = function.lower(toy.weights(False), toy.cache(False), *toy.tokens(tokens)).as_text()
    assert "stablehlo.while" not in text
    assert traced(toy, tokens=tokens).dot_flops == dot_flops_of(text) > 0


def test_all_flops_are_within_a_percent_of_xlas_own_count():
    toy = Toy(layers=1, width=1024, heads=16, kv_heads=16, head=64, mlp=2048, vocab=1024, length=64)
    function = jax.jit(functools.partial(step, toy))
    lowered = function.lower(toy.weights(False), toy.cache(False), *toy.tokens())
    xla = lowered.cost_analysis()["flops"]
    assert traced(toy).flops == pytest.approx(xla, rel=0.01)


def test_llama_8b_reads_15_gb_for_a_token():
    # Llama-3.1-8B: 32 layers, width 4096, 32 heads of 128 (8 for keys and values), MLP 14336,
    # 128256 tokens (Hugging Face meta-llama/Llama-3.1-8B config.json): 8.03e9 weights, of which the
    # embedding's 0.525e9 are not read but for one row: 7.505e9 x 2 bytes = 15.01 GB.
    toy = Toy(
        layers=32, width=4096, heads=32, kv_heads=8, head=128, mlp=14336, vocab=128256,
        length=4096, dtype="bfloat16",
    )  # fmt: skip
    work = traced(toy, stacked=True, context=2048)
    assert sum(leaf.size for leaf in work.leaves if leaf.kind == "weights") == 8_030_261_248
    assert work.weight_bytes == 2 * (8_030_261_248 - 128256 * 4096 + 4096) == 15_009_857_536
    assert work.cache_bytes == 2 * 32 * 2 * 8 * 128 * 2048


def test_a_405b_model_is_traced_in_seconds_and_megabytes():
    toy = Toy(
        layers=126, width=16384, heads=128, kv_heads=8, head=128, mlp=53248, vocab=128256,
        length=8192, dtype="bfloat16",
    )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    work = traced(toy, stacked=True, context=2000)
    assert time.process_time() - start < 2
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # kilobytes on Linux
    assert grown < 1_000_000
    assert work.weight_bytes == 2 * (
        126 * toy.layer_elements + toy.width + toy.width * toy.vocab + toy.width
    )
    assert len(work.ops) < 300


def test_scopes_name_the_parts_of_the_model():
    scopes = {op.scope.split("/")[0] for op in traced(Toy(), stacked=True).ops if op.kind == "dot"}
    assert {"attention", "mlp"} <= scopes


def test_layers_are_the_same_kernels_and_few():
    one, three = traced(Toy(layers=1)), traced(Toy(layers=3))
    two = traced(Toy(layers=2))
    assert three.kernels - two.kernels == two.kernels - one.kernels
    # Seven weight products and two of attention; and kernels between them: the norm (with the
    # residual sum), what is done to q and k with k's update, v's update, softmax, silu, the
    # second norm.
    assert three.kernels - two.kernels == 9 + 6


def test_a_decoders_activations_are_small_beside_its_weights():
    toy = Toy(width=256, heads=4, kv_heads=2, head=64, mlp=512)
    work = traced(toy)
    # At most a few vectors of the vocabulary's or the MLP's length are alive at once.
    assert work.peak_activation_bytes <= 4 * 8 * max(toy.vocab, toy.mlp)

"""What a step of the zoo reads, by `emu.trace`. About 10 seconds."""

import functools
import time

import jax
import pytest

import emu
from models import zoo
from models.steps import decode_step


def traced(name, dtype="bfloat16", *, scanned=True, length=4096, context=2000):
    found = zoo.architecture(name)
    return emu.trace(
        functools.partial(decode_step, found.config),
        found.weights(dtype, scanned=scanned),
        found.cache(batch=1, length=length, scanned=scanned),
        jax.ShapeDtypeStruct((1, 1), "int32"),
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

"""Every jitted step lowers for TPUs and GPUs from this machine, with its memories in the module.

Lowering is as far as one gets without the device: what XLA makes of the module there (whether a
copy runs beside the products, say) is not checked by it.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax import export

import emu
import kernels
import kernels.products
from emu import small_steps, streams
from experiments import cliff, engine
from models.cache import new_cache
from models.config import DecoderConfig
from models.shapes import shapes
from tests.emu.test_residency import machine

CONFIG = DecoderConfig(
    vocab_size=512,
    layers=2,
    width=128,
    heads=4,
    kv_heads=2,
    head_width=32,
    mlp_width=256,
    max_context=64,
    tied_embeddings=True,
)
KERNELS = 7  # of a layer: q, k, v, o, gate, up, down
PLATFORMS = ("tpu", "cuda")


@pytest.fixture(autouse=True)
def as_on_an_accelerator(monkeypatch):
    """Without the CPU's native products, which no function traced for an accelerator has."""
    for module in (kernels, kernels.products):
        monkeypatch.setattr(module, "native", lambda: False)


def weights(dtype="float32"):
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes(CONFIG, dtype))


def module(platform, jitted, *args):
    return export.export(jitted, platforms=[platform])(*args).mlir_module()


def called_out(text):
    """The custom calls of a module, each with how often."""
    found = re.findall(r"custom_call @([\w.]+)", text)
    return {name: found.count(name) for name in found}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_decode_prefill_and_the_layers_alone(platform, dtype):
    tree = weights(dtype)
    cache = new_cache(CONFIG, batch=1, length=32)
    step = engine._step(CONFIG, None)
    decode = module(platform, step, tree, cache, jnp.zeros(1, jnp.int32), None)
    assert decode.count("stablehlo.dot_general") == 2 * (KERNELS + 2) + 1  # and the tied head
    assert called_out(decode) == {}
    assert "pinned_host" not in decode
    # The cache is donated: it is written where it lies.
    assert decode.count("tf.aliasing_output") + decode.count("jax.buffer_donor") == 5
    tokens, lengths = jnp.zeros((1, 16), jnp.int32), jnp.ones(1, jnp.int32)
    assert called_out(module(platform, step, tree, cache, tokens, lengths)) == {}
    hidden = jnp.zeros((1, 1, CONFIG.width))
    layers = {"layers": tree["layers"]}
    alone = module(platform, cliff._step(CONFIG), layers, cache, hidden)
    assert alone.count("stablehlo.dot_general") == 2 * (KERNELS + 2)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_from_the_hosts_memory_each_weight_is_copied_once_a_step(platform):
    tree = {"layers": weights()["layers"]}
    system = machine(10**9, "memory-kind")
    rules = [("layers/0/**", "on-chip"), ("**", "off-chip")]
    placement = emu.place(emu.Work(leaves=emu.leaves_of(tree)), system, rules)
    realized = emu.realize(cliff._step(CONFIG), placement, tree)
    program = realized.steps_in_one(3)
    cache, hidden = new_cache(CONFIG, batch=1, length=32), jnp.zeros((1, 1, CONFIG.width))
    text = module(platform, program.func, *program.args, cache, hidden)
    leaves = len(jax.tree.leaves(tree["layers"][1]))
    arguments = re.search(r"@main\((.*?)\) ->", text, re.S)[1]
    assert arguments.count('mhlo.memory_kind = "pinned_host"') == leaves
    assert called_out(text) == {"annotate_device_placement": 3 * leaves}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_stacked_layers_are_sliced_where_they_lie_within_the_loop(platform):
    config = dataclasses.replace(CONFIG, layers=7)
    tree = {"layers": shapes(config, scanned=True)["layers"]}
    tree = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), tree)
    work = emu.Work(leaves=emu.leaves_of(tree))
    placement = emu.place(work, machine(10**9, "memory-kind"), "off-chip")
    program = emu.realize(cliff._step(config), placement, tree).steps_in_one(1)
    cache = new_cache(config, batch=1, length=32, scanned=True)
    hidden = jnp.zeros((1, 1, config.width))
    text = module(platform, program.func, *program.args, cache, hidden)
    leaves = len(jax.tree.leaves(tree))
    arguments = re.search(r"@main\((.*?)\) ->", text, re.S)[1]
    assert arguments.count('mhlo.memory_kind = "pinned_host"') == leaves
    # The first layer before the loop, and the one that a turn fetches for the next.
    assert called_out(text) == {"annotate_device_placement": 2 * leaves}
    copies = re.findall(r"@annotate_device_placement\(%\w+\) .*: \(tensor<(\d+)x", text)
    assert config.layers not in map(int, copies)  # none is of a whole stack


@pytest.mark.parametrize("platform", PLATFORMS)
def test_rotation_adds_nothing_to_the_program(platform):
    tree = {"layers": weights()["layers"]}
    placement = emu.place(emu.Work(leaves=emu.leaves_of(tree)), machine(10**6), "off-chip")
    realized = emu.realize(cliff._step(CONFIG), placement, tree)
    assert realized.copies > 1
    program = realized.steps_in_one(realized.copies)
    cache, hidden = new_cache(CONFIG, batch=1, length=32), jnp.zeros((1, 1, CONFIG.width))
    text = module(platform, program.func, *program.args, cache, hidden)
    assert called_out(text) == {}
    leaves = len(jax.tree.leaves(tree))
    arguments = re.search(r"@main\((.*?)\) ->", text, re.S)[1]
    # Each copy's leaves are arguments of their own; the zero, the cache and the hidden state too.
    assert arguments.count("%arg") == realized.copies * leaves + 1 + 5 + 1


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("dtype", streams.DTYPES)
def test_what_measures_the_machine(platform, dtype):
    stream = streams.Stream.over(dtype, 2**14, 2, 1)
    x = jnp.ones(stream.side)
    text = module(platform, streams._chain, x, stream.sets[0], 1, False)
    assert text.count("stablehlo.dot_general") == 2
    there = streams.Stream.fetched(dtype, 2**14, "pinned_host")
    fetched = module(platform, streams._chain, x, there.sets[0], 1, True)
    leaves = len(jax.tree.leaves(there.sets[0]))
    assert called_out(fetched) == {"annotate_device_placement": leaves}
    small = (jnp.zeros((small_steps.ROWS, small_steps.WIDTH)), jnp.ones(small_steps.WIDTH))
    step = jax.jit(functools.partial(small_steps._small, 2))
    assert called_out(module(platform, step, small, jnp.ones(small_steps.WIDTH))) == {}

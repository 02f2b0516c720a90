"""The persistent kernel for TPUs, placed by rules, against the decoder's own layers.

Run in Pallas' TPU interpreter, whose memory that nothing was written to reads as NaN; lowered for a
TPU by `jax.export`. No TPU is asked for, and what one makes of it is not checked here.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental.pallas import tpu as pltpu
from jax.extend.core import jaxprs_in_params
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

import emu
from experiments.errors import ExperimentError
from experiments.persistent import resident_layers, stacked, steps
from kernels.persistent import _block, decode_layers, resident_bytes
from models.cache import new_cache
from models.config import DecoderConfig
from models.shapes import shapes
from models.steps import layer_step

V5E = AbstractMesh(
    (), (), abstract_device=AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
)
CONFIG = DecoderConfig(
    vocab_size=64,
    layers=2,
    width=128,
    heads=4,
    kv_heads=2,
    head_width=32,
    mlp_width=384,
    max_context=64,
    tied_embeddings=True,
)
STEPS, SLOTS, BEFORE = 3, 16, 5


def random_weights(dtype="float32"):
    leaves, structure = jax.tree.flatten({"layers": shapes(CONFIG, dtype)["layers"]})
    keys = jax.random.split(jax.random.key(0), len(leaves))
    pairs = zip(keys, leaves, strict=True)
    return structure.unflatten(
        [(0.1 * jax.random.normal(k, x.shape)).astype(x.dtype) for k, x in pairs]
    )


def placed(rules, tree):
    work = emu.Work(leaves=emu.leaves_of(tree))
    return emu.place(work, emu.System(emu.chip("tpu-v5e")), rules)


def first(resident):
    kept = [(f"layers[:{resident}]/**", "vmem")] if resident else []
    return [*kept, ("**", "hbm")] if resident < CONFIG.layers else kept


def inputs():
    hidden = jax.random.normal(jax.random.key(1), (STEPS, CONFIG.width))
    cache = new_cache(CONFIG, batch=1, length=SLOTS)
    filled = jax.tree.map(
        lambda x: jax.random.normal(jax.random.key(7), x.shape) if x.ndim == 4 else x, cache
    )
    return filled.rewind(jnp.full(1, BEFORE)), hidden


@pytest.mark.parametrize(("resident", "dtype"), [(0, "bfloat16"), (1, "float32"), (2, "bfloat16")])
def test_steps_are_those_of_the_decoder_wherever_the_weights_lie(resident, dtype):
    tree, (cache, hidden) = random_weights(dtype), inputs()
    with use_abstract_mesh(V5E):  # the interpreter asks for which TPU it is
        out, ours = steps(
            CONFIG,
            placed(first(resident), tree),
            tree,
            cache,
            hidden,
            interpret=pltpu.InterpretParams(),
        )
    for step in range(STEPS):
        expected, cache = layer_step(CONFIG, tree, cache, hidden[step][None, None])
        np.testing.assert_allclose(out[step], expected[0, 0], rtol=2e-5, atol=2e-5)
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(cache), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("resident", [0, 1, 2])
def test_it_lowers_for_a_tpu_as_one_kernel(resident):
    tree, (cache, hidden) = random_weights(), inputs()
    run = jax.jit(functools.partial(steps, CONFIG, placed(first(resident), tree)))
    with use_abstract_mesh(V5E):
        text = export.export(run, platforms=["tpu"])(tree, cache, hidden).mlir_module()
    assert text.count("custom_call @tpu_custom_call") == 1
    assert "persistent_decode_layers" in text
    # The cache is written where it lies.
    assert text.count("#stablehlo.output_operand_alias<") == 2


def copies(jaxpr, in_a_branch=False):
    """Copies that a kernel begins, and how many of them in a branch (of its first step)."""
    found = [0, 0]
    for eqn in jaxpr.eqns:
        inside = in_a_branch or eqn.primitive.name == "cond"
        found[inside] += eqn.primitive.name == "dma_start"
        for sub in jaxprs_in_params(eqn.params):
            found = [a + b for a, b in zip(found, copies(sub, inside), strict=True)]
    return found


def test_resident_layers_are_copied_at_the_first_step_only():
    tree, (cache, hidden) = random_weights(), inputs()
    run = functools.partial(steps, CONFIG, placed("on-chip", tree))
    always, once = copies(jax.make_jaxpr(run)(tree, cache, hidden).jaxpr)
    assert (always, once) == (0, 7)  # q, k, v, o, gate, up, down, all layers of each


def test_a_placement_that_the_kernel_cannot_keep():
    tree = random_weights()
    assert resident_layers(placed("on-chip", tree), 2) == 2
    with pytest.raises(ExperimentError, match=r"layer 0 is in hbm .* place layers\[:1\] in vmem"):
        resident_layers(placed([("layers/1/**", "vmem"), ("**", "hbm")], tree), 2)
    with pytest.raises(ExperimentError, match=r"layer 0 is in hbm, vmem: .* each layer whole"):
        resident_layers(placed([("**/attention/**", "vmem"), ("**", "hbm")], tree), 2)
    with pytest.raises(ExperimentError, match="layer 0 is in host: "):
        resident_layers(placed([("**", "host")], tree), 2)


def test_models_and_weights_that_the_kernel_is_not_for():
    tree, (cache, hidden) = random_weights(), inputs()
    other = dataclasses.replace(CONFIG, qk_norm=True, activation="gelu")
    with pytest.raises(ExperimentError, match="config: activation, qk_norm: "):
        steps(other, placed("on-chip", tree), tree, cache, hidden)
    two = new_cache(CONFIG, batch=2, length=SLOTS, dtype="bfloat16")
    with pytest.raises(ExperimentError, match=r"the cache is bfloat16\[2, 2, 16, 32\]: "):
        steps(CONFIG, placed("on-chip", tree), tree, two, hidden)
    narrow = jax.tree.map(lambda x: x.astype(jnp.int8), tree)
    with pytest.raises(ExperimentError, match="the weights are int8"):
        stacked(narrow)
    keys = jnp.stack([x[0] for x in cache.keys])
    with pytest.raises(ValueError, match="resident must be 0 to 2 layers, not 3"):
        decode_layers(
            stacked(tree),
            keys,
            keys,
            hidden,
            hidden,
            hidden,
            resident=3,
            epsilon=CONFIG.norm_epsilon,
        )


def test_blocks_divide_the_rows_in_whole_lanes():
    assert _block(4096, 4 * 2048) == 256  # 2 MiB
    assert _block(384, 2**14) == 128
    assert _block(384, 2**15) == 384  # 128 rows are too much: whole
    assert _block(100, 4) == 100


def test_what_stays_in_vmem_is_in_whole_tiles():
    layers = stacked(random_weights())
    of_one = 4 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 128 * 384)
    assert resident_bytes(layers, 2) == 2 * of_one
    wide = jax.tree.map(lambda x: jnp.zeros((1, 9, 129), jnp.bfloat16), layers)
    assert resident_bytes(wide, 1) == 7 * 2 * 16 * 256

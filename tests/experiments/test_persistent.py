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
from experiments import cliff, persistent
from experiments.errors import ExperimentError
from experiments.persistent import (
    LastSlotSteps,
    check_cache_room,
    check_config,
    check_room,
    memories_of,
    several,
    stacked,
)
from kernels.held_products import held_products
from kernels.persistent import REST_BYTES, _block, decode_layers, resident_bytes, room_bytes
from models.cache import new_cache
from models.config import DecoderConfig
from models.shapes import shapes
from models.steps import layer_step
from tests.quickly import jit_quickly

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
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(0.1 * rng.normal(size=x.shape), x.dtype),
        {"layers": shapes(CONFIG, dtype)["layers"]},
    )


@pytest.fixture
def tpu():
    """A v5e as far as Pallas can tell, whose kernels its interpreter runs."""
    with use_abstract_mesh(V5E), pltpu.force_tpu_interpret_mode():
        yield


def placed(rules, tree):
    work = emu.Work(leaves=emu.leaves_of(tree))
    return emu.place(work, emu.System(emu.chip("tpu-v5e")), rules)


def resident_layers(placement):
    return persistent.resident_layers(memories_of(placement), CONFIG.layers)


def first(resident):
    kept = [(f"layers[:{resident}]/**", "vmem")] if resident else []
    return [*kept, ("**", "hbm")] if resident < CONFIG.layers else kept


def inputs():
    rng = np.random.default_rng(1)
    hidden = jnp.asarray(rng.normal(size=(STEPS, CONFIG.width)), jnp.float32)
    cache = new_cache(CONFIG, batch=1, length=SLOTS)
    filled = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype) if x.ndim == 4 else x, cache
    )
    return filled.rewind(jnp.full(1, BEFORE)), hidden


@pytest.mark.parametrize(("resident", "dtype"), [(0, "bfloat16"), (1, "float32"), (2, "bfloat16")])
def test_steps_are_those_of_the_decoder_wherever_the_weights_lie(tpu, resident, dtype):
    tree, (cache, hidden) = random_weights(dtype), inputs()
    assert resident_layers(placed(first(resident), tree)) == resident
    slots = BEFORE + jnp.arange(STEPS)
    run = jit_quickly(functools.partial(several, CONFIG), static_argnums=1)
    out, ours = run(stacked(tree), resident, cache, hidden, slots)
    ours = ours.rewind(slots[-1:] + 1)
    one = jit_quickly(functools.partial(layer_step, CONFIG))
    for step in range(STEPS):
        expected, cache = one(tree, cache, hidden[step][None, None])
        np.testing.assert_allclose(out[step], expected[0, 0], rtol=2e-5, atol=2e-5)
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(cache), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("resident", [0, 1, 2])
def test_it_lowers_for_a_tpu_as_one_kernel(resident):
    tree, (cache, hidden) = random_weights(), inputs()
    realized = realized_of(tree, first(resident))
    program = realized.steps_in_one(STEPS)
    with use_abstract_mesh(V5E):
        exported = export.export(program.func, platforms=["tpu"])
        text = exported(*program.args, cache, hidden[None, :1]).mlir_module()
    assert text.count("custom_call @tpu_custom_call") == 1
    assert "persistent_decode_layers" in text
    # The cache is written where it lies.
    assert text.count("#stablehlo.output_operand_alias<") == 2


def realized_of(tree, rules, config=CONFIG):
    """The sweep's step of one sequence, realised on a v5e."""
    of = placed(rules, tree)
    near, far = (
        dataclasses.replace(of.system.chip.memory(name), mechanism=persistent.PAIR)
        for name in ("vmem", "hbm")
    )
    chip = dataclasses.replace(of.system.chip, memories=(near, far))
    work = emu.Work(leaves=emu.leaves_of(tree))
    step = LastSlotSteps(config=config, step=cliff._step(config))
    with use_abstract_mesh(V5E):
        return emu.realize(step, emu.place(work, emu.System(chip), rules), tree)


def test_realized_steps_are_the_sweeps_own(tpu):
    tree, (cache, hidden) = random_weights(), inputs()
    x, cache = hidden[None, :1], cliff._nearly_full(cache)
    realized = realized_of(tree, first(2))
    assert (realized.mechanism, realized.memories) == ("persistent-kernel", ("vmem", "hbm"))
    expected, after = cliff._step(CONFIG)(tree, jax.tree.map(jnp.copy, cache), x)
    for run in (realized, realized.steps_in_one(2)):
        out, ours = run(jax.tree.map(jnp.copy, cache), x)
        np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)
        for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(after), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-5)


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
    run = functools.partial(several, CONFIG, stacked(tree), 2)
    always, once = copies(jax.make_jaxpr(run)(cache, hidden, jnp.arange(STEPS)).jaxpr)
    assert (always, once) == (0, 7)  # q, k, v, o, gate, up, down, all layers of each


def test_a_placement_that_the_kernel_cannot_keep():
    tree = random_weights()
    assert resident_layers(placed("on-chip", tree)) == 2
    with pytest.raises(ExperimentError, match=r"layer 0 is in hbm .* place layers\[:1\] in vmem"):
        resident_layers(placed([("layers/1/**", "vmem"), ("**", "hbm")], tree))
    with pytest.raises(ExperimentError, match=r"layer 0 is in hbm, vmem: .* each layer whole"):
        resident_layers(placed([("**/attention/**", "vmem"), ("**", "hbm")], tree))
    with pytest.raises(ExperimentError, match="layer 0 is in host: "):
        resident_layers(placed([("**", "host")], tree))


def test_models_and_weights_that_the_kernel_is_not_for():
    tree, (cache, hidden) = random_weights(), inputs()
    other = dataclasses.replace(CONFIG, qk_norm=True, activation="gelu")
    with pytest.raises(ExperimentError, match="config: activation, qk_norm: "):
        check_config(other)
    two = new_cache(CONFIG, batch=2, length=SLOTS, dtype="bfloat16")
    with pytest.raises(ExperimentError, match=r"the cache is bfloat16\[2, 2, 16, 32\]: "):
        several(CONFIG, stacked(tree), 2, two, hidden, jnp.arange(STEPS))
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


def test_blocks_are_in_whole_lanes_and_two_at_least():
    assert _block(4096, 4 * 2048) == 256  # 2 MiB
    assert _block(384, 2**14) == 128
    assert _block(384, 2**15) == 128  # 4 MiB: there are no smaller ones
    assert _block(960, 4 * 2560) == 128  # of SmolLM2-360M: 7 and a half of them
    assert _block(576, 2 * 1536) == 256  # of SmolLM2-135M: two, and 64 rows
    assert _block(100, 4) == 100


def test_what_stays_in_vmem_is_in_whole_tiles():
    layers = stacked(random_weights())
    of_one = 4 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 128 * 384)
    assert resident_bytes(layers, 2) == 2 * of_one
    wide = jax.tree.map(lambda x: jnp.zeros((1, 9, 129), jnp.bfloat16), layers)
    assert resident_bytes(wide, 1) == 7 * 2 * 16 * 256


def test_room_is_one_cores_vmem_less_what_a_kernel_needs():
    with use_abstract_mesh(V5E):
        assert room_bytes() == 128 * 2**20 - REST_BYTES
        layers = stacked(random_weights())
        check_room(layers, 2)
        many = jax.tree.map(lambda x: jax.ShapeDtypeStruct((300, *x.shape[1:]), x.dtype), layers)
        with pytest.raises(ExperimentError, match=r"300 layers in vmem are 236 MB .* not overflow"):
            check_room(many, 300)
        wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, 256, 2**14), x.dtype), layers)
        with pytest.raises(ExperimentError, match=r"streaming .* 16\.8 MB of vmem .*=memory-kind"):
            check_room(wide, 0)
    v4 = AbstractDevice(device_kind="TPU v4", num_cores=2, platform="tpu")
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=v4)):
        assert room_bytes() == 0
    check_cache_room(CONFIG, 64)
    with pytest.raises(ExperimentError, match=r"a KV cache of 4096 tokens takes 33\.6 MB of vmem"):
        check_cache_room(CONFIG, 4096)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_held_in_vmem(tpu, dtype):
    rng = np.random.default_rng(0)
    matrices = [jnp.asarray(rng.normal(size=(128, 128)), dtype) for _ in range(2)]
    x = expected = jnp.asarray(rng.normal(size=128), jnp.float32)
    for matrix in matrices * 2:
        expected = matrix.astype(jnp.float32) @ expected
    out = jit_quickly(held_products, static_argnums=2)(x, tuple(matrices), 2)
    np.testing.assert_allclose(out, expected / expected[0], rtol=1e-4, atol=1e-6)

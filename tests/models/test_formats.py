"""Weight formats: what is stored, what it means, how far off it is."""

import functools

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import emu
from models import zoo
from models.cache import new_cache
from models.config import DecoderConfig
from models.errors import ModelError
from models.experts_config import Experts
from models.formats import FORMATS, quantize, stored_shapes, widen
from models.slots import ScaledSlots, encode, new_slots
from models.stacking import stack_layers
from models.steps import decode_step, shapes
from tests.quickly import jit_quickly

KERNEL = np.random.default_rng(0).normal(0, 0.3, (24, 128)).astype(np.float32)
NARROW = [form for form in FORMATS if form not in ("float32", "bfloat16")]
# Largest error over the largest weight that shares the scale: half a step. int8 has 127 steps,
# int4 7; e4m3 keeps 3 bits below the first, e2m1 one, where its largest steps are 2 of 6 (and
# mxfp4 clips at 6 of up to 8); scales in 8 bits add to it.
FARTHEST = {
    "int8": 0.5 / 127,
    "fp8": 1 / 16,
    "int4": 0.5 / 7 + 1 / 256,
    # Half of a step of 15, at most 2 of the largest; a step that is rounded down clips by 15 times
    # what it lost, and the zero is rounded too, each to 8 bits.
    "int4-g32": 2 / 15 * (0.5 + 15 / 512) + 1 / 256,
    "mxfp4": 1 / 4,
    "nvfp4": 1 / 6 + 1 / 16,
}
BITS = {"int8": 8, "fp8": 8, "int4": 4, "int4-g32": 4, "mxfp4": 4, "nvfp4": 4}


def meant(stored):
    """What these arrays, by suffix, mean."""
    beside = {name.removeprefix("_"): jnp.asarray(part) for name, part in stored.items() if name}
    return widen(jnp.asarray(stored[""]), **beside)


@pytest.mark.newest
@pytest.mark.parametrize("form", FORMATS)
def test_what_is_stored_has_the_shapes_that_are_told(form):
    found = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in quantize(KERNEL, form).items()}
    assert found == stored_shapes(KERNEL.shape, form)
    stack = stored_shapes((5, 3, *KERNEL.shape), form)
    assert {k: v.shape for k, v in stack.items()} == {k: (5, 3, *v.shape) for k, v in found.items()}


@pytest.mark.newest
@pytest.mark.parametrize("form", NARROW)
def test_weights_come_back_within_half_a_step(form):
    stored = quantize(KERNEL, form)
    back = np.asarray(meant(stored))
    group = KERNEL.shape[1] // (stored["_scale"].shape[1:] or (1,))[0]
    most = np.abs(KERNEL.reshape(24, -1, group)).max(-1)
    error = np.abs(back - KERNEL).reshape(24, -1, group).max(-1)
    assert (error <= FARTHEST[form] * most * (1 + 1e-6)).all()
    assert error.max() > 0
    assert stored[""].dtype.itemsize * 8 * stored[""].size == BITS[form] * KERNEL.size


def test_four_bits_lie_two_in_a_byte_the_earlier_in_the_lower_half():
    row = np.array([[1, -2, 3, 4, 5, 6, 0, 7]], np.float32)
    assert quantize(row, "int4")[""].tolist() == [[0xE1, 0x43, 0x65, 0x70]]
    numbers = np.array([[0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -6.0] * 4], np.float32)
    stored = quantize(numbers, "mxfp4")
    assert stored[""][0, :4].tolist() == [0x21, 0x43, 0x65, 0xF7]  # e2m1's numbers in order
    assert stored["_scale"].astype(np.float32).tolist() == [[1.0]]
    np.testing.assert_array_equal(meant(stored), numbers)


@pytest.mark.parametrize("form", NARROW)
def test_a_matrix_of_zeros_stays_zeros(form):
    stored = quantize(np.zeros((4, 32), np.float32), form)
    np.testing.assert_array_equal(meant(stored), np.zeros((4, 32)))


def test_rows_that_cannot_be_cut_are_refused():
    for form, multiple in (("mxfp4", 32), ("nvfp4", 16), ("int4", 8), ("int4-g32", 32)):
        with pytest.raises(ModelError, match=f"{form} needs rows of a multiple of {multiple} num"):
            quantize(np.ones((2, 20), np.float32), form)
    with pytest.raises(ModelError, match=r"weights dtype must be float32, .*, not 'fp7'"):
        shapes(CONFIG, "fp7")
    with pytest.raises(ModelError, match=r"a narrow one followed by -moe, not 'bfloat16-moe'"):
        shapes(CONFIG, "bfloat16-moe")


def test_a_zero_lets_all_sixteen_numbers_of_four_bits_serve():
    row = np.arange(32, dtype=np.float32)[None] % 16 + 100
    stored = quantize(row, "int4-g32")
    assert stored["_scale"].astype(np.float32).tolist() == [[1.0]]
    assert stored["_zero"].astype(np.float32).tolist() == [[108.0]]
    assert stored[""][0, :2].tolist() == [0x98, 0xBA]  # -8, -7, -6, -5
    np.testing.assert_array_equal(meant(stored), row)


@pytest.mark.newest
def test_a_format_may_cover_the_mlps_alone():
    # DeepSeek-R1: dense MLPs, shared and routed experts; attention, router, embedding and head not.
    narrow = zoo.architecture("deepseek-r1").weights("nvfp4-moe")
    for path, leaf in jax.tree.leaves_with_path(narrow):
        keys = [key.key for key in path]
        if keys[-1] in ("kernel", "weight"):
            in_mlp = "mlp" in keys and "router" not in keys
            assert leaf.dtype == ("uint8" if in_mlp else "bfloat16"), keys
    mlp = narrow["layers"]["3:61"]["mlp"]
    assert mlp["experts"]["gate"]["kernel"].shape == (58, 256, 2048, 7168 // 2)
    assert mlp["experts"]["gate"]["kernel_scale"].shape == (58, 256, 2048, 7168 // 16)
    assert mlp["shared"]["down"]["kernel"].shape == (58, 7168, 2048 // 2)
    assert narrow["layers"]["0:3"]["mlp"]["up"]["kernel"].shape == (3, 18432, 7168 // 2)
    # gpt-oss's checkpoints hold 12.8 and 60.8 GiB (arXiv 2508.10925, Table 1).
    for name, gib in (("gpt-oss-20b", 12.8), ("gpt-oss-120b", 60.8)):
        leaves = jax.tree.leaves(zoo.architecture(name).weights("mxfp4-moe"))
        stored = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        assert stored / 2**30 == pytest.approx(gib, abs=0.05)


CONFIG = DecoderConfig(
    vocab_size=64, layers=3, width=32, heads=4, kv_heads=2, head_width=16, mlp_width=64,
    max_context=64, tied_embeddings=True,
    experts=Experts(count=4, chosen=2, width=32, shared_width=32, dense_layers=1),
)  # fmt: skip
TOKENS = jnp.asarray(np.random.default_rng(1).integers(0, 64, (1, 12)), jnp.int32)


def trees(form):
    """Random weights in a format, and the float32 weights that they mean."""
    rng = np.random.default_rng(2)
    narrow, wide = {}, {}
    for path, leaf in jax.tree.leaves_with_path(shapes(CONFIG)):
        *parents, name = (key.key for key in path)
        values = rng.normal(0, 0.3, leaf.shape).astype(np.float32)
        parts = {"": values}
        if name in ("kernel", "weight"):
            parts = quantize(values, "bfloat16" if "router" in parents else form)
        for tree, leaves in ((narrow, parts), (wide, {"": meant(parts)})):
            for key in parents:
                tree = tree.setdefault(key, {})  # noqa: PLW2901
            tree |= {name + suffix: jnp.asarray(part) for suffix, part in leaves.items()}
    return narrow, wide


@functools.cache
def jitted_step():
    """One for all formats, whose wide weights are alike: compiling is what takes time."""
    return jit_quickly(functools.partial(decode_step, CONFIG))


@pytest.mark.parametrize(
    "form",
    [pytest.param(f, marks=pytest.mark.newest if f in ("int8", "mxfp4") else ()) for f in NARROW],
)
def test_a_decoder_computes_with_what_the_stored_weights_mean(form):
    narrow, wide = trees(form)
    chex.assert_trees_all_equal_shapes_and_dtypes(narrow, shapes(CONFIG, form))
    step = jitted_step()
    want, _ = step(wide, new_cache(CONFIG, batch=1, length=16), TOKENS)
    scanned = stack_layers(CONFIG, narrow)
    chex.assert_trees_all_equal_shapes_and_dtypes(scanned, shapes(CONFIG, form, scanned=True))
    at_once, _ = step(narrow, new_cache(CONFIG, batch=1, length=16), TOKENS)
    chex.assert_trees_all_close(at_once, want, atol=1e-4)
    cache = new_cache(CONFIG, batch=1, length=16, scanned=True)
    first, cache = step(scanned, cache, TOKENS[:, :11])
    last, _ = step(scanned, cache, TOKENS[:, 11:])
    chex.assert_trees_all_close(jnp.concatenate([first, last], axis=1), want, atol=1e-4)


@pytest.mark.parametrize("form", [*NARROW, "mxfp4-moe"])
@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt-oss-20b"])
def test_a_step_reads_the_bytes_that_are_stored(name, form):
    found = zoo.architecture(name)
    weights = found.weights(form)
    work = emu.trace(
        functools.partial(decode_step, found.config),
        weights,
        found.cache(batch=1, length=256),
        jax.ShapeDtypeStruct((1, 1), "int32"),
        cache=1,
        hints={"context": 200},
    )
    experts = found.config.experts
    for leaf in work.leaves:
        read = float(work.bytes_by_leaf.get(leaf.path, 0))
        if leaf.kind != "weights" or leaf.path.endswith(("bias", "tensor_scale")):
            continue
        if leaf.path.startswith("embedding"):
            assert read == leaf.bytes / found.config.vocab_size, leaf.path
        else:
            share = experts.chosen / experts.count if "/experts/" in leaf.path else 1
            assert read == pytest.approx(leaf.bytes * share), leaf.path


@pytest.mark.parametrize(
    ("dtype", "farthest"), [("bfloat16", 0.03), ("float8_e4m3fn", 0.5), ("int8", 0.06)]
)
def test_narrow_caches_are_close(dtype, farthest):
    _, wide = trees("fp8")
    step = jitted_step()
    want, _ = step(wide, new_cache(CONFIG, batch=1, length=16), TOKENS)
    cache = new_cache(CONFIG, batch=1, length=16, dtype=dtype)
    assert cache.length == 16
    got = []
    for piece in (TOKENS[:, :6], *jnp.split(TOKENS[:, 6:], 6, axis=1)):
        logits, cache = step(wide, cache, piece)
        got.append(logits)
    error = float(jnp.abs(jnp.concatenate(got, axis=1) - want).max())
    assert 0 < error < farthest


def test_an_int8_cache_holds_a_scale_for_each_vector():
    cache = new_cache(CONFIG, batch=2, length=8, dtype="int8")
    assert isinstance(cache.keys[0], ScaledSlots)
    assert cache.keys[0].numbers.shape == (2, 2, 8, 16)
    assert cache.keys[0].scale.shape == (2, 2, 8, 1)


def test_a_float8_cache_saturates():
    huge = jnp.full((1, 1, 1, 2), 1e4)
    slots = new_slots((1, 1, 4, 2), jnp.float8_e4m3fn)
    assert encode(huge, slots).astype(jnp.float32).tolist() == [[[[448.0, 448.0]]]]
    assert slots.dtype == ml_dtypes.float8_e4m3fn

"""Laws of prefill and decode that hold for any weights."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import steps
from models.cache import new_cache
from models.config import DecoderConfig
from models.stacking import stack_layers
from tests.quickly import jit_quickly

CONFIG = DecoderConfig(
    vocab_size=96,
    layers=2,
    width=32,
    heads=4,
    kv_heads=2,
    head_width=10,
    mlp_width=48,
    max_context=128,
    tied_embeddings=False,
    attention_bias=True,
    qk_norm=True,
)
TOKENS = jnp.asarray(np.random.default_rng(7).integers(0, 96, (2, 24)), jnp.int32)

# One of each for all tests: compiling is what takes time.
decode_step = jit_quickly(functools.partial(steps.decode_step, CONFIG))
prefill = jit_quickly(functools.partial(steps.prefill, CONFIG))
layer_step = jit_quickly(functools.partial(steps.layer_step, CONFIG))


def weights(dtype="float32"):
    rng = np.random.default_rng(0)

    def fill(leaf):
        if leaf.dtype == jnp.int8:
            return jnp.asarray(rng.integers(-127, 128, leaf.shape, np.int8))
        if leaf.ndim == 1 and dtype == "int8":
            return jnp.asarray(rng.uniform(0.001, 0.003, leaf.shape), leaf.dtype)
        return jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype)

    return jax.tree.map(fill, steps.shapes(CONFIG, dtype))


def decode(w, tokens, pieces, dtype=jnp.float32):
    """Logits [B, T, vocab], the tokens given in pieces of these sizes."""
    cache = new_cache(CONFIG, batch=tokens.shape[0], length=32, dtype=dtype)
    out = []
    for piece in np.split(np.asarray(tokens), np.cumsum(pieces)[:-1], axis=1):
        logits, cache = decode_step(w, cache, jnp.asarray(piece))
        out.append(logits)
    return jnp.concatenate(out, axis=1), cache


@pytest.mark.newest
@pytest.mark.parametrize("pieces", [[24], [10, 14], [1] * 24, [16, 1, 1, 6]])
def test_logits_do_not_depend_on_how_tokens_are_grouped(pieces):
    w = weights()
    whole, _ = decode(w, TOKENS[:1], [24])
    parts, cache = decode(w, TOKENS[:1], pieces)
    chex.assert_trees_all_close(parts, whole, atol=2e-5)
    assert cache.position.tolist() == [24]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_stacked_layers_read_in_place_are_the_layers_one_by_one(dtype):
    w, cache_dtype = weights(dtype), jnp.float32 if dtype == "float32" else jnp.bfloat16
    listed, _ = decode(w, TOKENS[:1], [8, *[1] * 4], cache_dtype)
    in_place = jit_quickly(functools.partial(steps.decode_step, CONFIG, in_place=True))
    w = stack_layers(CONFIG, w)
    cache = new_cache(CONFIG, batch=1, length=32, dtype=cache_dtype, scanned=True)
    logits, cache = decode_step(w, cache, TOKENS[:1, :8])
    for n in range(8, 12):
        logits, cache = in_place(w, cache, TOKENS[:1, n : n + 1])
        # Prefill's sums are in other orders where layers are scanned.
        chex.assert_trees_all_close(logits[:, 0], listed[:, n], atol=2e-5)
    assert cache.position.tolist() == [12]


def test_a_row_of_a_batch_is_the_row_alone():
    w = weights()
    both, _ = decode(w, TOKENS, [10, 14])
    for row in range(2):
        alone, _ = decode(w, TOKENS[row : row + 1], [24])
        chex.assert_trees_all_close(both[row], alone[0], atol=2e-5)


def test_no_token_sees_a_later_one():
    w = weights()

    def logits_at(position, embedding):
        table = {**w, "embedding": {"weight": embedding}}
        out, _ = steps.decode_step(CONFIG, table, new_cache(CONFIG, batch=1, length=8), ids)
        return out[0, position].sum()

    ids = jnp.arange(8)[None]  # each token its own row of the table
    seen = jit_quickly(jax.grad(functools.partial(logits_at, 4)))(w["embedding"]["weight"])
    moved = jnp.abs(seen[:8]).max(axis=1) > 0
    assert moved.tolist() == [True] * 5 + [False] * 3


@pytest.mark.newest
def test_prefill_of_unequal_prompts_goes_on_as_each_alone():
    w = weights()
    lengths = jnp.asarray([5, 12], jnp.int32)
    cache = new_cache(CONFIG, batch=2, length=32)
    logits, cache = prefill(w, cache, TOKENS[:, :12], lengths)
    after, cache = decode_step(w, cache, TOKENS[:, 20:21])
    assert cache.position.tolist() == [6, 13]
    for row, held in enumerate([5, 12]):
        alone = jnp.concatenate([TOKENS[row, :held], TOKENS[row, 20:21]])[None]
        want, _ = decode(w, alone, [held + 1])
        chex.assert_trees_all_close(logits[row], want[0, -2], atol=2e-5)
        chex.assert_trees_all_close(after[row, 0], want[0, -1], atol=2e-5)


def test_a_row_without_tokens_is_left_as_it_was():
    w = weights()
    cache = new_cache(CONFIG, batch=2, length=32)
    _, cache = prefill(w, cache, TOKENS[:, :4], jnp.asarray([4, 4]))
    _, cache = prefill(w, cache, TOKENS[:, 4:8], jnp.asarray([0, 4]))
    assert cache.position.tolist() == [4, 8]
    logits, _ = decode_step(w, cache, TOKENS[:, 20:21])
    want, _ = decode(w, jnp.concatenate([TOKENS[:1, :4], TOKENS[:1, 20:21]], 1), [5])
    chex.assert_trees_all_close(logits[0, 0], want[0, -1], atol=2e-5)


def test_rejected_draft_tokens_leave_no_trace():
    w = weights()
    _, cache = decode(w, TOKENS[:1, :10], [10])
    _, drafted = decode_step(w, cache, TOKENS[:1, 15:20])
    taken_back = drafted.rewind(jnp.asarray([12]))  # two of the five were right
    got, _ = decode_step(w, taken_back, TOKENS[:1, 22:23])
    right = jnp.concatenate([TOKENS[:1, :10], TOKENS[:1, 15:17], TOKENS[:1, 22:23]], axis=1)
    want, _ = decode(w, right, [13])
    chex.assert_trees_all_close(got[0, 0], want[0, -1], atol=2e-5)


@pytest.mark.newest
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_stored_weights_mean_what_they_say(dtype):
    """Narrow weights give what the same numbers in float32 give: all sums are in float32."""
    narrow = weights(dtype=dtype)

    def widen(module):
        if not isinstance(module, dict):
            return module.astype(jnp.float32)
        wide = {k: widen(v) for k, v in module.items() if not str(k).endswith("_scale")}
        for name in ("kernel", "weight"):
            if f"{name}_scale" in module:
                wide[name] = wide[name] * module[f"{name}_scale"][:, None]
        return wide

    got, _ = decode(narrow, TOKENS[:1], [8] + [1] * 16)
    want, _ = decode(widen(narrow), TOKENS[:1], [24])
    chex.assert_trees_all_close(got, want, atol=3e-5)


def test_layers_alone_are_the_decoder_between_embedding_and_head():
    w = weights()
    hidden = w["embedding"]["weight"][TOKENS]
    cache = new_cache(CONFIG, batch=2, length=32)
    hidden, cache = layer_step({"layers": w["layers"]}, cache, hidden)
    normed = hidden * jax.lax.rsqrt(jnp.mean(hidden**2, -1, keepdims=True) + CONFIG.norm_epsilon)
    logits = normed * w["norm"]["scale"] @ w["head"]["kernel"].T
    want, _ = decode(w, TOKENS, [24])
    chex.assert_trees_all_close(logits, want, atol=2e-5)
    assert cache.position.tolist() == [24, 24]


def test_a_bfloat16_cache_is_close():
    w = weights()
    want, _ = decode(w, TOKENS[:1], [8] + [1] * 16)
    got, cache = decode(w, TOKENS[:1], [8] + [1] * 16, dtype=jnp.bfloat16)
    assert cache.keys[0].dtype == jnp.bfloat16
    # bfloat16 keeps 8 bits: keys and values are off by up to 2^-9 of themselves.
    chex.assert_trees_all_close(got, want, atol=0.05)
    assert float(jnp.abs(got - want).max()) > 0


def test_a_donated_cache_is_updated_in_place():
    cache = new_cache(CONFIG, batch=1, length=32)
    step = jax.jit(functools.partial(steps.decode_step, CONFIG), donate_argnums=1)
    program = step.lower(weights(), cache, TOKENS[:1, :1]).compile().as_text()
    copies = [line for line in program.splitlines() if " copy(" in line and "[1,2,32,10]" in line]
    assert not copies

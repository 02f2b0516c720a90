"""Generation: chunks, stops, batches, limits and draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import generate as generation
from models import steps
from models.cache import new_cache
from models.config import DecoderConfig
from models.errors import ModelError
from models.generate import generate, program
from models.sampling import Sampling, _filtered, choose

CONFIG = DecoderConfig(
    vocab_size=64,
    layers=2,
    width=32,
    heads=4,
    kv_heads=2,
    head_width=8,
    mlp_width=48,
    max_context=96,
    tied_embeddings=True,
)
PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4], [33]]


@functools.cache
def weights():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), leaf.dtype), steps.shapes(CONFIG)
    )


def run(prompts, sampling=None, **kwargs):
    emitted = generate(program(CONFIG, weights(), sampling), CONFIG, prompts, **kwargs)
    return [list(row) for row in zip(*emitted, strict=True)]


whole_sequence = jax.jit(functools.partial(steps.decode_step, CONFIG))


def greedy_by_hand(prompt, count):
    """The whole sequence through the decoder again for every token, padded to one shape."""
    ids = list(prompt)
    for _ in range(count):
        cache = new_cache(CONFIG, batch=1, length=32)
        padded = jnp.asarray([ids + [0] * (32 - len(ids))])
        logits, _ = whole_sequence(weights(), cache, padded)
        ids.append(int(logits[0, len(ids) - 1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.newest
def test_greedy_tokens_are_those_of_the_whole_sequence():
    want = [greedy_by_hand(p, 6) for p in PROMPTS]
    assert run(PROMPTS, max_tokens=6) == want
    assert [run([p], max_tokens=6)[0] for p in PROMPTS] == want


def test_a_prompt_may_be_taken_in_many_chunks(monkeypatch):
    whole = run(PROMPTS, max_tokens=5)
    monkeypatch.setattr(generation, "CHUNK", 4)
    assert run(PROMPTS, max_tokens=5) == whole


def test_a_sequence_ends_behind_its_stop_token_and_the_others_go_on():
    free = run(PROMPTS, max_tokens=8)
    stop = free[0][2]
    stopped = run(PROMPTS, max_tokens=8, stop_ids={stop})
    for row, tokens in enumerate(free):
        end = tokens.index(stop) + 1 if stop in tokens else 8
        assert stopped[row] == (tokens[:end] + [None] * 8)[: len(stopped[row])]
    assert stopped[0][2:4] == [stop, None]


def test_generation_ends_when_all_sequences_have():
    first = run(PROMPTS[:1], max_tokens=8)[0][0]
    assert run(PROMPTS[:1], max_tokens=8, stop_ids=[first]) == [[first]]


def test_a_seed_fixes_the_draws():
    warm = Sampling(temperature=1.0, seed=1)
    assert run(PROMPTS, warm, max_tokens=8) == run(PROMPTS, warm, max_tokens=8)
    assert run(PROMPTS, warm, max_tokens=8) != run(
        PROMPTS, Sampling(temperature=1.0, seed=2), max_tokens=8
    )


LOGITS = jnp.log(jnp.asarray([0.5, 0.25, 0.125, 0.0625, 0.0625]))


@pytest.mark.parametrize(
    ("sampling", "shares"),
    [
        (Sampling(temperature=0), [1, 0, 0, 0, 0]),
        (Sampling(temperature=1), [0.5, 0.25, 0.125, 0.0625, 0.0625]),
        (Sampling(temperature=0.5), np.asarray([64, 16, 4, 1, 1]) / 86),  # shares squared
        (Sampling(temperature=1, top_k=2), [2 / 3, 1 / 3, 0, 0, 0]),
        (Sampling(temperature=1, top_k=1), [1, 0, 0, 0, 0]),
        (Sampling(temperature=1, top_k=99), [0.5, 0.25, 0.125, 0.0625, 0.0625]),
        (Sampling(temperature=1, top_p=0.8), [4 / 7, 2 / 7, 1 / 7, 0, 0]),
        (Sampling(temperature=1, top_p=0.01), [1, 0, 0, 0, 0]),
        (Sampling(temperature=1, top_k=3, top_p=0.6), [2 / 3, 1 / 3, 0, 0, 0]),
    ],
)
def test_draws_have_the_shares_that_they_should(sampling, shares):
    draws = 20_000
    rows = jnp.broadcast_to(LOGITS, (draws, 5))
    chosen = choose(sampling, rows, jnp.zeros(draws, jnp.int32))
    got = np.bincount(chosen, minlength=5) / draws
    # Five standard deviations of a share's estimate are at most 5 × √(¼ / 20,000) = 0.018.
    np.testing.assert_allclose(got, shares, atol=0.018)
    assert (got[np.asarray(shares) == 0] == 0).all()


@pytest.mark.parametrize("vocab", [1, 255, 256, 257, 1000])
def test_greedy_takes_the_first_of_the_largest(vocab):
    logits = np.random.default_rng(0).integers(0, 9, (20, vocab)).astype(np.float32)  # many ties
    chosen = choose(Sampling(), jnp.asarray(logits), jnp.zeros(20, jnp.int32))
    np.testing.assert_array_equal(chosen, logits.argmax(axis=-1))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"prompts": []}, "at least one token"),
        ({"prompts": [[1], []]}, "at least one token"),
        ({"prompts": [[64]]}, "token 64 is outside the vocabulary of 64"),
        ({"prompts": [[-1]]}, "token -1 is outside"),
        ({"prompts": [[1]], "max_tokens": 0}, "max_tokens must be at least 1"),
        ({"prompts": [[1] * 92]}, "exceed the model's context of 96"),
        ({"prompts": [[1] * 20], "length": 16}, "need 25 cache slots, and the cache has 16"),
    ],
)
def test_what_cannot_be_generated_is_refused(kwargs, message):
    with pytest.raises(ModelError, match=message):
        run(**{"max_tokens": 5, **kwargs})


@pytest.mark.parametrize(("top_k", "top_p"), [(7, 1.0), (0, 0.9), (0, 0.3), (0, 1e-6), (300, 0.5)])
def test_top_k_and_top_p_keep_what_sorting_says(top_k, top_p):
    rng = np.random.default_rng(0)
    logits = np.float32(rng.normal(0, 4, (3, 1000)))
    sampling = Sampling(temperature=1, top_k=top_k, top_p=top_p)
    kept = np.isfinite(jax.jit(_filtered, static_argnums=0)(sampling, logits))
    for row, found in zip(np.float64(logits), kept, strict=True):
        likeliest = np.argsort(-row)[: top_k or None]
        shares = np.exp(row[likeliest] - row.max())
        before = np.cumsum(shares / shares.sum()) - shares / shares.sum()
        assert set(np.flatnonzero(found)) == set(likeliest[before < top_p])


@pytest.mark.parametrize("sampling", [{"top_k": 2}, {"top_p": 0.5}])
def test_tokens_that_tie_with_the_last_one_are_kept(sampling):
    logits = jnp.asarray([[-1.0, 0.0, -0.5, -0.5, -jnp.inf, -0.5]])
    kept = jax.jit(_filtered, static_argnums=0)(Sampling(temperature=1, **sampling), logits)
    np.testing.assert_array_equal(kept, [[-np.inf, 0, -0.5, -0.5, -np.inf, -0.5]])


@pytest.mark.parametrize(
    ("field", "value"), [("temperature", -1), ("top_k", -1), ("top_p", 0), ("top_p", 1.5)]
)
def test_senseless_sampling_is_refused(field, value):
    with pytest.raises(ModelError, match=field):
        Sampling(**{field: value})

"""The KV cache: what is read of it, what is written, how many tokens are in it."""

import jax
import jax.numpy as jnp
import pytest

from emu.errors import EmuError
from emu.tracing import trace

Shape = jax.ShapeDtypeStruct
F32, I32 = jnp.float32, jnp.int32
CACHE = Shape((2, 64, 4, 8), F32)  # batch, length, heads, head width
NEW = Shape((2, 1, 4, 8), F32)
SCALAR = Shape((), I32)
ROW = 2 * 4 * 8 * 4  # bytes of one token of both sequences


def slice_update(cache, new, position):
    return jax.lax.dynamic_update_slice(cache, new, (0, position, 0, 0))


def scatter_update(cache, new, position):
    return cache.at[jnp.arange(2), position].set(new[:, 0])


def mapped_update(cache, new, position):
    one = jax.vmap(lambda c, n, p: jax.lax.dynamic_update_slice(c, n, (p, 0, 0)))
    return one(cache, new, jnp.broadcast_to(position, (2,)))


def masked_update(cache, new, position):
    here = jnp.arange(64)[None, :, None, None] == position
    return jnp.where(here, new, cache)


def attend(cache, q):
    return jnp.einsum("bhd,bthd->bht", q, cache)


@pytest.mark.newest
@pytest.mark.parametrize("update", [slice_update, scatter_update, mapped_update])
def test_an_update_writes_the_slice_and_reads_charge_the_context(update):
    def step(cache, new, position, q):
        cache = update(cache, new, position)
        return attend(cache, q), cache

    arguments = (CACHE, NEW, SCALAR, Shape((2, 4, 8), F32))
    work = trace(step, *arguments, weights=None, cache=0)
    assert (work.cache_bytes, work.cache_written_bytes) == (64 * ROW, ROW)
    assert work.notes == ("cache: charged for its allocated length (hint: context)",)
    work = trace(step, *arguments, weights=None, cache=0, hints={"context": 10})
    assert (work.cache_bytes, work.cache_written_bytes) == (10 * ROW, ROW)
    assert work.notes == ()
    # FLOPs are those of the shapes in the program, masked or not.
    assert work.dot_flops == 2 * 2 * 4 * 64 * 8


def test_positions_of_their_own_for_every_sequence():
    def step(cache, new, position, q):
        cache = cache.at[jnp.arange(2), position].set(new[:, 0])
        return attend(cache, q), cache

    arguments = (CACHE, NEW, Shape((2,), I32), Shape((2, 4, 8), F32))
    work = trace(step, *arguments, weights=None, cache=0, hints={"context": 10})
    assert (work.cache_bytes, work.cache_written_bytes) == (10 * ROW, ROW)


def test_a_masked_update_rewrites_the_tokens_that_are_there():
    def step(cache, new, position, q):
        cache = masked_update(cache, new, position)
        return attend(cache, q), cache

    work = trace(step, CACHE, NEW, SCALAR, Shape((2, 4, 8), F32), weights=None, cache=0)
    # Read and rewritten by the update, then read by the product.
    assert (work.cache_bytes, work.cache_written_bytes) == (2 * 64 * ROW, 64 * ROW)


def test_reading_before_the_update_shows_the_axis():
    def step(cache, new, position, q):
        flat = cache.reshape(2, 64, 32)  # heads and widths together
        merged = cache.reshape(128, 32)  # sequences and tokens together
        out = jnp.einsum("bx,btx->bt", q.reshape(2, 32), flat), merged @ jnp.ones(32)
        return out, slice_update(cache, new, position)

    arguments = (CACHE, NEW, SCALAR, Shape((2, 4, 8), F32))
    work = trace(step, *arguments, weights=None, cache=0, hints={"context": 10})
    assert work.cache_bytes == 2 * 10 * ROW


def test_a_window_is_charged_for_the_smaller_of_window_and_context():
    def step(cache, new, position, q):
        cache = slice_update(cache, new, position)
        window = jax.lax.dynamic_slice_in_dim(cache, position - 15, 16, axis=1)
        return attend(window, q), cache

    arguments = (CACHE, NEW, SCALAR, Shape((2, 4, 8), F32))
    for context, tokens in ((8, 8), (16, 16), (40, 16)):
        work = trace(step, *arguments, weights=None, cache=0, hints={"context": context})
        assert work.cache_bytes == tokens * ROW
    # A cache allocated no longer than its window.
    ring = Shape((2, 16, 4, 8), F32)
    work = trace(
        lambda c, n, p, q: attend(slice_update(c, n, p % 16), q),
        ring,
        *arguments[1:],
        weights=None,
        cache=0,
        hints={"context": 40},
    )
    assert work.cache_bytes == 16 * ROW


def test_a_cache_that_is_only_read_needs_the_axis_to_be_named():
    arguments = {"args": (CACHE, Shape((2, 4, 8), F32)), "kw": {"weights": None, "cache": 0}}
    work = trace(attend, *arguments["args"], **arguments["kw"], hints={"context": 10})
    assert work.cache_bytes == 64 * ROW
    assert "context_axis" in work.notes[0]
    hints = {"context": 10, "context_axis": {"cache*": -3}}
    work = trace(attend, *arguments["args"], **arguments["kw"], hints=hints)
    assert (work.cache_bytes, work.notes) == (10 * ROW, ())
    with pytest.raises(EmuError, match="context_axis 7 of cache, which has 4 axes"):
        trace(
            attend, *arguments["args"], **arguments["kw"], hints={"context": 1, "context_axis": 7}
        )


def test_an_int8_cache_is_charged_as_stored():
    def step(cache, new, position, q):
        codes = jax.lax.dynamic_update_slice(
            cache["codes"], new.astype("int8"), (0, position, 0, 0)
        )
        scale = jax.lax.dynamic_update_slice(cache["scale"], new[..., :1], (0, position, 0, 0))
        return attend(codes.astype(F32) * scale, q), {"codes": codes, "scale": scale}

    cache = {"codes": Shape(CACHE.shape, "int8"), "scale": Shape((2, 64, 4, 1), F32)}
    work = trace(
        step,
        cache,
        NEW,
        SCALAR,
        Shape((2, 4, 8), F32),
        weights=None,
        cache=0,
        hints={"context": 10},
    )
    assert work.bytes_by_leaf == {"cache/codes": 10 * 2 * 4 * 8, "cache/scale": 10 * 2 * 4 * 4}
    assert work.cache_written_bytes == 2 * 4 * 8 + 2 * 4 * 4


def test_heads_that_share_keys_read_them_once():
    def step(cache, q):
        repeated = jnp.repeat(cache, 3, axis=2)  # grouped-query attention, keys spread over heads
        return attend(repeated, q)

    work = trace(step, CACHE, Shape((2, 12, 8), F32), weights=None, cache=0)
    assert work.cache_bytes == 64 * ROW


def layer(x, cache, position):
    cache = slice_update(cache, x.reshape(2, 1, 4, 8), position)
    return attend(cache, x).sum(-1)[..., None] * x, cache


@pytest.mark.parametrize("form", ["unrolled", "scanned over", "carried"])
def test_a_stack_of_caches_updated_in_a_loop_stays_in_place(form):
    layers = 3

    def step(cache, x, position):
        if form == "unrolled":
            for i in range(layers):
                x, one = layer(x, cache[i], position)
                cache = cache.at[i].set(one)
            return x, cache
        if form == "scanned over":
            return jax.lax.scan(lambda x, c: layer(x, c, position), x, cache)

        def body(i, carry):
            x, cache = carry
            new = x.reshape(1, 2, 1, 4, 8)
            cache = jax.lax.dynamic_update_slice(cache, new, (i, 0, position, 0, 0))
            return attend(cache[i], x).sum(-1)[..., None] * x, cache

        return jax.lax.fori_loop(0, layers, body, (x, cache))

    stack = Shape((layers, *CACHE.shape), F32)
    work = trace(
        step, stack, Shape((2, 4, 8), F32), SCALAR, weights=None, cache=0, hints={"context": 10}
    )
    assert work.cache_bytes == layers * 10 * ROW
    assert work.cache_written_bytes == layers * ROW


def test_pages_looked_up_by_a_table_are_read_where_they_are():
    def step(pages, table, q):
        keys = pages[table].reshape(1, -1, 8)  # [pages of the sequence x page length, width]
        return jnp.einsum("bd,btd->bt", q, keys)

    work = trace(
        step,
        Shape((100, 16, 8), F32),
        Shape((1, 5), I32),
        Shape((1, 8), F32),
        weights=None,
        cache=0,
    )
    assert work.cache_bytes == 4 * 5 * 16 * 8
    assert work.kernels == 2  # the indices made positive, and the product


def test_a_latent_cache_is_read_for_scores_keys_and_values():
    # Multi-head latent attention: 32 compressed and 8 rotary numbers a token, for 4 heads; the
    # up-projections (16 for keys, 16 for values, a head) are absorbed into queries and outputs.
    def step(w, cache, x, position):
        q = (x @ w["q"]).reshape(1, 4, 24)
        cache = jax.lax.dynamic_update_slice(cache, (x @ w["down"])[:, None], (0, position, 0))
        latent, rotary = cache[..., :32], cache[..., 32:]
        up = w["up"].reshape(32, 4, 32)
        inner = jnp.einsum("bhd,chd->bhc", q[..., :16], up[..., :16])
        scores = jnp.einsum("bhc,btc->bht", inner, latent)
        scores += jnp.einsum("bhr,btr->bht", q[..., 16:], rotary)
        mixed = jnp.einsum("bht,btc->bhc", jax.nn.softmax(scores), latent)
        out = jnp.einsum("bhc,chv->bhv", mixed, up[..., 16:]).reshape(1, 64)
        return out @ w["o"], cache

    weights = {
        "q": Shape((64, 96), F32),
        "down": Shape((64, 40), F32),
        "up": Shape((32, 128), F32),
        "o": Shape((64, 64), F32),
    }
    cache = Shape((1, 128, 40), F32)
    work = trace(step, weights, cache, Shape((1, 64), F32), SCALAR, cache=1, hints={"context": 10})
    assert work.weight_bytes == sum(leaf.bytes for leaf in work.leaves if leaf.kind == "weights")
    assert work.cache_bytes == 4 * 10 * (32 + 8 + 32)
    assert work.cache_written_bytes == 4 * 40


STATE = Shape((2, 16, 16), F32)


def decayed(w, state, x):
    """A linear recurrence: the state is read, made anew, and read by the output."""
    state = 0.9 * state + jnp.einsum("bi,bj->bij", x @ w, x)
    return jnp.einsum("bij,bj->bi", state, x), state


def test_a_state_that_is_made_anew_is_written_and_read_where_it_lives():
    work = trace(decayed, Shape((16, 16), F32), STATE, Shape((2, 16), F32), cache=1)
    whole = 2 * 16 * 16 * 4
    assert work.cache_written_bytes == whole
    assert work.cache_bytes == 2 * whole  # the old one by the sum, the new one by the product
    assert work.notes == ()
    # Alive beside it: x, x @ w, and their outer product.
    assert work.peak_activation_bytes <= whole + 4 * 2 * 16 * 4


def test_the_states_of_scanned_layers_are_written_layer_by_layer():
    def step(weights, states, x):
        def layer(x, both):
            return decayed(both[0], both[1], x)

        return jax.lax.scan(layer, x, (weights, states))

    one = trace(decayed, Shape((16, 16), F32), STATE, Shape((2, 16), F32), cache=1)
    arguments = (Shape((5, 16, 16), F32), Shape((5, 2, 16, 16), F32), Shape((2, 16), F32))
    five = trace(step, *arguments, cache=1)
    assert five.cache_written_bytes == 5 * one.cache_written_bytes
    assert five.cache_bytes == 5 * one.cache_bytes


def test_results_like_a_cache_that_is_handed_on_or_updated_are_not_its_next_content():
    def step(cache, kept, new, position):
        cache = slice_update(cache, new, position)
        return cache * 2.0, cache, kept

    work = trace(step, CACHE, CACHE, NEW, SCALAR, weights=None, cache=(0, 1))
    assert work.cache_written_bytes == ROW


def test_rolled_windows_and_hidden_states_find_their_own_results():
    def step(w, state, x):
        window = jnp.concatenate((state["window"][:, 1:], x[:, None]), axis=1)
        hidden = jnp.tanh(jnp.einsum("bkc,kc->bc", window, w) + state["hidden"])
        return hidden * 2.0, {"hidden": hidden, "window": window}

    state = {"hidden": Shape((2, 16), F32), "window": Shape((2, 4, 16), F32)}
    work = trace(step, Shape((4, 16), F32), state, Shape((2, 16), F32), cache=1)
    written = {a.tensor: a.bytes for op in work.ops for a in op.writes if a.kind == "cache"}
    assert written == {"cache/hidden": 2 * 16 * 4, "cache/window": 2 * 4 * 16 * 4}

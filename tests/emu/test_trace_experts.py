"""Routed experts are charged by the expected number of distinct ones."""

import jax
import jax.numpy as jnp
import pytest

from emu.tracing import trace

Shape = jax.ShapeDtypeStruct
F32 = jnp.float32
EXPERTS, CHOSEN, WIDTH, HIDDEN = 8, 2, 16, 32
WEIGHTS = {
    "router": Shape((WIDTH, EXPERTS), F32),
    "up": Shape((EXPERTS, WIDTH, HIDDEN), F32),
    "down": Shape((EXPERTS, HIDDEN, WIDTH), F32),
}
MATRIX = 4 * WIDTH * HIDDEN


def route(w, x):
    return jax.lax.top_k(jax.nn.softmax(x @ w["router"]), CHOSEN)


def gathered(w, x):
    share, ids = route(w, x)
    hidden = jax.nn.relu(jnp.einsum("bd,bkdf->bkf", x, w["up"][ids]))
    return jnp.einsum("bkf,bkfd,bk->bd", hidden, w["down"][ids], share)


def ragged(w, x):
    share, ids = route(w, x)
    order = jnp.argsort(ids.reshape(-1))
    sizes = jnp.bincount(ids.reshape(-1), length=EXPERTS)
    rows = jnp.repeat(x, CHOSEN, axis=0)[order]
    hidden = jax.nn.relu(jax.lax.ragged_dot(rows, w["up"], sizes))
    out = jax.lax.ragged_dot(hidden, w["down"], sizes)
    back = jnp.zeros_like(out).at[order].set(out).reshape(-1, CHOSEN, WIDTH)
    return (back * share[..., None]).sum(1)


def by_one_hot_sizes(w, x):
    _, ids = route(w, x)
    sizes = jax.nn.one_hot(ids.reshape(-1), EXPERTS, dtype=jnp.int32).sum(0)
    return jax.lax.ragged_dot(jnp.repeat(x, CHOSEN, axis=0), w["up"], sizes)


@pytest.mark.newest
@pytest.mark.parametrize("layer", [gathered, ragged])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_distinct_experts_are_expected_under_uniform_routing(layer, batch):
    work = trace(layer, WEIGHTS, Shape((batch, WIDTH), F32))
    # 8 (1 - (3/4)^batch): 2 for one token, 3.5 for two, 6.1015625 for five.
    distinct = {1: 2, 2: 3.5, 5: 6.1015625}[batch]
    assert work.bytes_by_leaf == {
        "router": 4 * WIDTH * EXPERTS,
        "up": distinct * MATRIX,
        "down": distinct * MATRIX,
    }
    # Every chosen expert multiplies its token, twice.
    assert work.dot_flops >= 2 * 2 * batch * CHOSEN * WIDTH * HIDDEN


def test_sizes_counted_by_one_hot_are_known_to_come_from_the_router():
    work = trace(by_one_hot_sizes, WEIGHTS, Shape((2, WIDTH), F32))
    assert work.bytes_by_leaf["up"] == 3.5 * MATRIX
    assert work.notes == ()


def test_a_hint_says_how_many_experts_are_touched():
    hints = {"experts": {"up": 3, "down": 4.5}}
    for layer in (gathered, ragged):
        work = trace(layer, WEIGHTS, Shape((5, WIDTH), F32), hints=hints)
        assert work.bytes_by_leaf["up"] == 3 * MATRIX
        assert work.bytes_by_leaf["down"] == 4.5 * MATRIX


def test_groups_of_unknown_origin_are_taken_as_uniform_and_noted():
    def groups(w, x, sizes):
        return jax.lax.ragged_dot(x, w, sizes)

    work = trace(groups, WEIGHTS["up"], Shape((2, WIDTH), F32), Shape((EXPERTS,), "int32"))
    assert work.weight_bytes == 4 * (8 * (1 - (7 / 8) ** 2)) * WIDTH * HIDDEN
    assert "ragged_dot" in work.notes[0]
    assert work.dot_flops == 2 * 2 * WIDTH * HIDDEN


def test_quantised_experts_are_dequantised_after_the_lookup():
    def layer(w, x):
        _, ids = jax.lax.top_k(x @ w["router"], CHOSEN)
        matrices = w["codes"][ids].astype(F32) * w["scale"][ids][..., None, :]
        return jnp.einsum("bd,bkdf->bkf", x, matrices)

    weights = {
        "router": WEIGHTS["router"],
        "codes": Shape((EXPERTS, WIDTH, HIDDEN), "int4"),
        "scale": Shape((EXPERTS, HIDDEN), "float32"),
    }
    work = trace(layer, weights, Shape((1, WIDTH), F32))
    assert work.bytes_by_leaf["codes"] == CHOSEN * WIDTH * HIDDEN // 2
    assert work.bytes_by_leaf["scale"] == CHOSEN * 4 * HIDDEN


def test_experts_that_are_all_computed_are_all_read():
    def dense(w, x):
        share = jax.nn.softmax(x @ w["router"])
        return jnp.einsum("bd,edf,be->bf", x, w["up"], share)

    assert trace(dense, WEIGHTS, Shape((1, WIDTH), F32)).bytes_by_leaf["up"] == EXPERTS * MATRIX


def test_a_stack_of_expert_layers_is_charged_layer_by_layer():
    def model(w, x):
        return jax.lax.scan(lambda x, w: (gathered(w, x), None), x, w)[0]

    stack = jax.tree.map(lambda s: Shape((5, *s.shape), s.dtype), WEIGHTS)
    work = trace(model, stack, Shape((2, WIDTH), F32))
    assert work.bytes_by_leaf["up"] == 5 * 3.5 * MATRIX


def test_many_tokens_touch_every_expert():
    work = trace(gathered, WEIGHTS, Shape((4096, WIDTH), F32))
    assert work.bytes_by_leaf["up"] == EXPERTS * MATRIX


def test_the_next_tokens_embeddings_are_copied_out_one_by_one():
    def step(w, x):
        token = jnp.argmax(x @ w.T, axis=-1)  # chosen from the vocabulary, but not by a router
        return w[token] * 2

    work = trace(step, Shape((100, 16), F32), Shape((8, 16), F32))
    assert work.weight_bytes == 4 * (100 * 16 + 8 * 16)

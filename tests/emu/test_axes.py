"""Logical axes: unified, cut finer, and what a trace says of leaves, ops and accesses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import emu
from emu import following
from emu.axes import Factors

Shape = jax.ShapeDtypeStruct


def f32(*dims):
    return Shape(dims, jnp.float32)


def leaf(work, path):
    return next(leaf for leaf in work.leaves if leaf.path == path)


def sizes(work, path):
    """The sizes of a leaf's axes, by dimension."""
    return [tuple(work.axes[i].size for i in axes) for axes in leaf(work, path).axes]


def named(work, name):
    """The ops of one primitive."""
    return [op for op in work.ops if op.name == name]


def test_a_length_of_one_has_no_axes():
    factors = Factors()
    assert factors.fresh((1, 5, 1)) == ((), factors.atoms((0,)), ())


def test_a_split_axis_is_split_wherever_it_is():
    factors = Factors()
    x = factors.new(5120)
    assert factors.split(x, (40, 128)) is not None
    assert [factors.size((i,)) for i in factors.atoms(x)] == [40, 128]


def test_axes_are_cut_to_match():
    factors = Factors()
    heads, pair, width = factors.new(8), factors.new(4), factors.new(128)
    q = factors.new(8 * 4 * 128)
    factors.unify(q, (*heads, *pair, *width))
    assert factors.atoms(q) == (*heads, *pair, *width)
    coarse = (*factors.new(32), *factors.new(128))
    factors.unify(coarse, q)
    assert factors.atoms(coarse) == factors.atoms(q)


def test_axes_that_cannot_be_cut_to_match_stay_apart():
    factors = Factors()
    first, second = (*factors.new(6), *factors.new(4)), (*factors.new(4), *factors.new(6))
    tail = factors.new(7), factors.new(7)
    factors.unify((*first, *tail[0]), (*second, *tail[1]))
    assert factors.atoms(first) == first
    assert factors.atoms(second) == second
    assert factors.atoms(tail[0]) == factors.atoms(tail[1])
    assert factors.split(first, (8, 3)) is None


def test_a_matrix_unified_with_its_transpose_has_one_axis():
    work = emu.trace(lambda w: w + w.T, f32(6, 6))
    (axes, others) = leaf(work, "weights").axes
    assert axes == others


def test_what_was_concatenated_is_found_again():
    def fn(w, x):
        both = jnp.concatenate([x @ w["a"], x @ w["b"]], axis=-1)
        return jnp.tanh(both)[:, :5] @ w["c"]

    weights = {"a": f32(4, 5), "b": f32(4, 3), "c": f32(5, 7)}
    work = emu.trace(fn, weights, f32(2, 4))
    assert leaf(work, "a").axes[1] == leaf(work, "c").axes[0]


def test_two_halves_of_one_matrix_share_an_axis():
    def fn(w, x):
        gate, up = jnp.split(x @ w["fused"], 2, axis=-1)
        return (jax.nn.silu(gate) * up) @ w["down"]

    work = emu.trace(fn, {"fused": f32(8, 24), "down": f32(12, 8)}, f32(3, 8))
    assert sizes(work, "fused") == [(8,), (2, 12)]
    assert leaf(work, "fused").axes[1][1:] == leaf(work, "down").axes[0]


def test_alternating_columns_share_an_axis():
    def fn(w, x):
        both = x @ w["fused"]
        return (both[:, ::2] * both[:, 1::2]) @ w["down"]

    work = emu.trace(fn, {"fused": f32(8, 24), "down": f32(12, 8)}, f32(3, 8))
    assert sizes(work, "fused") == [(8,), (12, 2)]
    assert leaf(work, "fused").axes[1][:1] == leaf(work, "down").axes[0]


def test_unequal_pieces_have_axes_of_their_own():
    def fn(w, x):
        y = x @ w["both"]
        return y[:, :5] @ w["next"]

    work = emu.trace(fn, {"both": f32(8, 9), "next": f32(5, 8)}, f32(3, 8))
    assert sizes(work, "both") == [(8,), (9,)]
    assert leaf(work, "both").axes[1] != leaf(work, "next").axes[0]


def test_a_dot_sums_over_what_it_contracts():
    work = emu.trace(lambda w, x: jnp.einsum("bth,hdo->btdo", x, w), f32(6, 2, 5), f32(3, 4, 6))
    (op,) = named(work, "dot_general")
    (h,), (d,), (o,) = leaf(work, "weights").axes
    assert op.summed == (h,)
    assert {h, d, o} < set(op.axes)
    assert sorted(work.axes[i].size for i in op.axes) == [2, 3, 4, 5, 6]
    (weights,) = [a for a in op.reads if a.kind == "weights"]
    assert set(weights.axes) == {h, d, o}


def test_an_embedding_picks_rows():
    work = emu.trace(lambda w, ids: w[ids], f32(100, 8), Shape((2, 3), jnp.int32))
    (vocab,), (width,) = leaf(work, "weights").axes
    (op,) = named(work, "gather")
    assert op.indexed == (vocab,)
    assert width in op.axes
    assert vocab not in op.axes
    (read,) = [a for a in op.reads if a.kind == "weights"]
    assert [work.axes[i].size for i in read.axes] == [2, 3, 8]


def test_a_token_that_was_chosen_points_into_the_vocabulary():
    def fn(w, x):
        return w["embedding"][jnp.argmax(x @ w["head"], axis=-1)]

    work = emu.trace(fn, {"embedding": f32(100, 8), "head": f32(8, 100)}, f32(3, 8))
    assert leaf(work, "embedding").axes[0] == leaf(work, "head").axes[1]
    (op,) = named(work, "argmax")
    assert op.whole == leaf(work, "head").axes[1]


@pytest.mark.parametrize(
    "pick", [jnp.sort, functools.partial(jnp.cumsum, axis=1), lambda x: jax.lax.top_k(x, 2)[0]]
)
def test_what_needs_all_entries_says_so(pick):
    work = emu.trace(lambda w, x: pick(x @ w), f32(4, 6), f32(3, 4))
    assert any(op.whole == leaf(work, "weights").axes[1] for op in work.ops)


def test_a_primitive_without_an_axis_rule_is_no_error():
    work = emu.trace(
        lambda w: jnp.linalg.cholesky(w["a"] @ w["b"]), {"a": f32(4, 3), "b": f32(3, 4)}
    )
    assert set(named(work, "cholesky")[0].whole) >= set(leaf(work, "a").axes[0])


def test_a_scan_over_layers_has_them_as_an_axis_of_its_leaves_alone():
    def fn(w, x):
        return jax.lax.scan(lambda x, one: (jnp.tanh(x @ one["a"]) @ one["b"], None), x, w)[0]

    work = emu.trace(fn, {"a": f32(5, 4, 6), "b": f32(5, 6, 4)}, f32(3, 4))
    layers, width, inner = leaf(work, "a").axes
    assert leaf(work, "b").axes == (layers, inner, width)
    for op in work.ops:
        for access in op.reads:
            assert not set(layers) & set(access.axes)


def test_a_scan_has_the_axes_of_what_it_stands_for():
    def step(x, one):
        return jnp.tanh(x @ one), None

    def unrolled(w, x):
        for i in range(3):
            x, _ = step(x, w[i])
        return x

    scanned = emu.trace(lambda w, x: jax.lax.scan(step, x, w)[0], f32(3, 4, 4), f32(2, 4))
    written_out = emu.trace(unrolled, [f32(4, 4)] * 3, f32(2, 4))
    # What is carried comes out as it goes in, so that both sides of the matrix are one axis.
    assert scanned.leaves[0].axes[1] == scanned.leaves[0].axes[2]
    ends = [leaf.axes for leaf in written_out.leaves]
    assert ends[0][1] == ends[1][0]
    assert ends[1][1] == ends[2][0]


def test_a_loop_a_branch_and_a_call_pass_axes_on():
    def fn(w, x):
        y = jax.jit(jnp.tanh)(x @ w["a"])
        y = jax.lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, y)
        y = jax.lax.fori_loop(0, 3, lambda _, y: y * 2, y)
        return jax.checkpoint(jnp.exp)(y) @ w["b"]

    work = emu.trace(fn, {"a": f32(4, 6), "b": f32(6, 5)}, f32(3, 4))
    assert leaf(work, "a").axes[1] == leaf(work, "b").axes[0]


def test_a_cache_shares_its_heads_with_what_is_written_into_it():
    def fn(w, cache, x, at):
        new = (x @ w).reshape(1, 2, 3, 4)
        return jax.lax.dynamic_update_slice(cache, new, (0, at, 0, 0))

    cache = f32(1, 16, 3, 4)
    work = emu.trace(fn, f32(8, 12), cache, f32(2, 8), Shape((), jnp.int32), cache=1)
    (op,) = named(work, "dynamic_update_slice")
    _, slots, heads, width = leaf(work, "cache").axes
    assert leaf(work, "weights").axes[1] == (*heads, *width)
    assert op.indexed == slots
    assert not set(slots) & set(op.writes[0].axes)


def test_scales_of_rows_and_of_blocks_share_their_axes():
    def fn(w, x):
        rows = (x @ w["a"].astype(jnp.float32).T) * w["a_scale"]
        blocks = w["b"].astype(jnp.float32).reshape(6, 4, 32) * w["b_scale"][..., None]
        return rows, x @ blocks.reshape(6, 128).T

    weights = {
        "a": Shape((5, 128), jnp.int8),
        "a_scale": f32(5),
        "b": Shape((6, 128), jnp.int8),
        "b_scale": f32(6, 4),
    }
    work = emu.trace(fn, weights, f32(3, 128))
    assert leaf(work, "a").axes[0] == leaf(work, "a_scale").axes[0]
    out, columns = leaf(work, "b").axes
    assert leaf(work, "b_scale").axes == (out, columns[:1])
    assert sizes(work, "b") == [(6,), (4, 32)]
    assert leaf(work, "a").axes[1] == columns
    read = {a.tensor: a.axes for op in work.ops for a in op.reads if a.kind == "weights"}
    assert set(read["b_scale"]) == {*out, columns[0]}
    assert set(read["b"]) == {*out, *columns}


def test_works_of_other_shapes_add_under_common_axes():
    def fn(w, x):
        y = (x @ w["a"]).reshape(-1, 3, 4).sum(1)
        return y @ w["b"]

    def coarse(w, x):
        return jnp.tanh(x @ w["a"]), x[:, :4] @ w["b"]

    weights = {"a": f32(8, 12), "b": f32(4, 8)}
    first = emu.trace(coarse, weights, f32(5, 8))
    second = emu.trace(fn, weights, f32(2, 8))
    assert sizes(first, "a") == [(8,), (12,)]
    for both in (first + second, second + first):
        assert sizes(both, "a") == [(8,), (3, 4)]
        assert both.flops == first.flops + second.flops
        dots = named(both, "dot_general")
        heads, width = leaf(both, "a").axes[1]
        assert sum({heads, width} <= set(op.axes) for op in dots) == 2
        assert emu.Work.from_json(both.to_json()) == both
    assert (first + first).axes == first.axes
    assert sum([2 * first, first]).axes == first.axes


def multiplied(axes, factors):
    return [factors.size(factors.atoms(ids)) for ids in axes]


@st.composite
def programs(draw):
    """Steps of a random program on arrays of 24 or so elements in up to four dimensions."""
    return draw(
        st.lists(
            st.tuples(
                st.sampled_from(["reshape", "transpose", "add", "dot", "slice", "twice", "sum"]),
                st.integers(0, 10_000),
            ),
            min_size=1,
            max_size=8,
        )
    )


def factorings(n, rank=3):
    """All ways to write n as an ordered product of up to `rank` numbers above 1, and with a 1."""
    if rank == 0:
        return [()] if n == 1 else []
    found = [()] if n == 1 else []
    for first in range(1, n + 1):
        if n % first == 0:
            found += [(first, *rest) for rest in factorings(n // first, rank - 1)]
    return found


def step(x, name, seed):
    rng = np.random.default_rng(seed)
    shapes = factorings(x.size)
    width = x.shape[-1] if x.ndim else 1
    start = int(rng.integers(0, x.shape[0])) if x.ndim else 0
    steps = {
        "reshape": lambda: x.reshape(shapes[rng.integers(len(shapes))]),
        "transpose": lambda: x.transpose(rng.permutation(x.ndim)),
        "add": lambda: x + x.reshape(x.shape[::-1]).transpose(),
        "dot": lambda: x.reshape(-1, width) @ jnp.ones((width, int(rng.integers(1, 7)))),
        "slice": lambda: x[start : start + max(1, x.shape[0] // 2)] if x.ndim else x,
        "twice": lambda: jnp.concatenate([x, x], axis=int(rng.integers(x.ndim))) if x.ndim else x,
        "sum": lambda: x.sum(0) if x.ndim > 1 else x,
    }
    return steps[name]()


@settings(max_examples=60)
@given(programs(), st.sampled_from([(24,), (4, 6), (2, 3, 4), (6, 6), (1, 12, 2), (5, 7)]))
def test_axes_of_a_dimension_multiply_to_it(program, dims):
    seen = []
    real = following.named

    def remembering(tape, value, axes):
        seen.append((tape.factors, value.shape.dims, axes))
        return real(tape, value, axes)

    def fn(w):
        x = w["x"] + w["y"]
        for name, seed in program:
            if x.size <= 200:
                x = step(x, name, seed)
        return x

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(following, "named", remembering)
        work = emu.trace(fn, {"x": f32(*dims), "y": f32(*dims)})
    assert seen
    for factors, shape, axes in seen:
        if axes is not None:
            assert multiplied(axes, factors) == list(shape)
            assert all(n > 1 for ids in axes for n in map(factors.size, zip(factors.atoms(ids))))
    for one in work.leaves:
        products = [functools.reduce(lambda n, i: n * work.axes[i].size, a, 1) for a in one.axes]
        assert products == list(one.shape)
    assert leaf(work, "x").axes == leaf(work, "y").axes
    numbers = set(range(len(work.axes)))
    for op in work.ops:
        for field in (op.axes, op.summed, op.indexed, op.whole):
            assert set(field) <= numbers
            assert len(set(field)) == len(field)

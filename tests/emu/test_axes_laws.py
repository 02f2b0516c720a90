"""What it means that dimensions walk the same entries: permuting these entries, everywhere alike,
changes nothing.

Random programs end in one number. For each axis of its leaves, the leaves' entries along it are
put in another order, the same in all, and the number has to stay. All lengths are powers of two, so
that every reshape can be followed; nothing picks entries by their place.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

import emu
from models.cache import new_cache
from models.config import DecoderConfig
from models.experts_config import Experts
from models.latent_config import Latent
from models.shapes import shapes
from models.steps import decode_step
from tests.quickly import jit_quickly

NAMES = (
    "reshape", "reshape", "transpose", "tanh", "add", "multiply", "dot", "sum", "centre",
    "softmax", "halves", "twice", "outer",
)  # fmt: skip

SHAPES = ((16,), (2, 8), (4, 4), (8, 2), (2, 4, 2), (1, 16), (2, 2, 2, 2))


def shapes_of(size):
    """Shapes of up to four dimensions that hold so many elements, a power of two."""
    found = [()] if size == 1 else []
    if size > 1:
        found = [(size,)]
        first = 2
        while first < size:
            found += [(first, *rest) for rest in shapes_of(size // first) if len(rest) < 4]
            first *= 2
    return found


def softmax(xp, z, d):
    shares = xp.exp(z)
    return shares / shares.sum(d, keepdims=True)


def step(xp, z, y, name, seed):
    """One step on z, with the leaf y beside it; `xp` is numpy, or jax.numpy."""
    rng = np.random.default_rng(seed)
    d = int(rng.integers(z.ndim)) if z.ndim else None
    if name == "reshape":
        choices = shapes_of(z.size)
        return z.reshape(choices[rng.integers(len(choices))])
    if name == "transpose":
        return z.transpose(rng.permutation(z.ndim))
    if name == "tanh":
        return xp.tanh(z)
    if name in ("add", "multiply") and z.size == y.size:
        other = y.reshape(z.shape)
        return z + other if name == "add" else z * other
    if d is None:
        return z * 2
    n = z.shape[d]
    steps = {
        "dot": lambda: xp.tensordot(z, y.reshape(n, y.size // n), axes=((d,), (0,))),
        "sum": lambda: z.sum(d),
        "centre": lambda: z - z.mean(d, keepdims=True),
        "softmax": lambda: softmax(xp, xp.tanh(z), d),
        "halves": lambda: xp.multiply(*xp.split(z, 2, axis=d)) if n > 1 else z,
        "twice": lambda: xp.concatenate([z, z], axis=d),
        "outer": lambda: z[..., None] * xp.tanh(z.sum(d).reshape(-1)),
    }
    fits = n <= y.size and z.size <= 64
    return steps[name]() if name in steps and fits else xp.tanh(z)


def run(xp, program, leaves):
    z, y = leaves["x"], leaves["y"]
    for name, seed in program:
        z = step(xp, z, y, name, seed)
    return xp.tanh(z).sum() + xp.tanh(z * z).sum()


def permuted(array, dims, sizes, axis, order):
    """An array with its entries along a logical axis in another order."""
    flat = array.reshape([sizes[i] for axes in dims for i in axes])
    places = [place for place, i in enumerate(i for axes in dims for i in axes) if i == axis]
    for place in places:
        flat = flat.take(order, axis=place)
    return flat.reshape(array.shape)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 10_000)), min_size=1, max_size=7),
    st.sampled_from(SHAPES),
    st.sampled_from(SHAPES),
    st.integers(0, 10_000),
)
def test_permuting_an_axis_everywhere_changes_nothing(program, first, second, seed):
    rng = np.random.default_rng(seed)
    leaves = {"x": rng.normal(size=first), "y": rng.normal(size=second)}
    structs = {n: jax.ShapeDtypeStruct(v.shape, jnp.float32) for n, v in leaves.items()}
    work = emu.trace(lambda w: run(jnp, program, w), structs)
    sizes = [axis.size for axis in work.axes]
    dims = {leaf.path: leaf.axes for leaf in work.leaves}
    expected = run(np, program, leaves)
    held = {i for axes in dims.values() for ids in axes for i in ids}
    event(f"{len(held)} axes in leaves")
    for axis in held:
        order = rng.permutation(sizes[axis])
        other = {n: permuted(v, dims[n], sizes, axis, order) for n, v in leaves.items()}
        np.testing.assert_allclose(run(np, program, other), expected, rtol=1e-9, atol=1e-9)


DENSE = DecoderConfig(
    vocab_size=40,
    width=24,
    layers=2,
    heads=6,
    kv_heads=2,
    head_width=4,
    mlp_width=20,
    max_context=100,
    tied_embeddings=False,
)
DECODERS = {
    "dense": DENSE,
    "experts": dataclasses.replace(DENSE, experts=Experts(count=8, chosen=2, width=12)),
    "groups of experts": dataclasses.replace(
        DENSE,
        experts=Experts(
            count=8, chosen=2, width=12, groups=4, chosen_groups=2, scores="sigmoid", corrected=True
        ),
    ),
    "latent": dataclasses.replace(
        DENSE,
        kv_heads=6,
        head_width=12,
        latent=Latent(rank=16, query_rank=10, rope_width=4, value_width=8),
    ),
}
# A leaf, a dimension of it (of one layer), the sizes of the axes there; and which of them may be
# permuted. Halves of a head that turn by angles of their own may not, nor what slices pick.
PLACES = {
    "dense": [
        ("attention/o/kernel", 0, (24,), (24,)),
        ("attention/o/kernel", 1, (2, 3, 4), (2, 3, 4)),
        ("mlp/down/kernel", 1, (20,), (20,)),
    ],
    "experts": [
        ("attention/o/kernel", 0, (24,), (24,)),
        ("attention/o/kernel", 1, (2, 3, 4), (2, 3, 4)),
        ("mlp/router/kernel", 0, (8,), (8,)),
        ("mlp/experts/down/kernel", 2, (12,), (12,)),
    ],
    "groups of experts": [
        ("attention/o/kernel", 0, (24,), (24,)),
        ("mlp/router/kernel", 0, (4, 2), (4, 2)),
        ("mlp/experts/down/kernel", 2, (12,), (12,)),
    ],
    "latent": [
        ("attention/o/kernel", 0, (24,), (24,)),
        ("attention/o/kernel", 1, (6, 8), (6,)),
        ("attention/q/kernel", 1, (10,), (10,)),
        ("mlp/down/kernel", 1, (20,), (20,)),
    ],
}


def filled(tree, rng):
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), tree)


@pytest.mark.parametrize(("scanned", "tokens"), [(True, 1), (False, 5)])
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoders_weights_permuted_give_the_same_logits(name, scanned, tokens):
    config, rng = DECODERS[name], np.random.default_rng(0)
    weights = filled(shapes(config, "float32", scanned=scanned), rng)
    cache = new_cache(config, batch=2, length=9, scanned=scanned)
    cache = dataclasses.replace(
        cache, keys=filled(cache.keys, rng), values=filled(cache.values, rng)
    ).rewind(jnp.array([3, 2]))
    step = functools.partial(decode_step, config)
    ids = jnp.asarray(rng.integers(config.vocab_size, size=(2, tokens)), jnp.int32)
    work = emu.trace(step, weights, cache, ids, cache=1)
    sizes = [axis.size for axis in work.axes]
    dims = {leaf.path: leaf.axes for leaf in work.leaves}
    step = jit_quickly(step)
    expected, _ = step(weights, cache, ids)

    def path_of(path, first=()):
        return "/".join([*first, *(str(getattr(k, "key", getattr(k, "idx", ""))) for k in path)])

    def reordered(axis, order):
        def one(path, leaf, first=()):
            return permuted(leaf, dims[path_of(path, first)], sizes, axis, order)

        tree = jax.tree_util.tree_map_with_path
        keys = tree(lambda p, v: one(p, v, ("cache", "keys")), cache.keys)
        values = tree(lambda p, v: one(p, v, ("cache", "values")), cache.values)
        return tree(one, weights), dataclasses.replace(cache, keys=keys, values=values)

    for leaf, d, lengths, moving in PLACES[name]:
        axes = dims[f"layers/{leaf}"][1:][d] if scanned else dims[f"layers/0/{leaf}"][d]
        assert tuple(sizes[i] for i in axes) == lengths
        for axis in axes[: len(moving)]:
            order = np.roll(np.arange(sizes[axis]), 1)
            logits, _ = step(*reordered(axis, order), ids)
            what = str(work.axes[axis])
            np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3, err_msg=what)

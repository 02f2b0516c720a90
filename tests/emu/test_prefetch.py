"""Stacked layers in another memory are fetched a layer ahead, each once, and compute the same."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import ClosedJaxpr, Var

from emu import prefetch
from emu.residency import realize
from models.cache import new_cache
from models.config import DecoderConfig
from models.shapes import shapes
from models.stacking import stack_layers
from models.steps import layer_step
from tests.emu.test_residency import assert_same_bits, machine, placed

# Equal to the bit is what users' programs are.
pytestmark = pytest.mark.usefixtures("compiled_in_full")

WIDTH = 8


def stack(layers):
    keys = jax.random.split(jax.random.key(0), 2)
    shape = (layers, WIDTH, WIDTH)
    return {
        "layers": {
            "up": jax.random.normal(keys[0], shape),
            "down": jax.random.normal(keys[1], shape),
        },
        "gain": jnp.linspace(0.5, 1, WIDTH),
    }


def step(reverse, weights, rows, x):
    """Weights scanned over and one that all turns read; rows in, rows out."""

    def turn(x, given):
        layer, row = given
        x = x + weights["gain"] * jnp.tanh(layer["down"] @ jnp.tanh(layer["up"] @ x + row))
        return x, 2 * x + row

    x, rows = jax.lax.scan(turn, x, (weights["layers"], rows), reverse=reverse)
    return x, rows


def fetches(jaxpr, times=1):
    """How many arrays are put elsewhere, loops counted as often as they run."""
    found = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "device_put":
            found += times * len(equation.invars)
        turns = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            if isinstance(value, ClosedJaxpr):
                found += fetches(value.jaxpr, times * turns)
    return found


@pytest.mark.parametrize("rules", ["off-chip", [("**/up", "off-chip"), ("**", "on-chip")]])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3, 6])
@pytest.mark.newest
def test_a_scan_computes_the_same_to_the_bit(layers, reverse, rules):
    weights, x = stack(layers), jnp.linspace(-1, 1, WIDTH)
    rows = jax.random.normal(jax.random.key(1), (layers, WIDTH))
    plain = jax.jit(functools.partial(step, reverse))
    real = realize(plain, placed(weights, rules, machine(10**6, "memory-kind")), weights)
    assert_same_bits(real(rows, x), plain(weights, rows, x))


@pytest.mark.parametrize("layers", [1, 2, 7])
def test_each_layer_is_fetched_once_and_under_the_one_before(layers):
    weights, x, rows = stack(layers), jnp.ones(WIDTH), jnp.ones((layers, WIDTH))

    def fetching(leaves, x):
        tree = jax.tree.unflatten(jax.tree.structure(weights), leaves)
        return step(False, tree, rows, x)

    def fetched(leaves, x):
        return prefetch.call(lambda leaves: fetching(leaves, x), leaves, [True] * len(leaves))

    closed = jax.make_jaxpr(fetched)(jax.tree.leaves(weights), x)
    assert fetches(closed.jaxpr) == 2 * layers + 1
    scans = [e for e in closed.jaxpr.eqns if e.primitive.name == "scan"]
    (loop,) = scans
    assert (loop.params["length"], loop.params["unroll"]) == (layers - 1, prefetch.TURNS_AT_ONCE)
    # Within a turn what is fetched depends on its number alone: not on what the turn computes.
    body = loop.params["jaxpr"].jaxpr
    made_by = {out: e for e in body.eqns for out in e.outvars}
    copies = [e for e in body.eqns if e.primitive.name == "device_put"]
    assert len(copies) == 2

    def sources(v):
        equation = made_by.get(v)
        names = set() if equation is None else {equation.primitive.name}
        inputs = () if equation is None else equation.invars
        return names.union(*(sources(i) for i in inputs if isinstance(i, Var)))

    assert not any("dot_general" in sources(v) for e in copies for v in e.invars)


def test_what_is_not_scanned_over_is_fetched_whole():
    weights = stack(2)

    def fetched(leaves):
        return prefetch.call(lambda leaves: [leaf.sum() for leaf in leaves], leaves, [True] * 3)

    assert fetches(jax.make_jaxpr(fetched)(jax.tree.leaves(weights)).jaxpr) == 3


@pytest.mark.newest
def test_a_scanned_decoders_layers():
    config = DecoderConfig(
        vocab_size=64,
        layers=4,
        width=16,
        heads=4,
        kv_heads=2,
        head_width=4,
        mlp_width=24,
        max_context=32,
        tied_embeddings=True,
    )
    leaves, structure = jax.tree.flatten(shapes(config)["layers"])
    keys = jax.random.split(jax.random.key(0), len(leaves))
    tree = [jax.random.normal(k, leaf.shape) / 4 for k, leaf in zip(keys, leaves, strict=True)]
    weights = stack_layers(config, {"layers": jax.tree.unflatten(structure, tree)})
    plain = jax.jit(functools.partial(layer_step, config), donate_argnums=1)
    real = realize(plain, placed(weights, "off-chip", machine(10**6, "memory-kind")), weights)
    ours, theirs = (new_cache(config, batch=1, length=8, scanned=True) for _ in range(2))
    hidden = jax.random.normal(jax.random.key(1), (1, 1, config.width))
    for _ in range(3):
        mine, ours = real(ours, hidden)
        his, theirs = plain(weights, theirs, hidden)
        assert_same_bits(mine, his)
        assert_same_bits(ours, theirs)

"""Decoders over 8 host devices as `emu.shard` lays them, held against one device.

Run as a program with XLA_FLAGS=--xla_force_host_platform_device_count=8 and one argument, a JSON
list of cases (see `found`). Prints what was found of each, as one JSON list.
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

import emu
from models.cache import new_cache
from models.shapes import shapes
from models.steps import decode_step
from tests.emu.test_residency import memory
from tests.emu.xla_exchanges import compiled, config
from tests.quickly import jit_quickly

TOKENS = 3  # decoded one after another, so that the cache is read where it was written


def random_weights(of, scanned):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(0.1 * rng.normal(size=x.shape), x.dtype),
        shapes(of, "float32", scanned=scanned),
    )


def machine(cache_bytes=150_000):
    memories = (
        memory("l2", "on-chip", cache_bytes, "rotation"),
        memory("hbm", "off-chip", 10**9, "rotation"),
    )
    return emu.Chip(name="here", vendor="a test", memories=memories)


def found(*, degrees, batch=1, kv_heads=8, experts=0, shared=0, scanned=False, placed=False):
    """Of a decode step over 8 devices and on one: how far logits are off, exchanges, shards."""
    of = config(2, kv_heads, experts, shared)
    weights = random_weights(of, scanned)
    step = functools.partial(decode_step, of)
    empty = functools.partial(new_cache, of, batch=batch, length=32, scanned=scanned)
    drawn = np.random.default_rng(1).integers(of.vocab_size, size=(TOKENS, batch, 1))
    tokens = jnp.asarray(drawn, jnp.int32)
    system = emu.System(machine(), chips=8, **degrees)
    work = emu.trace(step, weights, empty(), tokens[0], weights=0, cache=1)
    layout = emu.shard(work, system)
    laid, cache = layout.put(weights), layout.put(empty(), "cache")
    outs = NamedSharding(layout.mesh, layout.batch), layout.shardings(empty(), "cache")
    jitted = jit_quickly(step, donate_argnums=1, out_shardings=outs)
    sharded = jitted.lower(laid, cache, layout.rows(tokens[0])).compile()
    here, alone = sharded, jit_quickly(step)
    extra = {}
    if placed:
        rules = [("cache/**", "l2"), ("layers/0/**", "l2"), ("**", "hbm")]
        placement = emu.place(work, system, rules, allow_overflow=True)
        realized = emu.realize(sharded, placement, laid)
        far = [leaf for path, leaf in flat(laid) if not path.startswith("layers/0/")]
        extra = {
            "copies": realized.copies,
            "far_bytes_of_one": sum(leaf.addressable_shards[0].data.nbytes for leaf in far),
        }
        here = lambda _, *rest: realized(*rest)  # noqa: E731
    theirs, off, same = empty(), 0.0, True
    again = layout.put(empty(), "cache")
    for one in tokens:
        logits, cache = here(laid, cache, layout.rows(one))
        expected, theirs = alone(weights, theirs, one)
        off = max(off, float(jnp.abs(np.asarray(logits) - np.asarray(expected)).max()))
        plain, again = sharded(laid, again, layout.rows(one))
        same = same and bool((np.asarray(plain) == np.asarray(logits)).all())
    spread = emu.spread(work, system)
    ours = {}
    for op in spread.work.collectives:
        key = op.collective.kind, op.collective.bytes
        ours[key] = ours.get(key, 0) + op.count
    return {
        "off": off,
        "scale": float(jnp.abs(expected).max()),
        "same": same,
        "mesh": dict(layout.mesh.shape),
        "emu": [[*key, n] for key, n in sorted(ours.items())],
        "xla": [[*key, n] for key, n in sorted(compiled(sharded.as_text()).items())],
        "rank_bytes": sum(spread.rank_bytes.values()),
        "held_bytes": sum(
            x.addressable_shards[0].data.nbytes for x in jax.tree.leaves((laid, cache))
        ),
        **extra,
    }


def flat(tree):
    return [
        (emu.work.leaf_path(p, "weights"), x) for p, x in jax.tree_util.tree_leaves_with_path(tree)
    ]


def main():
    """Prints what was found of the cases in the argument."""
    assert jax.device_count() == 8
    print(json.dumps([found(**case) for case in json.loads(sys.argv[1])]))


if __name__ == "__main__":
    main()

"""Under shard_map the counts are one device's, and collectives say kind, bytes and group."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from emu.tracing import trace

Shape = jax.ShapeDtypeStruct
F32 = jnp.float32
MESH = AbstractMesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto, AxisType.Auto))


def sharded(body, in_specs, out_specs):
    return jax.shard_map(body, mesh=MESH, in_specs=in_specs, out_specs=out_specs, check_vma=False)


@pytest.mark.newest
def test_a_tensor_parallel_mlp_is_an_all_reduce_of_its_output():
    def mlp(w, x):
        hidden = jax.nn.relu(x @ w["up"])
        return lax.psum(hidden @ w["down"], "x")

    weights = {"up": Shape((16, 64), F32), "down": Shape((64, 16), F32)}
    specs = {"up": P(None, "x"), "down": P("x", None)}
    work = trace(sharded(mlp, (specs, P()), P()), weights, Shape((2, 16), F32))
    # A device holds a quarter of each matrix.
    assert work.bytes_by_leaf == {"up": 4 * 16 * 16, "down": 4 * 16 * 16}
    assert work.dot_flops == 2 * 2 * 2 * 16 * 16
    (op,) = work.collectives
    assert (op.collective.kind, op.collective.bytes, op.collective.group) == ("all_reduce", 128, 4)
    assert {op.devices for op in work.ops} == {8}


@pytest.mark.parametrize(
    ("body", "kind", "size", "group"),
    [
        (lambda x: lax.psum(x, ("x", "y")), "all_reduce", 128, 8),
        (lambda x: lax.pmax(x, "y"), "all_reduce", 128, 2),
        (lambda x: lax.all_gather(x, "x", tiled=True), "all_gather", 4 * 128, 4),
        (lambda x: lax.psum_scatter(x, "x", tiled=True), "reduce_scatter", 128, 4),
        (lambda x: lax.all_to_all(x, "x", 1, 0, tiled=True), "all_to_all", 128, 4),
        (lambda x: lax.ppermute(x, "y", [(0, 1), (1, 0)]), "permute", 128, 2),
    ],
)
def test_collectives(body, kind, size, group):
    work = trace(sharded(body, P("x"), P("x")), Shape((16, 8), F32), weights=None)
    (op,) = work.collectives  # a shard is [4, 8], 128 bytes
    assert (op.collective.kind, op.collective.bytes, op.collective.group) == (kind, size, group)


def test_collectives_in_a_loop_run_as_often_as_it_does():
    def body(w, x):
        return lax.scan(lambda x, w: (lax.psum(x @ w, "x"), None), x, w)[0]

    work = trace(
        sharded(body, (P(None, "x"), P(None, "x")), P()),
        Shape((5, 16, 4), F32),
        Shape((2, 16), F32),
    )
    (op,) = work.collectives
    assert op.count == 5


def test_a_cache_updated_under_shard_map_is_still_the_cache():
    def body(cache, new, position):
        return lax.dynamic_update_slice(cache, new, (0, position, 0))

    def step(cache, new, position):
        update = sharded(body, (P(None, None, "x"), P(None, None, "x"), P()), P(None, None, "x"))
        cache = update(cache, new, position)
        return cache, jnp.sum(cache)

    work = trace(
        step, Shape((1, 64, 8), F32), Shape((1, 1, 8), F32), Shape((), "int32"),
        weights=None, cache=0, hints={"context": 10},
    )  # fmt: skip
    assert work.cache_written_bytes == 4 * 2  # a quarter of the 8
    assert work.cache_bytes == 4 * 10 * 8

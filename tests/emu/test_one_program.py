import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.residency import realize
from tests.emu.test_residency import MIXED, machine, new_cache, placed, step, weights


@pytest.mark.parametrize("mechanism", ["rotation", "memory-kind"])
def test_many_steps_in_one_program_are_as_many_calls(mechanism):
    tree, x = weights(), jnp.linspace(-1, 1, 8)
    placement = placed(tree, MIXED, machine(cache=10**4, mechanism=mechanism))
    realized = realize(step, placement, tree)
    out, cache = realized.steps_in_one(5)(new_cache(), x)
    theirs = new_cache()
    for _ in range(5):
        expected, theirs = step(tree, theirs, x)
    assert cache["position"] == 5
    np.testing.assert_allclose(cache["kv"], theirs["kv"], rtol=1e-6)  # another order of fusion
    np.testing.assert_array_equal(out, x)  # the factor is zero, and what goes in comes out
    assert expected.shape == out.shape


def test_no_step_is_dropped_or_merged():
    tree, x = weights(layers=1), jnp.ones(8)
    realized = realize(step, placed(tree, [("**", "on-chip")]), tree)
    program = realized.steps_in_one(7)
    lowered = program.func.lower(*program.args, new_cache(), x)
    assert lowered.compile().as_text().count(" dot(") == 7 * 2
    assert jax.tree.leaves(lowered.args_info)[0].donated is False

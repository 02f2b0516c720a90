import gc

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import LargePages
from kernels.pages import BLOCK_BYTES, FIRST_BYTES, LARGE_BYTES


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "float8_e4m3fn"])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (7, 5), (64, 64)])
def test_values_are_kept_in_any_dtype_and_shape(dtype, shape):
    values = np.random.default_rng(0).integers(0, 2, shape).astype(jnp.dtype(dtype))
    pages = LargePages()
    for given in (values, jnp.asarray(values)):
        put = pages.put(given)
        assert isinstance(put, jax.Array)
        chex.assert_trees_all_equal_shapes_and_dtypes(put, jnp.asarray(values))
        np.testing.assert_array_equal(np.asarray(put), values)


def test_each_is_a_buffer_of_its_own_and_outlives_the_pages():
    pages = LargePages()
    values = np.arange(1000, dtype=np.float32)
    first, second = pages.put(values), pages.put(values)
    assert first.unsafe_buffer_pointer() != second.unsafe_buffer_pointer()
    values[:] = 0
    del pages
    gc.collect()
    np.testing.assert_array_equal(first, np.arange(1000))
    np.testing.assert_array_equal(second, np.arange(1000))


def test_neighbours_share_a_block_that_begins_with_a_large_page():
    pages = LargePages()
    begin = pages.put(np.ones(100_000, np.int8)).unsafe_buffer_pointer()
    assert begin % LARGE_BYTES == 0
    assert pages.put(np.ones(8, np.int8)).unsafe_buffer_pointer() == begin + 100_032
    whole = pages.put(
        np.ones(BLOCK_BYTES + LARGE_BYTES, np.int8)
    )  # larger than a block: one of its own
    assert whole.unsafe_buffer_pointer() % LARGE_BYTES == 0


def test_room_is_filled_in_parts_and_lies_where_it_was():
    pages = LargePages()
    before = pages.put(np.ones(3, np.int8))
    room = pages.room((2, 5), jnp.bfloat16)
    room[0], room[1] = 1, 2
    filled = pages.filled(room)
    assert filled.unsafe_buffer_pointer() == room.ctypes.data == before.unsafe_buffer_pointer() + 64
    chex.assert_trees_all_equal(filled, jnp.asarray([[1] * 5, [2] * 5], jnp.bfloat16))


def test_an_array_stays_on_its_device():
    there = jnp.ones(4)
    assert LargePages().put(there, there.sharding).sharding == there.sharding


def test_donating_it_is_safe():  # its memory is the block's, so a program must not take it over
    pages = LargePages()
    put, neighbour = (pages.put(np.ones(4096, np.float32)) for _ in range(2))
    after = jax.jit(lambda x: x + 1, donate_argnums=0)(put)
    np.testing.assert_array_equal(after, np.full(4096, 2))
    np.testing.assert_array_equal(neighbour, np.ones(4096))


def test_blocks_grow_with_what_is_put():
    pages = LargePages()
    sizes = []
    for _ in range(80):
        pages.put(np.ones(2**20, np.int8))
        sizes.append(pages._block.size)
    assert sizes[0] < 2 * FIRST_BYTES  # a small model takes no more
    assert sizes == sorted(sizes)
    assert BLOCK_BYTES <= sizes[-1] <= BLOCK_BYTES + LARGE_BYTES

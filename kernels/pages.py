"""Arrays side by side in large pages: where weights lie so that they stream at full speed.

An allocation of a megabyte or two lies in pages of 4 KB, and a product that streams it misses the
processor's table of pages every few hundred loads; where the machine is a virtual one, each miss
walks two tables. Linux backs memory with pages of 2 MB where it is asked to, and only whole ones:
hence blocks much larger than a weight, which NumPy asks that of. Elsewhere, and on other devices
than CPUs, arrays are put where JAX puts them.
"""

import math
from typing import Any

import jax
import numpy as np

LARGE_BYTES = 2**21  # a large page of x86-64 and of most ARM systems
# Of the first block and of the largest; each is twice the one before, since nobody says how much is
# to come, and a block that is hardly used takes address space all the same.
FIRST_BYTES, BLOCK_BYTES = 2**22, 2**26
LINE_BYTES = 64  # JAX shares an array's memory, rather than copy it, where it begins on one


class LargePages:
    """Puts one array behind the other; a block lives as long as any array in it."""

    def __init__(self) -> None:
        self._block = np.empty(0, np.uint8)
        self._used = 0
        self._next_bytes = FIRST_BYTES

    def put(self, values: Any, sharding: jax.sharding.Sharding | None = None) -> jax.Array:
        """A jax array of its own with these values.

        Args:
          values: a NumPy or a jax array of any shape and dtype.
          sharding: where it goes; None: to the default device.
        """
        platforms = [d.platform for d in (sharding.device_set if sharding else jax.devices()[:1])]
        if platforms != ["cpu"]:
            elsewhere: jax.Array = jax.device_put(values, sharding, may_alias=False)
            return elsewhere
        held = np.asarray(values)
        room = self.room(held.shape, held.dtype)
        np.copyto(room, held)
        put: jax.Array = jax.device_put(room, sharding, may_alias=True)
        return put

    def room(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Room for an array, to be filled and then given to `filled`."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        room: np.ndarray = self._room(nbytes).view(dtype).reshape(shape)
        return room

    @staticmethod
    def filled(room: np.ndarray) -> jax.Array:
        """A jax array of a filled `room`, on the default device; on a CPU it lies in that room."""
        array: jax.Array = jax.device_put(room, may_alias=True)
        return array

    def _room(self, nbytes: int) -> np.ndarray:
        begin = -(-self._used // LINE_BYTES) * LINE_BYTES
        if begin + nbytes > self._block.size:
            block = np.empty(max(nbytes, self._next_bytes) + LARGE_BYTES, np.uint8)
            self._next_bytes = min(2 * self._next_bytes, BLOCK_BYTES)
            self._block, begin = block[-block.ctypes.data % LARGE_BYTES :], 0
        self._used = begin + nbytes
        return self._block[begin : self._used]

"""Off-chip by rotation: a copy of the weights that has left the cache when it comes round again.

A cache cannot be told what to keep. So the off-chip weights exist R times, and each call gets the
next copy; the on-chip weights exist once and stay hot. Between two readings of one byte the R
copies' other bytes are read, R times the off-chip bytes of a step. How many caches full must that
be? A cache that evicts the oldest line keeps nothing once it is one; one that evicts at random
keeps e^-n after n; the best policy conceivable, which pins what it can, always keeps 1/n. So after
`CACHES_READ` = 8 at most an eighth of the reads can be hits, and on real policies far fewer.

The same program runs, nothing is flushed inside the timed region, and what the cache holds
besides (activations, the KV cache, the code) is treated alike.
"""

import math
from collections.abc import Sequence

import jax

from emu import ram
from emu.errors import EmuError
from kernels import LargePages

CACHES_READ = 8
BOOKKEEPING_BYTES = 3_000  # of JAX and its runtime for each array: 2.7 kB measured


def copies_needed(off_chip_bytes: int, cache_bytes: float) -> int:
    """R: how many copies there must be, the original included."""
    if off_chip_bytes <= 0:
        return 1
    return max(1, math.ceil(CACHES_READ * cache_bytes / off_chip_bytes))


def rotated(
    leaves: Sequence[jax.Array], off_chip: Sequence[bool], cache_bytes: float
) -> list[list[jax.Array]]:
    """R lists of the leaves; the off-chip ones are buffers of their own in each, the others one.

    Leaves may lie over several devices, each of which has a cache of `cache_bytes` of its own.

    Raises EmuError where the copies would not fit in the memory that is free.
    """
    moving = [leaf for leaf, far in zip(leaves, off_chip, strict=True) if far and leaf.size]
    off_chip_bytes = sum(map(_on_one_device, moving))
    copies = copies_needed(off_chip_bytes, cache_bytes)
    shards = len(moving[0].addressable_shards) if moving else 1
    extra = (copies - 1) * (off_chip_bytes * shards + len(moving) * BOOKKEEPING_BYTES)
    free = _free_bytes(moving[0]) if moving else 0
    if extra > free:
        raise EmuError(
            f"{off_chip_bytes:,} off-chip bytes in {len(moving)} leaves need {copies:,} copies to "
            f"outlast a cache of {cache_bytes / 1e6:,.0f} MB, {extra / 1e9:.1f} GB more than the "
            f"weights, and {free / 1e9:.1f} GB are free: place more off chip, so that fewer copies "
            "do, or nothing"
        )
    paired = list(zip(leaves, off_chip, strict=True))
    lists = [list(leaves)]
    pages = LargePages()
    lists += [
        [pages.put(leaf, _bound_to(leaf)) if far else leaf for leaf, far in paired]
        for _ in range(copies - 1)
    ]
    jax.block_until_ready(lists)
    return lists


def _bound_to(leaf: jax.Array) -> jax.sharding.Sharding | None:
    """Where a copy is to be; jit compiles anew for one that is committed where the leaf was not."""
    return leaf.sharding if leaf.committed else None


def _free_bytes(leaf: jax.Array) -> float:
    """Of the memory of all devices that the leaf lies on; a CPU's devices share the RAM."""
    told = [shard.device.memory_stats() or {} for shard in leaf.addressable_shards]
    if not all("bytes_limit" in stats for stats in told):
        return ram.available_bytes()
    least = min(stats["bytes_limit"] - stats["bytes_in_use"] for stats in told)
    return float(ram.PLANNED_SHARE * least * len(told))


def _on_one_device(leaf: jax.Array) -> int:
    return max(int(shard.data.nbytes) for shard in leaf.addressable_shards)

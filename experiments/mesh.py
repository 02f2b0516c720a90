"""A model spread over the devices at hand: how many of them, and how its step is laid over them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

import emu
from emu.ranks import Ranks
from experiments.errors import ExperimentError
from models.cache import KVCache, new_cache
from models.config import DecoderConfig
from models.generate import cache_dtype
from models.shapes import shapes
from models.steps import decode_step


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Spread:
    """One decode step of one sequence over several devices."""

    work: emu.Work
    layout: emu.Layout
    cache: Any  # the sharding of each of its leaves

    def system(self, chip: emu.Chip) -> emu.System:
        """The devices, where each is such a chip."""
        degree = self.layout.mesh.size
        return emu.System(chip, chips=degree, tensor=degree)

    def put_cache(self, cache: KVCache) -> KVCache:
        """The cache, laid over the devices."""
        laid: KVCache = self.layout.put(cache, "cache")
        return laid


def over(config: DecoderConfig, dtype: str, slots: int, tensor: int) -> Spread | None:
    """The model over `tensor` devices; 0: over the most that there are and that divide it.

    None where one device has it all. Raises ExperimentError where the model cannot be divided so,
    or there are not so many devices.
    """
    if tensor < 0 or tensor > jax.device_count():
        raise ExperimentError(
            f"config.tensor is {tensor}, and there are {jax.device_count()} devices: lower it, or "
            "set it to 0 for as many as divide the model"
        )
    if 1 in (tensor, jax.device_count()):
        return None
    work, cache = _traced(config, dtype, slots)
    for degree in [tensor] if tensor else range(jax.device_count(), 1, -1):
        try:
            layout = emu.shard(work, Ranks(tensor=degree, per_expert=degree))
        except emu.EmuError as error:
            if tensor:
                raise ExperimentError(f"config.tensor is {tensor}: {error}") from error
            continue
        kept = layout.shardings(cache, "cache")
        return Spread(work=work, layout=layout, cache=kept)
    return None


@functools.cache
def _traced(config: DecoderConfig, dtype: str, slots: int) -> tuple[emu.Work, KVCache]:
    weights = shapes(config, dtype)
    cache = jax.eval_shape(
        functools.partial(new_cache, config, batch=1, length=slots, dtype=cache_dtype(weights))
    )
    step = functools.partial(decode_step, config)
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    work = emu.trace(step, weights, cache, tokens, weights=0, cache=1)
    return work, cache

"""The sweep's steps on a TPU, where a placement says which layers stay in VMEM.

The bridge between `emu.place`'s rules and `kernels.persistent`: whole layers, the first ones on
chip, and many steps as one kernel (`emu.persistent`). What the kernel cannot do is left out of a
sweep, each with its reason.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

import jax
import jax.numpy as jnp

import emu
from emu.persistent import InOne
from experiments.errors import ExperimentError
from experiments.wording import mb
from kernels.persistent import (
    MATRICES,
    REST_BYTES,
    Layers,
    decode_layers,
    resident_bytes,
    room_bytes,
    streamed_bytes,
    tiled_bytes,
)
from models import rope
from models.cache import KVCache
from models.config import DecoderConfig
from models.slots import KeysValues

PAIR: Final = "persistent-kernel"
STEPS = 256  # in one kernel, for which the layers are copied on chip once

_KEPT = ("rope_theta", "rope_scaling", "norm_epsilon")  # what the kernel takes beside the sizes
_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LastSlotSteps:
    """A step of the layers that fills the cache's last slot, so that each step reads all of it."""

    config: DecoderConfig
    step: Callable[..., tuple[jax.Array, KVCache]]  # (weights, cache, hidden) -> (hidden, cache)

    def __call__(
        self, weights: dict[str, Any], cache: KVCache, hidden: jax.Array
    ) -> tuple[jax.Array, KVCache]:
        """One step, as an ordinary function."""
        return self.step(weights, cache, hidden)

    def in_one_kernel(self, weights: dict[str, Any], placement: emu.Placement) -> InOne:
        """Of a number of steps, those from the same hidden state [1, 1, width]: `emu.persistent`.

        Raises ExperimentError for a config, weights or a placement that the kernel is not for.
        """
        check_config(self.config)
        layers = stacked(weights)
        resident = resident_layers(memories_of(placement), self.config.layers)
        check_room(layers, resident)

        @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
        def program(
            steps: int, layers: Layers, cache: KVCache, hidden: jax.Array
        ) -> tuple[jax.Array, KVCache]:
            slots = jnp.full(steps, cache.length - 1)
            inputs = jnp.broadcast_to(hidden[0], (steps, hidden.shape[2]))
            out, cache = several(self.config, layers, resident, cache, inputs, slots)
            return out[-1][None, None], cache.rewind(slots[:1])

        return lambda steps: functools.partial(program, steps, layers)


def several(
    config: DecoderConfig,
    layers: Layers,
    resident: int,
    cache: KVCache,
    hidden: jax.Array,
    slots: jax.Array,
) -> tuple[jax.Array, KVCache]:
    """As many `models.steps.layer_step`s of one sequence as there are hidden states, in one kernel.

    Args:
      config: of the plain Llama family.
      layers: from `stacked`.
      resident: how many of them, the first ones, stay in VMEM.
      cache: float32, of one sequence.
      hidden: float32 [steps, width], what goes in at each step.
      slots: int32 [steps], each step's token's position, and its slot in the cache.

    Returns:
      float32 [steps, width], and the cache, whose position is as it was.
    """
    _check_cache(cache)
    keys, values = (
        jnp.concatenate(cast(tuple[jax.Array, ...], part)) for part in (cache.keys, cache.values)
    )
    angles = rope.angles(config.rope, slots[None])[:, 0].swapaxes(0, 1)
    out, keys, values = decode_layers(
        layers,
        keys,
        values,
        hidden,
        jnp.concatenate([angles, angles], axis=-1),
        slots,
        resident=resident,
        epsilon=config.norm_epsilon,
    )
    after = [KeysValues(k[None], v[None]) for k, v in zip(keys, values, strict=True)]
    return out, cache.moved(after, 0)


def memories_of(placement: emu.Placement) -> dict[str, str]:
    """The memory of each leaf, by its path."""
    return {part.leaf.path: part.memory for part in placement.residencies}


def resident_layers(where: Mapping[str, str], layers: int) -> int:
    """How many layers, the first ones, are in VMEM, where all others are in HBM.

    `where` has each leaf's memory by its path. Raises ExperimentError where it is not so.
    """
    memories: list[str] = []
    for n in range(layers):
        here = {memory for path, memory in where.items() if path.startswith(f"layers/{n}/")}
        if here not in ({"vmem"}, {"hbm"}):
            found = ", ".join(sorted(here)) or "no memory"
            raise ExperimentError(
                f"layer {n} is in {found}: a TPU's kernel takes each layer whole, from vmem or "
                "from hbm; place it by a rule such as ('layers[:2]/**', 'vmem')"
            )
        memories += here
    resident = memories.count("vmem")
    if "hbm" in memories[:resident]:
        raise ExperimentError(
            f"layer {memories.index('hbm')} is in hbm and a later one in vmem: a TPU's kernel "
            f"keeps the first layers; place layers[:{resident}] in vmem"
        )
    return resident


def check_room(layers: Layers, resident: int) -> None:
    """Raises ExperimentError where the layers, in whole tiles, do not fit in VMEM."""
    room = room_bytes()
    needed = resident_bytes(layers, resident)
    if needed > room:
        raise ExperimentError(
            f"{resident} layers in vmem are {mb(needed)} MB in whole tiles, and it holds "
            f"{mb(room)} MB: a scratchpad does not overflow"
        )
    passing = streamed_bytes(layers)
    if resident < layers.q.shape[0] and passing > REST_BYTES // 2:
        raise ExperimentError(
            f"streaming these layers takes {mb(passing)} MB of vmem for two blocks of 128 rows, "
            f"and may take {mb(REST_BYTES // 2)} MB: --config.pair=memory-kind takes any model"
        )


def check_cache_room(config: DecoderConfig, slots: int) -> None:
    """Raises ExperimentError where the KV cache is too large for what is left of VMEM."""
    heads = config.layers * config.kv_heads
    # Keys and values, as they come in and as they go out.
    needed = 4 * heads * tiled_bytes(slots, config.head_width, itemsize=4)
    if needed > REST_BYTES // 2:
        raise ExperimentError(
            f"a KV cache of {slots} tokens takes {mb(needed)} MB of vmem, and it may take "
            f"{mb(REST_BYTES // 2)} MB: lower config.context"
        )


def stacked(weights: dict[str, Any]) -> Layers:
    """The layers' weights, each kind as one array."""
    layers = [weights["layers"][n] for n in range(len(weights["layers"]))]
    where = {name: "attention" if name in "qkvo" else "mlp" for name in MATRICES}
    matrices = {
        name: jnp.stack([layer[block][name]["kernel"] for layer in layers])
        for name, block in where.items()
    }
    check_dtypes([str(matrix.dtype) for matrix in matrices.values()])
    norms = {
        name: jnp.stack([layer[name]["scale"] for layer in layers])
        for name in ("attention_norm", "mlp_norm")
    }
    return Layers(**matrices, **norms)


def stacked_shapes(weights: dict[str, Any]) -> Layers:
    """The same of weights' shapes."""
    return cast(Layers, jax.eval_shape(stacked, weights))


def check_dtypes(dtypes: Iterable[str]) -> None:
    """Refuse weights that the kernel does not take."""
    other = sorted(set(dtypes) - set(_DTYPES))
    if other:
        raise ExperimentError(
            f"the weights are {', '.join(other)}: a TPU's kernel takes {' or '.join(_DTYPES)}"
        )


def check_config(config: DecoderConfig) -> None:
    """Refuse what the kernel does not compute."""
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(DecoderConfig)
        if field.default is not dataclasses.MISSING and field.name not in _KEPT
    }
    other = sorted(name for name in defaults if getattr(config, name) != defaults[name])
    if other:
        raise ExperimentError(
            f"config: {', '.join(other)}: a TPU's kernel is for the plain Llama family, which "
            "leaves these as they are; --config.pair=memory-kind takes any model"
        )


def _check_cache(cache: KVCache) -> None:
    for layer in cache.keys:
        if not isinstance(layer, jax.Array) or layer.dtype != jnp.float32 or layer.shape[0] != 1:
            kind = (
                f"{layer.dtype}{list(layer.shape)}"
                if isinstance(layer, jax.Array)
                else type(layer).__name__
            )
            raise ExperimentError(
                f"the cache is {kind}: a TPU's kernel takes one of float32, for one sequence"
            )

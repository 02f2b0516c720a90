"""Steps of a decoder's layers on a TPU, where a placement says which layers stay in VMEM.

The bridge between `emu.place`'s rules and `kernels.persistent`: whole layers, the first ones on
chip. It is a program of several steps of its own, so `emu.realize`, which calls any function, does
not make it.
"""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp

import emu
from experiments.errors import ExperimentError
from kernels.persistent import MATRICES, Layers, decode_layers
from models import rope
from models.cache import KVCache
from models.config import DecoderConfig

_KEPT = ("rope_theta", "rope_scaling", "norm_epsilon")  # what the kernel takes beside the sizes


def steps(
    config: DecoderConfig,
    placement: emu.Placement,
    weights: dict[str, Any],
    cache: KVCache,
    hidden: jax.Array,
    *,
    interpret: Any = False,
) -> tuple[jax.Array, KVCache]:
    """As many `models.steps.layer_step`s of one sequence as there are hidden states, in one kernel.

    Args:
      config: of the plain Llama family.
      placement: of the layers in `vmem` and `hbm`.
      weights: with `layers`, float32 or bfloat16.
      cache: float32, of one sequence, with a free slot for each step.
      hidden: float32 [steps, width], what goes in at each step.
      interpret: as for `kernels.persistent.decode_layers`.

    Returns:
      float32 [steps, width], and the cache, so many tokens on.

    Raises:
      ExperimentError: a config, weights or a placement that the kernel is not for.
    """
    _check_config(config)
    _check_cache(cache)
    resident = resident_layers(placement, config.layers)
    layers = stacked(weights)
    keys, values = (
        jnp.concatenate(cast(tuple[jax.Array, ...], part)) for part in (cache.keys, cache.values)
    )
    positions = cache.position[:, None] + jnp.arange(hidden.shape[0])
    angles = rope.angles(config.rope, positions)[:, 0]
    out, keys, values = decode_layers(
        layers,
        keys,
        values,
        hidden,
        jnp.concatenate([angles, angles], axis=-1),
        cache.position,
        resident=resident,
        epsilon=config.norm_epsilon,
        interpret=interpret,
    )
    return out, cache.moved(
        tuple(layer[None] for layer in keys),
        tuple(layer[None] for layer in values),
        hidden.shape[0],
    )


def resident_layers(placement: emu.Placement, layers: int) -> int:
    """How many layers, the first ones, the placement has in VMEM; the others are in HBM.

    Raises ExperimentError where it is no such placement.
    """
    memories: list[str] = []
    for n in range(layers):
        here = {
            residency.memory
            for residency in placement.residencies
            if residency.leaf.path.startswith(f"layers/{n}/")
        }
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


def stacked(weights: dict[str, Any]) -> Layers:
    """The layers' weights, each kind as one array."""
    layers = [weights["layers"][n] for n in range(len(weights["layers"]))]
    where = {name: "attention" if name in "qkvo" else "mlp" for name in MATRICES}
    matrices = {
        name: jnp.stack([layer[block][name]["kernel"] for layer in layers])
        for name, block in where.items()
    }
    dtypes = {str(matrix.dtype) for matrix in matrices.values()}
    if not dtypes <= {"float32", "bfloat16"}:
        raise ExperimentError(
            f"the weights are {', '.join(sorted(dtypes))}: a TPU's kernel takes float32 or bfloat16"
        )
    norms = {
        name: jnp.stack([layer[name]["scale"] for layer in layers])
        for name in ("attention_norm", "mlp_norm")
    }
    return Layers(**matrices, **norms)


def _check_config(config: DecoderConfig) -> None:
    """Refuse what the kernel does not compute."""
    plain = {
        field.name
        for field in dataclasses.fields(DecoderConfig)
        if field.default is not dataclasses.MISSING and field.name not in _KEPT
    }
    defaults = {field.name: field.default for field in dataclasses.fields(DecoderConfig)}
    other = sorted(name for name in plain if getattr(config, name) != defaults[name])
    if other:
        raise ExperimentError(
            f"config: {', '.join(other)}: a TPU's kernel is for the plain Llama family, "
            "which leaves these as they are"
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

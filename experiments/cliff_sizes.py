"""The sizes of the sweep: models of the first layers, and thin ones of less than a layer.

A whole layer may already be too large for a cache. A thin layer is a layer with one of its
key-value heads, the query heads that share it and as large a part of the MLP: the weights' leading
rows and columns, so that the same function runs on less.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from experiments.errors import ExperimentError
from kernels import LargePages
from models.config import DecoderConfig
from models.shapes import shapes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """So many layers, whole or thin."""

    count: int
    part: float  # of a layer that each is, by heads: 1 where they are whole

    @property
    def layers(self) -> float:
        """How many whole layers' worth it is."""
        return self.count * self.part if self.part < 1 else self.count

    @property
    def name(self) -> str:
        """For a key: `3`, or `2 thin`."""
        return f"{self.count}{' thin' if self.part < 1 else ''}"


def ladder(layers: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, … and all: about √2 from one to the next."""
    steps = sorted({1, 2, 3} | {n << k for k in range(1, 12) for n in (2, 3)})
    return (*[n for n in steps if n < layers], layers)


def sizes(
    model: str, config: DecoderConfig, layers: Sequence[int], thin: Sequence[int]
) -> tuple[Size, ...]:
    """Every size, the thin ones first; `layers` () is the ladder.

    Thin sizes that are no less than one whole layer, or more layers than there are, are left out.
    Raises ExperimentError for layers that the model doesn't have.
    """
    for count in layers:
        if not 1 <= count <= config.layers:
            raise ExperimentError(f"{model} has 1 to {config.layers} layers, not {count}")
    for count in thin:
        if count < 1:
            raise ExperimentError(f"config.thin: a size has at least 1 thin layer, not {count}")
    less = [count for count in thin if count < config.kv_heads and count <= config.layers]
    return (
        *(Size(count=count, part=1 / config.kv_heads) for count in less),
        *(Size(count=count, part=1.0) for count in layers or ladder(config.layers)),
    )


def config_of(config: DecoderConfig, size: Size) -> DecoderConfig:
    """The config of a model of that size."""
    if size.part == 1:
        return dataclasses.replace(config, layers=size.count)
    return dataclasses.replace(
        config,
        layers=size.count,
        heads=config.heads // config.kv_heads,
        kv_heads=1,
        mlp_width=config.mlp_width // config.kv_heads,
    )


def weights_of(
    weights: dict[str, Any], config: DecoderConfig, dtype: str, size: Size
) -> dict[str, Any]:
    """The layers of a model of that size, from the weights of one with at least as many.

    `config` is the size's own (`config_of`).
    """
    part = {"layers": {i: weights["layers"][i] for i in range(size.count)}}
    if size.part == 1:
        return part
    wanted = {"layers": shapes(config, dtype)["layers"]}
    pages = LargePages()  # as the whole ones are held
    thin: dict[str, Any] = jax.tree.map(
        lambda leaf, like: pages.put(leaf[tuple(slice(n) for n in like.shape)]), part, wanted
    )
    return thin

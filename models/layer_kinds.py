"""What sets the layers of one decoder apart, and which of them can be scanned over.

Layers of one kind have weights of the same shapes and compute the same thing. A decoder's kinds
come in patterns (Gemma 3: five local layers, then a global one; DeepSeek-V3: three dense layers,
then routed ones), so that a scan over a pattern's repeats needs each kind's program only once.
"""

import dataclasses
from collections.abc import Sequence

from models.errors import ModelError
from models.rope_config import Rope


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerKind:
    """One kind of layer."""

    rope: Rope | None  # None: positions are not told to it
    window: int | None = None  # tokens that a token attends to, itself included; None: all
    chunked: bool = False  # the window does not slide: contexts are cut into chunks of that size
    routed: bool = False  # its MLP is a mixture of experts
    recurrent: bool = False  # it keeps a state by the delta rule instead of attending

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ModelError(f"config: a window must hold at least 1 token, not {self.window}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Layers of one kind at regular distances: `start, start + stride, …` below `stop`."""

    kind: LayerKind
    start: int
    stop: int
    stride: int

    @property
    def layers(self) -> range:
        """The layers' numbers."""
        return range(self.start, self.stop, self.stride)

    @property
    def name(self) -> str:
        """Their numbers as Python's slice: `3:61`, or `5:60:6`."""
        stride = "" if self.stride == 1 else f":{self.stride}"
        return f"{self.start}:{self.stop}{stride}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Neighbouring layers in a pattern that repeats: one group for each place in the pattern."""

    groups: tuple[Group, ...]
    repeats: int


def runs_of(kinds: Sequence[LayerKind]) -> tuple[Run, ...]:
    """Cut layers into runs, each with the pattern that repeats over the most layers."""
    runs, start = [], 0
    while start < len(kinds):
        period, repeats = _longest(kinds[start:])
        stop = start + period * repeats
        groups = tuple(
            Group(
                kind=kinds[start + place],
                start=start + place,
                stop=stop - period + place + 1,
                stride=period,
            )
            for place in range(period)
        )
        runs.append(Run(groups=groups, repeats=repeats))
        start = stop
    return tuple(runs)


def _longest(kinds: Sequence[LayerKind]) -> tuple[int, int]:
    """The shortest pattern that, repeated from the first layer on, covers the most layers."""
    best = (1, 1)
    for period in range(1, len(kinds) // 2 + 1):
        repeats = 1
        while kinds[repeats * period : (repeats + 1) * period] == kinds[:period]:
            repeats += 1
        if repeats > 1 and period * repeats > best[0] * best[1]:
            best = (period, repeats)
    return best

"""How long chips take to exchange data: latency per hop plus bytes over the link.

For a group of g chips, n bytes, h hops between the chips that are farthest apart, `hop` seconds a
hop and B bytes per second of one chip in one direction (R. Thakur, R. Rabenseifner, W. Gropp,
"Optimization of Collective Communication Operations in MPICH", 2005):

    all-reduce      the least of   one shot   h·hop + (g-1)·n/B
                                   two shots  2·h·hop + 2·(g-1)/g·n/B
    reduce-scatter, all-gather     h·hop + (g-1)/g·n/B
    all-to-all                     h·hop + (g-1)/g·n/B
    permute                        hop + n/B

Where the link says how long a small all-reduce was measured to take (8192 bytes, kernel included),
that is the least an all-reduce takes, and bytes above the 8192 are added at the link's rate. Where
large exchanges go by another algorithm (`Link.streamed_share`), the faster of the two is taken. A
ring of more steps is never faster than two shots here, and is left out. Weights that are laid out
over two dimensions of a torus (`Stack.lays_out_2d`) exchange 8·B·E ÷ √g of a layer's activations
where one dimension takes 2·B·E, with an inner width of four times E (R. Pope et al., arXiv
2211.05102, section 3.2.2): less by min(1, 4 ÷ √g). Not modelled: contention between groups, and
topologies that cannot give every pair of a group its share at once.
"""

import functools
import math
from typing import Any, NamedTuple

from emu.chips import Chip, Link
from emu.errors import EmuError
from emu.scalars import Scalars

_MEASURED_BYTES = 8192


def link_of(chip: Chip, chips: int = 2) -> Link:
    """The link by which so many chips reach each other: the first that joins enough of them."""
    for link in chip.links:
        if link.scope == "chips" and (link.nodes is None or link.nodes >= chips):
            return link
    links = [link for link in chip.links if link.scope == "chips"]
    if not links:
        raise EmuError(f"chip {chip.name!r} has no link to other chips: it works alone")
    most = max(links, key=lambda link: link.nodes or 0)
    raise EmuError(
        f"{chips} chips of {chip.name!r} exchange data, and its link {most.name!r} joins at most "
        f"{most.nodes}: take smaller groups (tensor=, expert=), or describe a link that joins more"
    )


def hops(link: Link, group: int) -> int:
    """Hops between the chips of a group that are farthest apart, closely packed."""
    return _hops(link.topology, link.ports, group)


@functools.cache
def _hops(topology: str, ports: int, group: int) -> int:
    if group <= 1:
        return 0
    side = math.ceil(group ** (1 / 3) - 1e-9) if topology == "torus-3d" else 0
    flat = math.ceil(math.sqrt(group) - 1e-9)
    return {
        "ring": group // 2,
        "mesh-2d": 2 * (flat - 1),
        "torus-2d": max(1, 2 * (flat // 2)),
        "torus-3d": max(1, 3 * (side // 2)),
        # A group has every chip wired to every other within it, and groups to each other.
        "dragonfly": 1 if group <= ports + 1 else 3,
    }.get(topology, 1)


class Way(NamedTuple):
    """How a group's ranks reach each other under some software; times in seconds."""

    group: int
    per_byte: Any  # of one rank
    hop: Any
    across: Any  # between the chips that are farthest apart
    reduced_share: float  # of a layer's activations that an all-reduce takes; see the module
    small_allreduce: Any | None  # of `_MEASURED_BYTES`, where measured
    streamed: tuple[Any, Any] | None  # of large all-reduces: to start, and for each byte


def way_of(
    chip: Chip,
    group: int,
    *,
    per_chip: int = 1,
    share: Any = 1.0,
    as_measured: bool = False,
    two_dimensional: bool = False,
) -> Way:
    """The way between the ranks of a group.

    per_chip: how many of the group's ranks are cores of one chip and share its link.
    share: of the link's bandwidth that the software reaches.
    as_measured: beside that, at most what exchanges were measured to reach.
    two_dimensional: whether weights are laid out over two dimensions of a torus.
    """
    chips = -(-group // per_chip)
    link = link_of(chip, chips)
    bandwidth, hop = link.bandwidth_bytes_per_s.value, link.latency_s.value
    streamed = None
    if as_measured and link.streamed_share is not None and link.streamed_start_s is not None:
        streamed_rate = bandwidth * link.streamed_share.value
        streamed = (link.streamed_start_s.value, per_chip / streamed_rate)
    if as_measured and link.achieved_share is not None:
        share = share * link.achieved_share.value
    measured = min([n for n in link.small_allreduce_s if n >= chips], default=None)
    return Way(
        group=group,
        per_byte=per_chip / (bandwidth * share),
        hop=hop,
        across=max(1, hops(link, chips)) * hop,
        reduced_share=min(1.0, 4.0 / math.sqrt(chips)) if two_dimensional else 1.0,
        small_allreduce=None if measured is None else link.small_allreduce_s[measured].value,
        streamed=streamed,
    )


def seconds(way: Way, kind: str, sent_bytes: Any, xp: Any = Scalars) -> Any:
    """Seconds of exchanges of one kind, of some bytes, which may be an array."""
    group, per_byte, hop, across, reduced_share, small, streamed = way
    if kind == "permute":
        return hop + sent_bytes * per_byte
    of_others = (group - 1) / group
    if kind != "all_reduce":
        return across + of_others * sent_bytes * per_byte
    sent_bytes = sent_bytes * reduced_share
    if small is not None:
        above = xp.maximum(sent_bytes - _MEASURED_BYTES, 0.0)
        taken = small + 2 * of_others * above * per_byte
    else:
        one_shot = across + (group - 1) * sent_bytes * per_byte
        taken = xp.minimum(one_shot, 2 * across + 2 * of_others * sent_bytes * per_byte)
    if streamed is None:
        return taken
    start, per_streamed_byte = streamed
    return xp.minimum(taken, start + 2 * of_others * sent_bytes * per_streamed_byte)

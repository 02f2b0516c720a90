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
from typing import Any

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


def seconds(
    chip: Chip,
    kind: str,
    group: int,
    sent_bytes: Any,
    xp: Any = Scalars,
    *,
    per_chip: int = 1,
    share: Any = 1.0,
    as_measured: bool = False,
    two_dimensional: bool = False,
) -> Any:
    """Seconds of exchanges of one kind in a group, of some bytes, which may be an array.

    per_chip: how many of the group's ranks are cores of one chip and share its link.
    share: of the link's bandwidth that the software reaches.
    as_measured: beside that, at most what exchanges were measured to reach.
    two_dimensional: whether weights are laid out over two dimensions of a torus.
    """
    chips = -(-group // per_chip)
    link = link_of(chip, chips)
    if as_measured and link.achieved_share is not None:
        share = share * link.achieved_share.value
    per_byte = per_chip / (link.bandwidth_bytes_per_s.value * share)
    hop = link.latency_s.value
    across = max(1, hops(link, chips)) * hop
    share_of_group = (group - 1) / group * sent_bytes * per_byte
    if kind == "permute":
        return hop + sent_bytes * per_byte
    if kind != "all_reduce":
        return across + share_of_group
    if two_dimensional:
        sent_bytes = sent_bytes * min(1.0, 4.0 / math.sqrt(chips))
        share_of_group = (group - 1) / group * sent_bytes * per_byte
    streamed = math.inf
    if as_measured and link.streamed_share is not None and link.streamed_start_s is not None:
        rate = link.bandwidth_bytes_per_s.value * link.streamed_share.value / per_chip
        start = link.streamed_start_s.value
        streamed = start + 2 * (group - 1) / group * sent_bytes / rate
    measured = [n for n in link.small_allreduce_s if n >= chips]
    if measured:
        least = link.small_allreduce_s[min(measured)].value
        above = xp.maximum(sent_bytes - _MEASURED_BYTES, 0.0) * 2 * (group - 1) / group
        return xp.minimum(least + above * per_byte, streamed)
    one_shot = across + (group - 1) * sent_bytes * per_byte
    return xp.minimum(xp.minimum(one_shot, 2 * across + 2 * share_of_group), streamed)

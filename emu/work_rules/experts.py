"""How many distinct experts a step is expected to touch.

A router picks k of E experts for each of B tokens. With uniform routing a given expert is missed by
all of them with probability (1 - k/E)^B, so that E·(1 - (1 - k/E)^B) distinct ones are read.
"""

from fractions import Fraction

from emu.axes import Ids
from emu.interpreter import Site
from emu.values import Count, Picked, Routing, Source, Stored, whole
from emu.work import Routed

_EXACT_TOKENS = 512  # beyond, the power is taken in floating point


def distinct_experts(held: int, routing: Routing, choices: Count) -> Count:
    """Expected distinct experts among `held` ones, when tokens make `choices` choices in all.

    `held` may be fewer than the router's experts: a shard's part of them.
    """
    tokens = Fraction(choices) / Fraction(routing.chosen)
    missed = 1 - min(Fraction(1), Fraction(routing.chosen) / routing.experts)
    if tokens.denominator == 1 and tokens <= _EXACT_TOKENS:
        share = 1 - missed ** int(tokens)
    else:
        share = 1 - Fraction(float(missed) ** float(tokens))
    return whole(min(Fraction(held) * share, Fraction(held)))


def picked_by(site: Site, routing: Routing, choices: int, axes: Ids) -> Picked:
    """What a router picked with so many choices in all, along an axis of experts, which is the one
    that its scores lie along.
    """
    if routing.axes and axes:
        site.tape.factors.unify(routing.axes, axes)
    chosen = -(-routing.chosen // 1)
    tokens = -(-choices // chosen)
    return Picked(routed=Routed(experts=routing.experts, chosen=chosen, tokens=tokens), axes=axes)


def hinted_experts(site: Site, source: Source) -> Count | None:
    """The number of distinct experts that the caller gave for a leaf, if any."""
    tensor = source.looked_into
    if not isinstance(tensor, Stored):
        return None
    number = site.tape.hints.at("experts", tensor.leaf.path)
    return None if number is None else Fraction(number).limit_denominator(1_000_000)

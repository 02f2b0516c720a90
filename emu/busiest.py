"""How much of a mixture of experts falls to its busiest rank.

N experts lie on G ranks, m = N/G on each; every token goes to k distinct experts, any k equally
likely, and tokens choose independently. A step waits for the rank with the most to do, which has
more than a G-th of it:

- Distinct experts that must be read. How many are touched in all, s, is a Markov chain over tokens:
  from s the next token adds k - j with probability C(s, j) C(N-s, k-j) / C(N, k). Given s, every
  set of s experts is equally likely, so that P(no rank has more than x of them) is the coefficient
  of z^s in (sum over i <= x of C(m, i) z^i)^G, over C(N, s). Both exact.
- Pairs of a token and an expert that must be computed. One rank's count is a sum over tokens of
  hypergeometric counts. Of two ranks one has what the other has not, so that their maximum is
  exact; of more it is taken as if ranks were independent, and as no less than the distinct experts
  there. Counts are negatively associated (K. Joag-Dev, F. Proschan, 1983), so that this errs to the
  low side: by 6 % for 4 tokens on 8 ranks, by less for more. For one token, pairs are distinct
  experts, and exact.
"""

import functools
import math

import numpy as np

from emu.errors import EmuError
from emu.windows import Array


def expected_distinct(experts: int, chosen: int, tokens: int) -> float:
    """Experts that at least one token goes to, expected."""
    if chosen >= experts:
        return float(experts if tokens else 0)
    return experts * -math.expm1(tokens * math.log1p(-chosen / experts))


@functools.lru_cache(maxsize=1024)
def busiest_distinct(experts: int, chosen: int, tokens: int, groups: int) -> float:
    """Distinct experts on the rank that has the most of them, expected. Exact."""
    _check(experts, groups)
    if groups == 1:
        return expected_distinct(experts, chosen, tokens)
    law = _touched(experts, chosen, tokens)
    most = _most_by_touched(experts, groups)
    return float(law @ most)


@functools.lru_cache(maxsize=1024)
def busiest_pairs(experts: int, chosen: int, tokens: int, groups: int) -> float:
    """(token, expert) pairs on the rank that has the most of them, expected."""
    _check(experts, groups)
    if groups == 1 or tokens == 0:
        return float(tokens * chosen)
    if tokens == 1:
        return busiest_distinct(experts, chosen, 1, groups)
    each = experts // groups
    one = np.array(
        [
            math.comb(each, i) * math.comb(experts - each, chosen - i) / math.comb(experts, chosen)
            for i in range(min(each, chosen) + 1)
        ]
    )
    law = _power(one, tokens)
    if groups == 2:  # what one does not have, the other has
        counts = np.arange(len(law))
        return float(law @ np.maximum(counts, tokens * chosen - counts))
    below = np.minimum(np.cumsum(law), 1.0)
    most = float(np.sum(1.0 - below**groups))
    least = max(busiest_distinct(experts, chosen, tokens, groups), tokens * chosen / groups)
    return min(max(most, least), float(tokens * min(each, chosen)))


def _check(experts: int, groups: int) -> None:
    if experts % groups:
        raise EmuError(
            f"{experts} experts over {groups} groups of ranks: not divisible; take an expert "
            f"degree that divides {experts}"
        )


def _touched(experts: int, chosen: int, tokens: int) -> Array:
    """The law of how many distinct experts all tokens touch: probabilities [experts + 1]."""
    counts = np.arange(experts + 1)
    step: Array = np.zeros((experts + 1, experts + 1))
    ways = math.comb(experts, chosen)
    for s in range(experts + 1):
        for new in range(max(0, chosen - s), min(chosen, experts - s) + 1):
            step[s, s + new] = math.comb(s, chosen - new) * math.comb(experts - s, new) / ways
    law: Array = (counts == 0).astype(np.float64)
    power: Array = step
    while tokens:  # by squaring: a prefill has thousands of tokens
        if tokens & 1:
            law = law @ power
        tokens >>= 1
        if tokens:
            power = power @ power
    return law


@functools.lru_cache(maxsize=256)
def _most_by_touched(experts: int, groups: int) -> Array:
    """The most that any group has, expected, by how many experts are touched: [experts + 1].

    Polynomials are multiplied as whole numbers whose digits are the coefficients: exact, and fast.
    """
    each = experts // groups
    digit = experts + 8  # bits: no coefficient exceeds 2**experts
    mask = (1 << digit) - 1
    ways = [math.comb(experts, s) for s in range(experts + 1)]
    most = np.zeros(experts + 1)
    for x in range(each):
        one = sum(math.comb(each, i) << (digit * i) for i in range(x + 1))
        all_groups = one**groups
        for s in range(experts + 1):
            most[s] += 1.0 - ((all_groups >> (digit * s)) & mask) / ways[s]
    return most


def _power(law: Array, times: int) -> Array:
    """The law of the sum of `times` independent draws."""
    length = (len(law) - 1) * times + 1
    size = 1 << (length - 1).bit_length()
    total = np.fft.irfft(np.fft.rfft(law, size) ** times, size)[:length]
    positive: Array = np.maximum(total, 0.0)
    return positive

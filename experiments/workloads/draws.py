"""Random numbers by address: the same place in the same stream has the same number.

A number is a hash of the seed, the stream's name and whole numbers that say whose it is (the
session, its request, the step of that): SplitMix64 (Steele, Lea and Flood 2014), once for each. So
a session that has one request more changes no number of anybody else, and two workloads that differ
in one assumption are compared with the same random draws, which a generator that is read from
beginning to end does not give.
"""

import zlib

import numpy as np
from scipy.special import ndtri

from experiments.workloads.traffic import Floats, Ints

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniform(seed: int, stream: str, *address: Ints) -> Floats:
    """Numbers between 0 and 1, neither of them included; one for each entry of the addresses."""
    name = np.uint64(zlib.crc32(stream.encode()))
    found = _mixed(np.array([seed], np.uint64) * _GOLDEN + name)
    for whose in address:
        found = _mixed(found + (whose.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (np.asarray(found >> np.uint64(11), np.float64) + 0.5) * 2.0**-53


def normal(seed: int, stream: str, *address: Ints) -> Floats:
    """Numbers of deviation 1 around 0, alike."""
    return np.asarray(ndtri(uniform(seed, stream, *address)), np.float64)


def _mixed(
    x: np.ndarray[tuple[int, ...], np.dtype[np.uint64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))

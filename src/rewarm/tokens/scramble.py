"""Random order without state: hashes and permutations that are pure functions of a key.

numpy's generators may change their streams between versions, and an order that is drawn has to be stored or drawn again to resume. Here
position k of an epoch is a formula, the same in any process, on any machine, in any version.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

U64 = npt.NDArray[np.uint64]

_ROUNDS = 3
"""Double rounds, so six Feistel rounds."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def key_of(*parts: Any) -> np.uint64:
    """A 64-bit key out of numbers and texts (xxh3 of their JSON-like listing)."""
    return np.uint64(xxhash.xxh3_64_intdigest("\x1f".join(map(repr, parts)).encode()))


def mix(x: U64) -> U64:
    """The finaliser of splitmix64: a bijection of 64 bits in which every input bit moves every output bit (doi 10.1145/2660193.2660195)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def shuffled(count: int, key: np.uint64) -> npt.NDArray[np.int64]:
    """A random order of range(count), by sorting hashes: for lists that are in memory anyway."""
    return np.argsort(mix(np.arange(count, dtype=np.uint64) * _GOLDEN + key), kind="stable")


def permute(index: U64, size: int, key: U64) -> U64:
    """Where position `index` of a random order of range(size) lies; one key for each index, same shape.

    A Feistel network over pairs (left, right) with left < a, right < b and a*b just above `size`, each round adding a hash of one half to
    the other; a result beyond `size` is sent through again until it falls inside (cycle walking, Black and Rogaway 2002). Each step is a
    bijection, so for one key every row comes once. Less than a/size of the indices walk at all.
    """
    a = isqrt(size - 1) + 1
    b = -(-size // a)
    out = _feistel(index, key, a, b)
    outside = np.flatnonzero(out >= size)
    while len(outside):
        out[outside] = _feistel(out[outside], key[outside], a, b)
        outside = outside[out[outside] >= size]
    return out


def _feistel(index: U64, key: U64, a: int, b: int) -> U64:
    wide, high = np.uint64(b), np.uint64(a)
    left, right = np.divmod(index, wide)
    for _ in range(_ROUNDS):
        key = key + _GOLDEN
        left = (left + (mix(right + key) >> np.uint64(32))) % high
        key = key + _GOLDEN
        right = (right + (mix(left + key) >> np.uint64(32))) % wide
    return left * wide + right

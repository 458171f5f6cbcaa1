"""Which source a row comes from: shares that every prefix keeps, by arithmetic instead of by chance.

A binary tree over the sources. Of a node's first n rows, floor(n p) go left and the others right, so after any number of rows a branch is
within one row of its share, and a source within as many rows as it lies deep. p is a 32-bit fixed-point number: exact, the same on every
machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]

_ONE = 1 << 32


class Branch(NamedTuple):
    """Of the first n rows, n * left_share // 2^32 go left."""

    left_share: int
    left: Node
    right: Node


Node = Branch | int
"""A branch, or the number of a source."""


def plant(row_weights: Sequence[float], roles: Sequence[str]) -> Node:
    """The tree over sources with these weights of rows: at the root replay left and new right, each side halved by number of sources."""
    replay = [i for i, role in enumerate(roles) if role == "replay" and row_weights[i] > 0]
    new = [i for i, role in enumerate(roles) if role != "replay" and row_weights[i] > 0]
    return _branch(replay, new, row_weights) if replay and new else _halve(replay or new, row_weights)


def _halve(sources: list[int], weights: Sequence[float]) -> Node:
    if len(sources) == 1:
        return sources[0]
    middle = len(sources) // 2
    return _branch(sources[:middle], sources[middle:], weights)


def _branch(left: list[int], right: list[int], weights: Sequence[float]) -> Node:
    a, b = sum(weights[i] for i in left), sum(weights[i] for i in right)
    return Branch(round(a / (a + b) * _ONE), _halve(left, weights), _halve(right, weights))


def descend(node: Node, n: I64, at: I64, source: npt.NDArray[np.int32], k: I64) -> None:
    """Writes source and number within the source of the node's rows n to source[at] and k[at]."""
    if isinstance(node, int):
        source[at], k[at] = node, n
        return
    share = np.uint64(node.left_share)
    before = ((n.astype(np.uint64) * share) >> np.uint64(32)).astype(np.int64)
    after = (((n.astype(np.uint64) + np.uint64(1)) * share) >> np.uint64(32)).astype(np.int64)
    left = after > before
    descend(node.left, before[left], at[left], source, k)
    descend(node.right, (n - before)[~left], at[~left], source, k)


def count(node: Node, n: int, sources: int) -> I64:
    """[sources]: rows of each source among the node's first n."""
    if isinstance(node, int):
        return np.bincount([node], minlength=sources).astype(np.int64) * n
    left = n * node.left_share // _ONE
    return count(node.left, left, sources) + count(node.right, n - left, sources)

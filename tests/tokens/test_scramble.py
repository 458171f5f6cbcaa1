"""Random order as a formula: every row once, another order for another key, the same for ever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm.tokens.scramble import key_of, permute, shuffled


def order(size: int, key: np.uint64) -> np.ndarray:
    return permute(np.arange(size, dtype=np.uint64), size, np.full(size, key))


@settings(max_examples=150, deadline=None)
@given(size=st.integers(1, 700), seed=st.integers(0, 2**63 - 1))
def test_every_row_comes_exactly_once_an_epoch(size, seed):
    """Squares, primes, powers of two and their neighbours: the network's domain is never exactly the size."""
    assert np.array_equal(np.sort(order(size, key_of(seed))), np.arange(size))


def test_a_million_rows_come_exactly_once():
    assert np.bincount(order(1_000_003, key_of("x")).astype(np.int64), minlength=1_000_003).max() == 1


def test_other_keys_give_other_orders_that_agree_as_often_as_chance():
    """Two random orders of n have one fixed point in common on average; a weak network would show more."""
    size = 5_000
    same = [int((order(size, key_of(0)) == order(size, key_of(other))).sum()) for other in range(1, 60)]
    assert 0.5 < np.mean(same) < 1.6
    neighbours = np.abs(np.diff(order(size, key_of(0)).astype(np.int64))) == 1
    assert neighbours.sum() < 12, "neighbours stay neighbours about twice in a random order"


def test_each_index_may_have_a_key_of_its_own():
    """The loader asks for rows of several epochs in one call."""
    keys = np.array([key_of(0), key_of(1), key_of(0), key_of(1)])
    mixed = permute(np.array([3, 3, 5, 5], dtype=np.uint64), 11, keys)
    assert mixed.tolist() == [order(11, key_of(0))[3], order(11, key_of(1))[3], order(11, key_of(0))[5], order(11, key_of(1))[5]]


def test_the_order_is_part_of_the_format():
    """A run resumed with a later version must read the same rows: these numbers never change."""
    assert order(10, key_of("rows", 0, "law")).tolist() == GOLDEN_ORDER
    assert shuffled(8, key_of("pack", 0, "law/00000")).tolist() == GOLDEN_SHUFFLE


GOLDEN_ORDER = [1, 8, 3, 0, 4, 7, 6, 9, 2, 5]
GOLDEN_SHUFFLE = [4, 1, 6, 3, 2, 5, 7, 0]


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_shuffled_is_an_order(count):
    assert sorted(shuffled(count, key_of(7)).tolist()) == list(range(count))


def test_keys_tell_their_parts_apart():
    assert len({int(key_of(*parts)) for parts in [(1, 2), (12,), ("1", 2), (1, "2"), ("1\x1f2",), (2, 1)]}) == 6

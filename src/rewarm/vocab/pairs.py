"""The state of merging: words as one linked row of places, and pairs queued by an upper bound of their count.

Apart from the loop in `merge.py` that they serve, because each is a data structure with one promise: `Line` finds and joins all places of a
pair without looking at any other place, `Queue` hands out the pair with the largest bound, ties by smaller ids.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AT_ONCE = 1 << 62
"""Bounds from here on mark pairs that are merges already and are joined before all others."""
_NONE = -1
_DEAD = -2


@dataclass(frozen=True)
class Words:
    """n words of two tokens and more, with their counts."""

    flat: NDArray[np.int32]
    """Token ids of all words, one after another."""
    lengths: NDArray[np.int32]
    """[n] tokens of each word."""
    target: NDArray[np.int64]
    """[n] weighted occurrences in the target text."""
    protected: NDArray[np.int64]
    """[n] occurrences in the protected text."""
    watch: NDArray[np.int64]
    """[n, W] occurrences in W texts that decide nothing; how many tokens each merge saves there is reported."""


def pair_key(left: int, right: int) -> int:
    return left << 32 | right


class Line:
    """All words in one row of places, linked so that joined tokens drop out; the places of each token are listed lazily."""

    def __init__(self, words: Words) -> None:
        n, lengths = len(words.lengths), words.lengths.astype(np.int64)
        size = int(lengths.sum()) + n + 1
        word = np.repeat(np.arange(n, dtype=np.int32), lengths)
        place = np.arange(len(words.flat), dtype=np.int64) + word + 1
        self.token = np.full(size, _NONE, dtype=np.int32)
        self.token[place] = words.flat
        self.word = np.zeros(size, dtype=np.int32)
        self.word[place] = word
        self.before = np.arange(-1, size - 1, dtype=np.int32)
        self.after = np.arange(1, size + 1, dtype=np.int32)
        self.words = words
        order = np.argsort(words.flat, kind="stable")
        tokens, starts = np.unique(words.flat[order], return_index=True)
        sorted_places = place[order].astype(np.int32)
        self._places = dict(zip(tokens.tolist(), np.split(sorted_places, starts[1:])))
        self._all = place

    def pair_counts(self, weight: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(keys, counts) of all adjacent pairs. weight: [n] occurrences of each word."""
        left = self._all[self.token[self.after[self._all]] >= 0] if len(self._all) else self._all
        keys = self.token[left].astype(np.int64) << 32 | self.token[self.after[left]]
        return _sums(keys, weight[self.word[left]])

    def live(self, token: int) -> NDArray[np.int32]:
        """Places that hold this token now; the stored list is cleaned once less than half of it is alive."""
        places = self._places.get(token)
        if places is None:
            return np.zeros(0, dtype=np.int32)
        alive = places[self.token[places] == token]
        if 2 * len(alive) < len(places):
            self._places[token] = alive
        return alive

    def places(self, left: int, right: int) -> NDArray[np.int32]:
        """Places of `left` that `right` follows, found from the rarer of the two."""
        none = np.zeros(0, dtype=np.int32)
        if len(self._places.get(left, none)) <= len(self._places.get(right, none)):
            here = self.live(left)
            return here[self.token[self.after[here]] == right]
        there = self.live(right)
        here = self.before[there]
        return here[self.token[here] == left]

    def count_at(self, places: NDArray[np.int32], weight: NDArray[np.int64]) -> int:
        """How often what stands at these places occurs, with these occurrences of the words."""
        return int(weight[self.word[places]].sum())

    def watched_at(self, places: NDArray[np.int32]) -> NDArray[np.int64]:
        return self.words.watch[self.word[places]].sum(axis=0)

    def join(self, places: NDArray[np.int32], left: int, right: int, result: int) -> NDArray[np.int32]:
        """Joins left and right at these places; in a run of one token the 1st and 2nd, the 3rd and 4th. Returns the places used."""
        if left == right and len(places):
            places = np.sort(places)
            number = np.arange(len(places))
            starts = np.concatenate([[True], self.after[places[:-1]] != places[1:]])
            places = places[(number - np.maximum.accumulate(np.where(starts, number, 0))) % 2 == 0]
        gone = self.after[places]
        follow = self.after[gone]
        self.token[places] = result
        self.token[gone] = _DEAD
        self.after[places] = follow
        self.before[follow] = places
        old = self._places.get(result)
        self._places[result] = places if old is None else np.concatenate([old, places])
        return places

    def counts_around(
        self, places: NDArray[np.int32], token: int, weights: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(keys, counts) of the pairs that this token forms at these places; (token, token) counts once."""
        weight = weights[self.word[places]]
        left = self.token[self.before[places]].astype(np.int64)
        right = self.token[self.after[places]].astype(np.int64)
        has_left, has_right = (left >= 0) & (left != token), right >= 0
        keys = np.concatenate([left[has_left] << 32 | token, np.int64(token) << 32 | right[has_right]])
        return _sums(keys, np.concatenate([weight[has_left], weight[has_right]]))


def _sums(keys: NDArray[np.int64], weight: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Unique keys and the exact whole-number sum of their weights."""
    if not len(keys):
        return keys, weight
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[starts], np.add.reduceat(weight[order], starts)


class Queue:
    """Pairs by an upper bound of their count. Pairs below `floor` wait in arrays, so that the many rare ones cost no Python object."""

    def __init__(self, known: dict[int, int], min_count: int) -> None:
        self.known = known
        self.min_count = max(1, min_count)
        self.bound: dict[int, int] = {}
        self.heap: list[tuple[int, int]] = []
        self.banned: set[int] = set()
        self.floor = self.min_count
        self.wait_keys = np.zeros(0, dtype=np.int64)
        self.wait_bounds = np.zeros(0, dtype=np.int64)
        self.late: list[tuple[int, int]] = []

    def start(self, keys: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        if self.known and len(keys):
            for key in keys[np.isin(keys, np.fromiter(self.known, dtype=np.int64, count=len(self.known)))].tolist():
                self._push(key, self._urgency(key))
        enough = counts >= self.min_count
        self.wait_keys, self.wait_bounds = keys[enough], counts[enough]
        self.floor = AT_ONCE

    def urgent(self) -> bool:
        """Whether a pair waits that is a merge already."""
        while self.heap and -self.heap[0][0] >= AT_ONCE:
            if self.bound.get(self.heap[0][1]) == -self.heap[0][0]:
                return True
            heapq.heappop(self.heap)
        return False

    def pop(self) -> tuple[int, int, int] | None:
        """(bound, left, right) of the pair with the largest bound, ties by smaller ids; None if nothing admissible is left."""
        while True:
            if not self.heap or -self.heap[0][0] < self.floor:
                if not self._refill() and not self.heap:
                    return None
                continue
            count, key = heapq.heappop(self.heap)
            if self.bound.get(key) == -count:
                return -count, key >> 32, key & 0xFFFFFFFF

    def _refill(self) -> bool:
        """Lowers the floor and moves the pairs that reach it into the heap; False once nothing waits (the floor is then the minimum)."""
        if self.late:
            late = np.array(self.late, dtype=np.int64).reshape(-1, 2)
            self.wait_keys = np.concatenate([self.wait_keys, late[:, 0]])
            self.wait_bounds = np.concatenate([self.wait_bounds, late[:, 1]])
            self.late = []
        if not len(self.wait_keys):
            self.floor = self.min_count
            return False
        best = int(self.wait_bounds.max())
        if self.heap:
            best = max(best, min(-self.heap[0][0], self.floor - 1))
        self.floor = max(self.min_count, best // 8)
        moves = self.wait_bounds >= self.floor
        for key, count in zip(self.wait_keys[moves].tolist(), self.wait_bounds[moves].tolist()):
            if key not in self.banned and key not in self.known and count > self.bound.get(key, 0):
                self._push(key, count)
        self.wait_keys, self.wait_bounds = self.wait_keys[~moves], self.wait_bounds[~moves]
        return True

    def _push(self, key: int, bound: int) -> None:
        self.bound[key] = bound
        heapq.heappush(self.heap, (-bound, key))

    def _urgency(self, key: int) -> int:
        return 2 * AT_ONCE - 1 - self.known[key]

    def urge(self, key: int) -> None:
        """A pair that has just become a merge comes up before all others."""
        self._push(key, self._urgency(key))

    def drop(self, left: int, right: int) -> None:
        self.bound.pop(pair_key(left, right), None)

    def ban(self, left: int, right: int) -> None:
        self.drop(left, right)
        self.banned.add(pair_key(left, right))

    def lower(self, left: int, right: int, count: int) -> None:
        """Sets a bound that was too high to the true count."""
        self.drop(left, right)
        if count >= self.min_count:
            self._push(pair_key(left, right), count)

    def raise_bounds(self, keys: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Takes in the true counts of the pairs around a token that was just made."""
        for key, count in zip(keys.tolist(), counts.tolist()):
            if key in self.known:
                self._push(key, self._urgency(key))
                continue
            if count < self.min_count or key in self.banned:
                continue
            old = self.bound.get(key)
            if old is not None:
                if count > old:
                    self._push(key, count)
            elif count >= self.floor:
                self._push(key, count)
            else:
                self.late.append((key, count))

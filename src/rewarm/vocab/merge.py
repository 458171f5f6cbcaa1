"""Byte-pair encoding that goes on where the old merges end: the heart of the vocabulary extension.

`continue_merges` takes words as old tokens and joins, again and again, the adjacent pair that stands most often in the target text, unless
a rule or the guard refuses its result. It knows no tokenizer: ids, counts and the bytes behind ids are all it sees. New merges rank after
every old one, so text is first cut exactly as before and new tokens only glue whole old ones together.

`continue_merges_reference` is the definition: a plain loop that counts anew for every merge. The fast one keeps an upper bound of each
pair's count in a heap and repairs it only when it comes up, which is exact because counts only fall, except around the token just made:
a bound that comes up and equals the true count is the largest of all. Its work is a few numpy gathers over the places of the rarer half.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rewarm.vocab.rules import Guard, Refusal

_AT_ONCE = 1 << 62
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


@dataclass(frozen=True)
class Grammar:
    """What the tokenizer already knows: bytes of its ids, its merges, and the first free id."""

    surfaces: Sequence[bytes | None]
    """Bytes of each ordinary id; None for control tokens and ids that nothing has."""
    first_id: int
    known: dict[int, int]
    """`left << 32 | right` -> rank of the old merges."""


@dataclass(frozen=True)
class Merges:
    """The new merges in order. M >= K of them, as some lead to a token that is there already and need no new id."""

    left: NDArray[np.int32]
    right: NDArray[np.int32]
    id: NDArray[np.int32]
    """[M] id of the result; new ids count up from the grammar's first."""
    count: NDArray[np.int64]
    """[M] weighted target occurrences of the pair when it was merged."""
    saved: NDArray[np.int64]
    """[M, W] tokens saved in each watched text."""
    first_id: int
    banned: dict[str, int]
    """How many pairs each rule, or the guard, refused."""

    @property
    def new(self) -> int:
        """K, the number of new ids."""
        return int(self.id.max(initial=self.first_id - 1)) - self.first_id + 1

    def cut(self, k: int) -> Merges:
        """The extension of size k: the same as if it had been asked for, since merges are appended in order."""
        if k >= self.new:
            return self
        m = int(np.argmax(self.id == self.first_id + k - 1)) + 1 if k else 0
        return Merges(self.left[:m], self.right[:m], self.id[:m], self.count[:m], self.saved[:m], self.first_id, self.banned)


def pair_key(left: int, right: int) -> int:
    return left << 32 | right


class _Log:
    """Collects merges; shared by the reference and the fast loop so that they differ in nothing but the search."""

    def __init__(self, grammar: Grammar, width: int) -> None:
        self.surface = {i: s for i, s in enumerate(grammar.surfaces) if s is not None}
        self.ids = {s: i for i, s in reversed(self.surface.items())}
        self.known = dict(grammar.known)
        self.rank = max(self.known.values(), default=-1) + 1
        self.first_id = self.next_id = grammar.first_id
        self.banned: Counter[str] = Counter()
        self.rows: list[tuple[int, int, int, int]] = []
        self.saved: list[NDArray[np.int64]] = []
        self.width = width

    @property
    def made(self) -> int:
        return self.next_id - self.first_id

    def refuse(self, left: int, right: int, target: int, protected: int, refusal: Refusal, guard: Guard) -> bool:
        a, b = self.surface.get(left), self.surface.get(right)
        reason = "control token" if a is None or b is None else refusal(a + b)
        if reason is None and guard.refuses(target, protected):
            reason = "guard"
        if reason is not None:
            self.banned[reason] += 1
        return reason is not None

    def join(self, left: int, right: int, target: int) -> tuple[int, bool]:
        """Records the merge; returns the id of its result and whether that id is new."""
        whole = self.surface[left] + self.surface[right]
        found = self.ids.get(whole)
        result = self.next_id if found is None else found
        if found is None:
            self.next_id += 1
            self.surface[result] = whole
            self.ids[whole] = result
        self.known[pair_key(left, right)] = self.rank
        self.rank += 1
        self.rows.append((left, right, result, target))
        self.saved.append(np.zeros(self.width, dtype=np.int64))
        return result, found is None

    def known_result(self, left: int, right: int) -> int:
        return self.ids[self.surface[left] + self.surface[right]]

    def save(self, tokens: NDArray[np.int64]) -> None:
        if self.saved:
            self.saved[-1] += tokens

    def merges(self) -> Merges:
        table = np.array(self.rows, dtype=np.int64).reshape(-1, 4)
        left, right, result = (np.ascontiguousarray(table[:, i], dtype=np.int32) for i in range(3))
        saved = np.stack(self.saved) if self.saved else np.zeros((0, self.width), dtype=np.int64)
        return Merges(left, right, result, table[:, 3].copy(), saved, self.first_id, dict(sorted(self.banned.items())))


def continue_merges_reference(words: Words, grammar: Grammar, k: int, refusal: Refusal, guard: Guard, min_count: int = 2) -> Merges:
    """At most k new ids, by definition: count all pairs, take the commonest (ties: smaller ids), join, begin again.

    A pair that is a merge already (it can arise when a merge leads to an old token) is joined at once, as the encoder would.
    """
    log = _Log(grammar, words.watch.shape[1])
    ends = np.cumsum(words.lengths)
    texts = [words.flat[e - n : e].tolist() for e, n in zip(ends, words.lengths)]
    banned: set[tuple[int, int]] = set()
    while True:
        target: Counter[tuple[int, int]] = Counter()
        protected: Counter[tuple[int, int]] = Counter()
        for word, text in enumerate(texts):
            for pair in pairwise(text):
                target[pair] += int(words.target[word])
                protected[pair] += int(words.protected[word])
        ready = [pair for pair in target if pair_key(*pair) in log.known]
        if ready:
            pair = min(ready, key=lambda p: log.known[pair_key(*p)])
            result = log.known_result(*pair)
        else:
            open_pairs = [(-n, pair) for pair, n in target.items() if n >= min_count and pair not in banned]
            if log.made >= k or not open_pairs:
                return log.merges()
            pair = min(open_pairs)[1]
            if log.refuse(*pair, target[pair], protected[pair], refusal, guard):
                banned.add(pair)
                continue
            result, _ = log.join(*pair, target[pair])
        for word, text in enumerate(texts):
            joined: list[int] = []
            i = 0
            while i < len(text):
                if tuple(text[i : i + 2]) == pair:
                    joined.append(result)
                    log.save(words.watch[word])
                    i += 2
                else:
                    joined.append(text[i])
                    i += 1
            texts[word] = joined


def continue_merges(words: Words, grammar: Grammar, k: int, refusal: Refusal, guard: Guard, min_count: int = 2) -> Merges:
    """At most k new ids: the same merges as `continue_merges_reference`, in the same order.

    min_count: least weighted count of a pair. Fewer than k come back if no admissible pair is left.
    """
    log = _Log(grammar, words.watch.shape[1])
    line = _Line(words)
    queue = _Queue(log.known, min_count)
    queue.start(*line.pair_counts())
    while log.made < k or queue.urgent():
        entry = queue.pop()
        if entry is None:
            break
        bound, left, right = entry
        at_once = bound >= _AT_ONCE
        if not at_once and log.made >= k:
            break
        places = line.places(left, right)
        target = line.target_at(places)
        if at_once:
            queue.drop(left, right)
            if not len(places):
                continue
            result, is_new = log.known_result(left, right), False
        else:
            if target < bound:
                queue.lower(left, right, target)
                continue
            if log.refuse(left, right, target, line.protected_at(places), refusal, guard):
                queue.ban(left, right)
                continue
            queue.drop(left, right)
            result, is_new = log.join(left, right, target)
        taken = line.join(places, left, right, result)
        log.save(line.watched_at(taken))
        queue.raise_bounds(*line.counts_around(taken if is_new else line.live(result), result))
    return log.merges()


class _Line:
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

    def pair_counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(keys, weighted target counts) of all adjacent pairs."""
        left = self._all[self.token[self.after[self._all]] >= 0] if len(self._all) else self._all
        keys = self.token[left].astype(np.int64) << 32 | self.token[self.after[left]]
        return _sums(keys, self.words.target[self.word[left]])

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

    def target_at(self, places: NDArray[np.int32]) -> int:
        return int(self.words.target[self.word[places]].sum())

    def protected_at(self, places: NDArray[np.int32]) -> int:
        return int(self.words.protected[self.word[places]].sum())

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

    def counts_around(self, places: NDArray[np.int32], token: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(keys, weighted target counts) of the pairs that this token forms at these places; (token, token) counts once."""
        weight = self.words.target[self.word[places]]
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


class _Queue:
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
        self.floor = _AT_ONCE

    def urgent(self) -> bool:
        """Whether a pair waits that is a merge already."""
        return bool(self.heap) and -self.heap[0][0] >= _AT_ONCE

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
        return 2 * _AT_ONCE - 1 - self.known[key]

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

"""Byte-pair encoding that goes on where the old merges end: the heart of the vocabulary extension.

`continue_merges` takes words as old tokens and joins, again and again, the adjacent pair that stands most often in the target text, unless
a rule or the guard refuses its result. It knows no tokenizer: ids, counts and the bytes behind ids are all it sees. New merges rank after
every old one, so text is first cut exactly as before and new tokens only glue whole old ones together.

`continue_merges_reference` is the definition: a plain loop that counts anew for every merge. The fast one keeps an upper bound of each
pair's count in a heap and repairs it only when it comes up, which is exact because counts only fall, except around the token just made:
a bound that comes up and equals the true count is the largest of all. Its work is a few numpy gathers over the places of the rarer half.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rewarm.vocab.pairs import AT_ONCE, Line, Queue, Words, pair_key
from rewarm.vocab.rules import Guard, Refusal


@dataclass(frozen=True)
class Grammar:
    """What the tokenizer already knows: bytes of its ids, its merges, and the first free id."""

    surfaces: Sequence[bytes | None]
    """Bytes of each ordinary id; None for control tokens and ids that nothing has."""
    first_id: int
    known: dict[int, int]
    """`left << 32 | right` -> rank of the old merges."""
    every_split: bool = False
    """SentencePiece has no list of merges: any two neighbours whose whole is a piece are joined, whichever pair the piece came from."""


@dataclass(frozen=True)
class Fair:
    """Merging that serves, with each merge, the language whose lines of parallel text are the longest by then (fair-max, arXiv 2508.04796).

    Its pair is the commonest in that language's own text, guarded by that text's own rates. A language without an admissible pair is out.
    """

    counts: NDArray[np.int64]
    """[n, L] occurrences of each word in each language's text."""
    guards: tuple[Guard, ...]
    """One a language."""
    columns: tuple[int, ...]
    """Columns of `Words.watch` that hold each language's parallel text; the texts have equally many lines."""
    tokens: tuple[int, ...]
    """Tokens of each parallel text before merging."""


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
    refused: dict[str, NDArray[np.int32]]
    """Rule, or `guard` -> for each pair that it refused, how many merges had been made by then."""

    @property
    def new(self) -> int:
        """K, the number of new ids."""
        return int(self.id.max(initial=self.first_id - 1)) - self.first_id + 1

    @property
    def banned(self) -> dict[str, int]:
        """How many pairs each rule, or the guard, refused."""
        return {reason: len(when) for reason, when in self.refused.items() if len(when)}

    def cut(self, k: int) -> Merges:
        """The extension of size k: the same as if it had been asked for, since merges are appended in order."""
        if k > self.new:
            return self
        m = int(np.argmax(self.id == self.first_id + k - 1)) + 1 if k else 0
        refused = {reason: when[when < m] for reason, when in self.refused.items()}
        return Merges(self.left[:m], self.right[:m], self.id[:m], self.count[:m], self.saved[:m], self.first_id, refused)


class MergeLog:
    """Collects merges; shared by the reference and the fast loop so that they differ in nothing but the search."""

    def __init__(self, grammar: Grammar, width: int) -> None:
        self.surface = {i: s for i, s in enumerate(grammar.surfaces) if s is not None}
        self.ids = {s: i for i, s in reversed(self.surface.items())}
        self.known = dict(grammar.known)
        self.every_split = grammar.every_split
        self.rank_of: dict[int, int] = {}
        self.rank = max(self.known.values(), default=-1) + 1
        self.first_id = self.next_id = grammar.first_id
        self.refused: dict[str, list[int]] = {}
        self.rows: list[tuple[int, int, int, int]] = []
        self.saved: list[NDArray[np.int64]] = []
        self.width = width

    @property
    def made(self) -> int:
        return self.next_id - self.first_id

    def refuse(self, left: int, right: int, target: int, protected: int, refusal: Refusal, guard: Guard) -> bool:
        a, b = self.surface.get(left), self.surface.get(right)
        reason = "control token" if a is None or b is None else refusal(a + b)
        if reason is None and self.every_split and (a or b"") + (b or b"") in self.ids:
            reason = "old token"
        if reason is None and guard.refuses(target, protected):
            reason = "guard"
        if reason is not None:
            self.refused.setdefault(reason, []).append(len(self.rows))
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
        self.rank_of.setdefault(result, self.rank)
        self.rank += 1
        self.rows.append((left, right, result, target))
        self.saved.append(np.zeros(self.width, dtype=np.int64))
        return result, found is None

    def other_splits(self, left: int, right: int) -> list[tuple[int, int]]:
        """Other pairs of tokens with the same text, which the merge would join as well; none where merges are a list."""
        a, b = self.surface.get(left), self.surface.get(right)
        if not self.every_split or a is None or b is None:
            return []
        whole, ids = a + b, self.ids
        cuts = [(ids.get(whole[:i]), ids.get(whole[i:])) for i in range(1, len(whole))]
        return [(x, y) for x, y in cuts if x is not None and y is not None and (x, y) != (left, right)]

    def learn(self, pairs: Iterable[tuple[int, int]]) -> list[int]:
        """Keys of those of these pairs that a new token has made into merges, as their whole is a piece. None where merges are a list."""
        out = []
        for left, right in pairs if self.every_split else ():
            key, a, b = pair_key(left, right), self.surface.get(left), self.surface.get(right)
            result = self.ids.get(a + b) if a is not None and b is not None and key not in self.known else None
            if result is not None and max(left, right, result) >= self.first_id:
                self.known[key] = self.rank_of.get(result, 0)
                out.append(key)
        return out

    def known_result(self, left: int, right: int) -> int:
        return self.ids[self.surface[left] + self.surface[right]]

    def save(self, tokens: NDArray[np.int64]) -> None:
        if self.saved:
            self.saved[-1] += tokens

    def merges(self) -> Merges:
        table = np.array(self.rows, dtype=np.int64).reshape(-1, 4)
        left, right, result = (np.ascontiguousarray(table[:, i], dtype=np.int32) for i in range(3))
        saved = np.stack(self.saved) if self.saved else np.zeros((0, self.width), dtype=np.int64)
        refused = {reason: np.array(when, dtype=np.int32) for reason, when in sorted(self.refused.items())}
        return Merges(left, right, result, table[:, 3].copy(), saved, self.first_id, refused)


def continue_merges_reference(
    words: Words, grammar: Grammar, k: int, refusal: Refusal, guard: Guard, min_count: int = 2, fair: Fair | None = None
) -> Merges:
    """At most k new ids, by definition: count all pairs, take the commonest (ties: smaller ids), join, begin again.

    A pair that is a merge already (it can arise when a merge leads to an old token) is joined at once, as the encoder would. With
    `every_split`, the guard counts all pairs that the merge would join. fair: see there; else all target text is one.
    """
    log = MergeLog(grammar, words.watch.shape[1])
    ends = np.cumsum(words.lengths)
    texts = [words.flat[e - n : e].tolist() for e, n in zip(ends, words.lengths)]
    lanes = range(len(fair.guards) if fair else 1)
    banned: list[set[tuple[int, int]]] = [set() for _ in lanes]
    tokens = list(fair.tokens) if fair else [0]
    while True:
        targets: list[Counter[tuple[int, int]]] = [Counter() for _ in lanes]
        protected: Counter[tuple[int, int]] = Counter()
        for word, text in enumerate(texts):
            for pair in pairwise(text):
                for lane in lanes:
                    targets[lane][pair] += int(fair.counts[word, lane] if fair else words.target[word])
                protected[pair] += int(words.protected[word])
        target = targets[0]
        log.learn(target)
        ready = [pair for pair in target if pair_key(*pair) in log.known]
        if ready:
            pair = min(ready, key=lambda p: (log.known[pair_key(*p)], p))
            result = log.known_result(*pair)
        else:
            open_pairs = [[(-n, p) for p, n in targets[i].items() if n >= min_count and p not in banned[i]] for i in lanes]
            if log.made >= k or not any(open_pairs):
                return log.merges()
            lane = max((i for i in lanes if open_pairs[i]), key=lambda i: (tokens[i], -i))
            target, pair = targets[lane], min(open_pairs[lane])[1]
            whole = [pair, *log.other_splits(*pair)]
            asked = fair.guards[lane] if fair else guard
            if log.refuse(*pair, sum(target[p] for p in whole), sum(protected[p] for p in whole), refusal, asked):
                banned[lane].add(pair)
                continue
            result, _ = log.join(*pair, target[pair])
        for word, text in enumerate(texts):
            joined: list[int] = []
            i = 0
            while i < len(text):
                if tuple(text[i : i + 2]) == pair:
                    joined.append(result)
                    log.save(words.watch[word])
                    for lane, column in enumerate(fair.columns if fair else ()):
                        tokens[lane] -= int(words.watch[word, column])
                    i += 2
                else:
                    joined.append(text[i])
                    i += 1
            texts[word] = joined


class _Lane:
    """One text whose pairs are counted: all target text together, or one language's."""

    def __init__(self, line: Line, known: dict[int, int], weight: NDArray[np.int64], guard: Guard, min_count: int) -> None:
        self.weight, self.guard = weight, guard
        self.queue = Queue(known, min_count)
        self.queue.start(*line.pair_counts(weight))
        self.empty = False


def continue_merges(
    words: Words, grammar: Grammar, k: int, refusal: Refusal, guard: Guard, min_count: int = 2, fair: Fair | None = None
) -> Merges:
    """At most k new ids: the same merges as `continue_merges_reference`, in the same order.

    min_count: least weighted count of a pair. Fewer than k come back if no admissible pair is left.
    """
    log = MergeLog(grammar, words.watch.shape[1])
    line = Line(words)
    texts = [(fair.counts[:, i], g) for i, g in enumerate(fair.guards)] if fair else [(words.target, guard)]
    lanes = [_Lane(line, log.known, np.ascontiguousarray(weight), guard, min_count) for weight, guard in texts]
    tokens = np.array(fair.tokens if fair else [0], dtype=np.int64)
    while log.made < k or lanes[0].queue.urgent():
        lane = lanes[0]
        if not lane.queue.urgent() and fair:
            lane = lanes[max((i for i in range(len(lanes)) if not lanes[i].empty), key=lambda i: (tokens[i], -i))]
        queue = lane.queue
        entry = queue.pop()
        if entry is None:
            lane.empty = True
            if all(lane.empty for lane in lanes):
                break
            continue
        bound, left, right = entry
        at_once = bound >= AT_ONCE
        if not at_once and log.made >= k:
            break
        places = line.places(left, right)
        target = line.count_at(places, lane.weight)
        if at_once:
            queue.drop(left, right)
            if not len(places):
                continue
            result, is_new = log.known_result(left, right), False
        else:
            if target < bound:
                queue.lower(left, right, target)
                continue
            others = [line.places(*pair) for pair in log.other_splits(left, right)]
            here, old = (sum(line.count_at(p, weight) for p in [places, *others]) for weight in (lane.weight, words.protected))
            if log.refuse(left, right, here, old, refusal, lane.guard):
                queue.ban(left, right)
                continue
            queue.drop(left, right)
            result, is_new = log.join(left, right, target)
            for key in log.learn(log.other_splits(left, right)):
                for lane in lanes:
                    lane.queue.urge(key)
        taken = line.join(places, left, right, result)
        saved = line.watched_at(taken)
        log.save(saved)
        if fair:
            tokens -= saved[list(fair.columns)]
        around = taken if is_new else line.live(result)
        for lane in lanes:
            keys, counts = line.counts_around(around, result, lane.weight)
            if grammar.every_split:
                log.learn((key >> 32, key & 0xFFFFFFFF) for key in keys.tolist())
            lane.queue.raise_bounds(keys, counts)
            lane.empty = False
    return log.merges()

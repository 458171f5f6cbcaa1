"""Which of many candidates stay, for tokenizers that have no order of merges: Unigram and WordPiece.

A new piece of such a tokenizer competes with all old ones in every word, so it cannot be judged by how often its text stands somewhere,
only by how often it is used. Uses depend on all other pieces, so candidates are dropped a few at a time and the words encoded anew, until
nothing changes: what is then left is used in target text, hardly used in protected text, and no more than was asked for.

`prune_reference` is the definition, word by word. `prune` looks only at words that a candidate can change at all, and counts in arrays.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rewarm.signals import check_stop
from rewarm.vocab.rules import Guard

Encode = Callable[[list[str]], list[list[int]]]
STEP = 0.8
"""Share of the candidates that stays when the least used ones have to go: fewer at a time are judged better, and take longer."""
SETTLE = 8
"""Rounds in which scores may still move after the last candidate was dropped."""
BOOST = 1e4
"""A score with which any path through a candidate is better than any without: it finds the words that hold one."""


@dataclass(frozen=True)
class Texts:
    """Unique words with their counts."""

    words: list[str]
    target: NDArray[np.int64]
    """[n] weighted occurrences in the target text."""
    protected: NDArray[np.int64]
    """[n] occurrences in the protected text."""


@dataclass(frozen=True)
class Pool:
    """Candidates in the order in which ties are broken."""

    pieces: tuple[str, ...]
    fixed: NDArray[np.bool_]
    """[c] those that neither the guard nor too few uses can drop: single characters, without which no word can be built, and words that the
    user insists on."""
    scores: NDArray[np.float64] | None
    """[c] to begin with; None for tokenizers that know no scores."""
    lowest: float = -math.inf
    highest: float = 0.0
    """Bounds of the scores: those of the base, since what it makes of unknown characters hangs on the lowest and the highest of all."""

    def some(self, index: NDArray[np.int64]) -> Pool:
        scores = None if self.scores is None else self.scores[index]
        return replace(self, pieces=tuple(self.pieces[i] for i in index), fixed=self.fixed[index], scores=scores)


@dataclass(frozen=True)
class Coder:
    """The base's tokenizer with more pieces."""

    make: Callable[[Sequence[str], NDArray[np.float64] | None], Encode]
    """From pieces, and their scores where there are such, to an encoder of words; piece i has the id first_id + i."""
    first_id: int
    unknown: int | None
    """Id that stands for what cannot be written."""


@dataclass(frozen=True)
class Kept:
    """What stays: a smaller pool, its pieces in their old order, and how they are used."""

    pool: Pool
    uses: NDArray[np.int64]
    """[c] weighted, in the target text."""
    tokens: int
    """Weighted, of the whole target text."""
    refused: dict[str, int]
    """How many candidates were dropped as `unused`, by the `guard`, and as `less used` than others."""


def prune_reference(texts: Texts, pool: Pool, k: int, guard: Guard, least: int, coder: Coder) -> Kept:
    """At most k candidates, by definition.

    least: fewest weighted uses. The guard judges uses in both texts. Scores are the logarithm of a piece's share of the target's tokens.
    """
    kept = list(range(len(pool.pieces)))
    scores = None if pool.scores is None else pool.scores.tolist()
    refused = {"unused": 0, "guard": 0, "less used": 0}
    settled = 0
    while True:
        now = None if scores is None else [scores[c] for c in kept]
        encode = coder.make([pool.pieces[c] for c in kept], None if now is None else np.array(now))
        use, old, tokens = dict.fromkeys(kept, 0), dict.fromkeys(kept, 0), 0
        for word, target, protected in zip(texts.words, texts.target.tolist(), texts.protected.tolist()):
            for i in encode([word])[0]:
                tokens += target
                if i >= coder.first_id:
                    use[kept[i - coder.first_id]] += target
                    old[kept[i - coder.first_id]] += protected
        stay = []
        for c in kept:
            reason = None if pool.fixed[c] else "unused" if use[c] < least else "guard" if guard.refuses(use[c], old[c]) else None
            if reason is None:
                stay.append(c)
            else:
                refused[reason] += 1
        if len(stay) > k:
            best = sorted(stay, key=lambda c: (not pool.fixed[c], -use[c], c))[: max(k, int(STEP * len(stay)))]
            refused["less used"] += len(stay) - len(best)
            stay = sorted(best)
        settled = settled + 1 if stay == kept else 0
        then = None if scores is None else [new_score(use[c], tokens, pool) for c in kept]
        if settled and (then == now or settled > SETTLE):
            final = replace(pool.some(np.array(kept, dtype=np.int64)), scores=None if now is None else np.array(now))
            return Kept(final, np.array([use[c] for c in kept], dtype=np.int64), tokens, {r: n for r, n in refused.items() if n})
        if scores is not None and then is not None:
            for c, score in zip(kept, then):
                scores[c] = score
        kept = stay


def new_score(uses: int, tokens: int, pool: Pool) -> float:
    """The logarithm of this share within the pool's bounds, as a float32 holds it (a `.model` keeps no more)."""
    score = math.log(uses / tokens) if uses else pool.lowest
    return float(np.float32(min(max(score, pool.lowest), pool.highest)))


class Meter:
    """Encodes the words that candidates of this pool can change, and knows what the others cost."""

    def __init__(self, texts: Texts, pool: Pool, coder: Coder) -> None:
        self.coder, self.first = coder, coder.first_id
        encode = coder.make(pool.pieces, None if pool.scores is None else np.full(len(pool.pieces), BOOST))
        lengths, flat = _flat(encode(texts.words))
        open_to = flat >= self.first
        if coder.unknown is not None:
            open_to |= flat == coder.unknown
        word = np.repeat(np.arange(len(lengths)), lengths)
        active = np.zeros(len(lengths), dtype=bool)
        active[word[open_to]] = True
        self.active = np.flatnonzero(active)
        self.words = [texts.words[i] for i in self.active]
        self.target, self.protected = texts.target[self.active], texts.protected[self.active]
        self.other_tokens = int((lengths * texts.target)[~active].sum())
        self._lengths = lengths

    def measure(self, pieces: Sequence[str], scores: NDArray[np.float64] | None) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """(weighted uses in target text, uses in protected text, weighted tokens of the target text)."""
        lengths, flat = _flat(self.coder.make(pieces, scores)(self.words))
        word = np.repeat(np.arange(len(lengths)), lengths)[flat >= self.first]
        piece = flat[flat >= self.first] - self.first
        use, old = np.zeros(len(pieces), dtype=np.int64), np.zeros(len(pieces), dtype=np.int64)
        np.add.at(use, piece, self.target[word])
        np.add.at(old, piece, self.protected[word])
        return use, old, self.other_tokens + int((lengths * self.target).sum())

    def costs(self, pool: Pool | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """([n] tokens of each word, [n] parts of it that cannot be written); no pool: with the base.

        A word with such a part counts a token a character, as it is lost, not short.
        """
        ids = self.coder.make(pool.pieces if pool else (), pool.scores if pool else np.zeros(0))(self.words)
        cost, lost = self._lengths.copy(), np.zeros(len(self._lengths), dtype=np.int64)
        if self.coder.unknown is not None:
            lost[self.active] = [i.count(self.coder.unknown) for i in ids]
        cost[self.active] = [len(word) if n else len(i) for word, i, n in zip(self.words, ids, lost[self.active])]
        return cost, lost


def _flat(ids: list[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(ids of each word, all ids one after another)."""
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    return lengths, np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int64, count=int(lengths.sum()))


def prune(texts: Texts, pool: Pool, k: int, guard: Guard, least: int, coder: Coder, meter: Meter | None = None) -> Kept:
    """The same as `prune_reference`.

    meter: that of a larger pool on the same texts, if there is one.

    Words that hold no candidate keep their tokens whatever stays, so they are encoded once. For WordPiece, which cannot write a word that
    has no way to its end, words that are unknown with all candidates stay in view too.
    """
    meter = meter or Meter(texts, pool, coder)
    refused = {"unused": 0, "guard": 0, "less used": 0}
    settled = 0
    while True:
        check_stop()
        use, old, tokens = meter.measure(pool.pieces, pool.scores)
        unused = ~pool.fixed & (use < least)
        banned = np.zeros(len(use), dtype=bool)
        for c in np.flatnonzero(~pool.fixed & ~unused & (old > 0)).tolist():
            banned[c] = guard.refuses(int(use[c]), int(old[c]))
        stay = ~unused & ~banned
        refused["unused"] += int(unused.sum())
        refused["guard"] += int(banned.sum())
        if (left := int(stay.sum())) > k:
            index = np.flatnonzero(stay)
            order = index[np.lexsort((index, -use[index], ~pool.fixed[index]))]
            gone = order[max(k, int(STEP * left)) :]
            stay[gone] = False
            refused["less used"] += len(gone)
        settled = settled + 1 if stay.all() else 0
        then = None
        if pool.scores is not None:
            then = np.array([new_score(n, tokens, pool) for n in use.tolist()], dtype=np.float64)
        if settled and (then is None or pool.scores is None or np.array_equal(then, pool.scores) or settled > SETTLE):
            return Kept(pool, use, tokens, {r: n for r, n in refused.items() if n})
        pool = replace(pool, scores=then).some(np.flatnonzero(stay))

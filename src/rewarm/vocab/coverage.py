"""Characters that the base has no piece for: a new word can only be built once they are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewarm.vocab.count import Counts
from rewarm.vocab.merge import Merges
from rewarm.vocab.rules import Guard, Refusal

COVERED = 0.9998
"""Share of each language's characters that have a piece of their own afterwards, as in SentencePiece's own training."""
NO_PAIR = -1
"""Stands for left and right of a character, which no merge makes."""


def character_counts(counts: Counts, letters: Callable[[str], Iterable[str]] = iter) -> tuple[list[str], NDArray[np.int64]]:
    """All characters of the words, in order, and [n, G] how often each stands in each group. letters: from a word to its characters."""
    where: dict[str, Counter[int]] = {}
    for i, word in enumerate(counts.words):
        for character in letters(word):
            where.setdefault(character, Counter())[i] += 1
    characters = sorted(where)
    table = np.zeros((len(characters), len(counts.groups)), dtype=np.int64)
    for row, character in enumerate(characters):
        words = np.fromiter(where[character], dtype=np.int64)
        table[row] = np.fromiter(where[character].values(), dtype=np.int64) @ counts.weight[words]
    return characters, table


def missing_characters(
    counts: Counts,
    has: Mapping[str, int],
    weights: dict[str, int],
    protect: str | None,
    refusal: Refusal,
    guard: Guard,
    letters: Callable[[str], Iterable[str]] = iter,
) -> list[str]:
    """Characters to add, the commonest first: those that bring each target group to COVERED.

    has: pieces of the base. weights: target group -> whole-number weight. A character that a rule or the guard refuses, or that stands
    only once, is left to its bytes. letters: from a word to its characters as the vocabulary writes them.
    """
    characters, table = character_counts(counts, letters)
    column = {group: table[:, i] for i, group in enumerate(counts.groups)}
    none = np.zeros(len(characters), dtype=np.int64)
    target = sum((weight * column[group] for group, weight in weights.items()), start=none)
    protected = column[protect] if protect else none
    absent = np.array([c not in has for c in characters], dtype=bool)
    wanted: set[int] = set()
    for group in weights:
        found = column[group]
        order = np.lexsort((np.arange(len(found)), -found))
        order = order[absent[order] & (found[order] >= 2)]
        need = COVERED * int(found.sum()) - int(found[~absent].sum())
        before = np.concatenate([[0], np.cumsum(found[order])[:-1]]) if len(order) else np.zeros(0, dtype=np.int64)
        wanted.update(order[before < need].tolist())
    ranked = sorted(wanted, key=lambda i: (-int(target[i]), characters[i]))
    return [
        characters[i] for i in ranked if refusal(characters[i].encode()) is None and not guard.refuses(int(target[i]), int(protected[i]))
    ]


def as_merges(counts: Counts, saves: Mapping[str, int], first_id: int, weights: dict[str, int], watch: list[str]) -> Merges:
    """The characters as the beginning of a run of merging, so that its curve and its cuts know them.

    saves: character -> tokens that one occurrence becomes shorter by, in the order of their ids.
    """
    characters, table = character_counts(counts)
    row = {c: i for i, c in enumerate(characters)}
    rows = table[[row[c] for c in saves]].reshape(len(saves), -1)
    column = {group: i for i, group in enumerate(counts.groups)}
    each = np.array(list(saves.values()), dtype=np.int64).reshape(-1, 1)
    count = sum((w * rows[:, column[g]] for g, w in weights.items()), start=np.zeros(len(saves), dtype=np.int64))
    pair = np.full(len(saves), NO_PAIR, dtype=np.int32)
    ids = np.arange(first_id, first_id + len(saves), dtype=np.int32)
    return Merges(pair, pair.copy(), ids, count, rows[:, [column[g] for g in watch]] * each, first_id, {})


def joined(head: Merges, tail: Merges) -> Merges:
    """Both one after the other; the ids of `tail` count on from those of `head`."""

    parts: dict[str, Any] = {n: np.concatenate([getattr(head, n), getattr(tail, n)]) for n in ("left", "right", "id", "count", "saved")}
    parts["refused"] = {reason: when + np.int32(len(head.id)) for reason, when in tail.refused.items()}
    return replace(tail, first_id=head.first_id, **parts)

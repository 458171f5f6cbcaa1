"""How often each pre-token stands in each text: all that merging needs to know of the text.

A line that repeats is counted at most `repeat_cap` times, so unique lines are cut once. Pre-tokens are cut at 64 characters (only
runs of CJK text without spaces get that long) and at bytes the base has no token for. Lines are taken one by one: handing the library a
whole file is three times slower, since its cost grows faster than the text.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rewarm.signals import check_stop
from rewarm.vocab.base import Base, encode_ids, open_base
from rewarm.vocab.cache import Cache, array_to_texts, key_of, texts_to_array
from rewarm.vocab.pairs import Words
from rewarm.vocab.quick_words import Cut, checked_cut, newer_letters, quick_cut, spelt
from rewarm.vocab.text import lines_of

LONGEST_WORD = 64
POOL_BYTES = 24_000_000
"""Below this much text, starting worker processes costs more than they save."""


@dataclass(frozen=True)
class Counts:
    """Pre-tokens in byte order with their counts, one column a group of text."""

    words: list[str]
    weight: NDArray[np.int64]
    """[n, G] occurrences."""
    bytes: NDArray[np.int64]
    """[G] UTF-8 bytes that were counted, repeats beyond the cap left out."""
    groups: tuple[str, ...]
    cache: Cache | None = None
    """Where what is made of these counts may be kept."""

    def column(self, group: str) -> NDArray[np.int64]:
        return self.weight[:, self.groups.index(group)]

    def bytes_of(self, group: str) -> int:
        return int(self.bytes[self.groups.index(group)])


def kept_counts(
    texts: dict[str, tuple[list[str], int | None]], base: Base, spec_hash: str, folder: Path, before: Callable[[], None] = lambda: None
) -> Counts:
    """What `count` gives, taken from the cache in this folder if the same texts were counted before.

    spec_hash: stands for the base's tokenizer. before: called only if there is something to count.
    """
    cache = Cache(folder, key_of(_parts(texts, spec_hash)))
    table = cache.read("counts")
    if table is not None:
        return Counts(array_to_texts(table["words"]), table["weight"], table["bytes"], tuple(array_to_texts(table["groups"])), cache)
    before()
    counts = replace(count(texts, base), cache=cache)
    words, groups = texts_to_array(counts.words), texts_to_array(counts.groups)
    cache.write("counts", {"words": words, "groups": groups, "weight": counts.weight, "bytes": counts.bytes})
    return counts


def _parts(texts: dict[str, tuple[list[str], int | None]], spec_hash: str) -> Iterator[str]:
    yield spec_hash
    for name, (pieces, cap) in texts.items():
        yield f"{name} {cap} {len(pieces)}"
        yield from pieces


def count(texts: dict[str, tuple[list[str], int | None]], base: Base, workers: int | None = None) -> Counts:
    """Counts the pre-tokens of several groups of text.

    texts: group -> (pieces of text, how often a repeated line counts at most, None for always). workers: processes; by default one a
    core, and only this process for little text. The result does not depend on it, nor on the order of the pieces.
    """
    groups = tuple(texts)
    lines = {name: _capped_lines(pieces, cap) for name, (pieces, cap) in texts.items()}
    sizes = np.array([sum(len(line.encode()) * n for line, n in lines[name].items()) for name in groups], dtype=np.int64)
    workers = workers or (len(os.sched_getaffinity(0)) if sizes.sum() > POOL_BYTES else 1)
    quick = checked_cut(base, lines.values()) is not None
    totals = _count_here(lines, base, quick) if workers == 1 else _count_in_processes(lines, base, workers, quick)
    cut = {name: _cut_words(words, base) for name, words in totals.items()}
    words = sorted(set().union(*cut.values()))
    index = {word: i for i, word in enumerate(words)}
    weight = np.zeros((len(words), len(groups)), dtype=np.int64)
    for g, name in enumerate(groups):
        for word, n in cut[name].items():
            weight[index[word], g] = n
    return Counts(words, weight, sizes, groups)


def _capped_lines(pieces: Iterable[str], cap: int | None) -> dict[str, int]:
    lines = Counter(lines_of(pieces))
    return {line: n if cap is None else min(n, cap) for line, n in lines.items()}


def _count_lines(lines: Collection[tuple[str, int]], base: Base, cut: Cut | None) -> Counter[str]:
    """Words of these lines, each times its number. cut: see `quick_words.py`; what it cannot cut is cut by the base.

    lines: is gone through twice where they hold letters that the quick way may not know.
    """
    words: Counter[str] = Counter()
    plain: Counter[str] = Counter()
    for line, times in lines:
        found = cut(line) if cut else None
        table = words if found is None else plain
        found = base.pretokens(line) if found is None else found
        if times == 1:
            table.update(found)
        else:
            for word in found:
                table[word] += times
    if newer := newer_letters(plain):
        with_newer = [item for item in lines if not newer.isdisjoint(item[0])]
        without = [item for item in lines if newer.isdisjoint(item[0])]
        return _count_lines(without, base, cut) + _count_lines(with_newer, base, None)
    for word, n in plain.items():
        words[spelt(word)] += n
    return words


def _count_here(lines: dict[str, dict[str, int]], base: Base, quick: bool) -> dict[str, Counter[str]]:
    cut = quick_cut(base) if quick else None
    out: dict[str, Counter[str]] = {}
    for name, table in lines.items():
        check_stop()
        out[name] = _count_lines(table.items(), base, cut)
    return out


_worker: list[tuple[Base, Cut | None]] = []


def _start_worker(folder: Path, quick: bool) -> None:
    base = open_base(folder)
    _worker.append((base, quick_cut(base) if quick else None))


def _work(task: tuple[str, list[tuple[str, int]]]) -> tuple[str, Counter[str]]:
    return task[0], _count_lines(task[1], *_worker[0])


def _count_in_processes(lines: dict[str, dict[str, int]], base: Base, workers: int, quick: bool) -> dict[str, Counter[str]]:
    tasks = []
    for name, table in lines.items():
        items = list(table.items())
        tasks += [(name, items[i : i + 20_000]) for i in range(0, len(items), 20_000)]
    out: dict[str, Counter[str]] = {name: Counter() for name in lines}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(base.folder, quick)) as pool:
        for name, words in pool.map(_work, tasks):
            check_stop()
            out[name].update(words)
    return out


def _cut_words(words: Counter[str], base: Base) -> Counter[str]:
    """Cuts over-long words and words with bytes the base lacks; the pieces count as words of their own."""
    out: Counter[str] = Counter()
    for word, n in words.items():
        for part in base.cut_word(word, LONGEST_WORD):
            out[part] += n
    return out


@dataclass(frozen=True)
class Split:
    """Old tokens of each word."""

    flat: NDArray[np.int32]
    """Token ids of all words, one after another."""
    lengths: NDArray[np.int32]
    """[n] tokens of each word."""
    cache: Cache | None = None
    """Where what is made of this may be kept."""


def split_words(counts: Counts, base: Base) -> Split:
    """The words of these counts as the base cuts them; kept where the counts are."""
    cache = counts.cache.with_more("split", json.dumps(base.spec["model"])) if counts.cache else None
    table = cache.read("split") if cache else None
    if table is not None:
        return Split(table["flat"], table["lengths"], cache)
    split = replace(split_by(counts.words, base.bare), cache=cache)
    if cache:
        cache.write("split", {"flat": split.flat, "lengths": split.lengths})
    return split


def split_by(words: list[str], bare: Tokenizer) -> Split:
    """These words as a tokenizer of nothing but a model cuts them."""
    flats, lengths = [np.zeros(0, dtype=np.int32)], [np.zeros(0, dtype=np.int32)]
    for start in range(0, len(words), 50_000):
        ids = encode_ids(bare, words[start : start + 50_000])
        lengths.append(np.fromiter(map(len, ids), dtype=np.int32, count=len(ids)))
        flats.append(np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32, count=int(lengths[-1].sum())))
    return Split(np.concatenate(flats), np.concatenate(lengths))


def tokens_of(counts: Counts, split: Split) -> NDArray[np.int64]:
    """[G] how many tokens each group's counted text is."""
    return split.lengths.astype(np.int64) @ counts.weight


def words_to_merge(counts: Counts, split: Split, weights: dict[str, int], protect: str | None, watch: list[str]) -> Words:
    """The words of two tokens and more as the arrays that `continue_merges` takes.

    weights: target group -> whole-number weight. protect: the protected group or None. watch: groups whose token count is followed.
    """
    long = split.lengths > 1
    keep = np.flatnonzero(long)
    target = np.zeros(len(keep), dtype=np.int64)
    for group, weight in weights.items():
        target += counts.column(group)[keep] * weight
    protected = counts.column(protect)[keep] if protect else np.zeros(len(keep), dtype=np.int64)
    followed = np.stack([counts.column(g)[keep] for g in watch], axis=1) if watch else np.zeros((len(keep), 0), dtype=np.int64)
    return Words(split.flat[np.repeat(long, split.lengths)], split.lengths[keep], target, protected, followed)

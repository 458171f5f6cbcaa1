"""Training documents that repeat a passage of held-out text are found by their n-grams.

A model that has read a passage scores it better than it reads new text, so a held-out figure would praise what was memorised. Statutes
repeat themselves: about one article in five shares 13 words in a row with a held-out one. All windows of the held-out documents are hashed
and sorted once; those of a training batch are first looked up in a small bitmap, and only what passes is searched in the sorted array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from rewarm.corpus.units import Ngrams, Units, ngrams, ngrams_reference, scan, units_reference

_BITMAP_BITS = 24


def single_length(n: int) -> int:
    """Length in Han and kana characters that stands for n words: 20 for 13."""
    return round(n * 20 / 13)


@dataclass(frozen=True, slots=True)
class NgramIndex:
    """Windows of the held-out documents: sorted hashes u64, the document of each i64, a bitmap of their upper bits.

    unchecked: documents so short that they have no window; they can only be kept out of training as exact duplicates.
    """

    n: int
    hash: NDArray[np.uint64]
    owner: NDArray[np.int64]
    bitmap: NDArray[np.bool_]
    unchecked: int


def build_index(texts: Sequence[str], n: int) -> NgramIndex:
    """Index of all n-grams of these texts; of several owners of one n-gram the first in order is named."""
    grams = ngrams(scan(texts), n, single_length(n))
    hashes, first = np.unique(grams.hash, return_index=True)
    bitmap = np.zeros(1 << _BITMAP_BITS, np.bool_)
    bitmap[hashes >> np.uint64(64 - _BITMAP_BITS)] = True
    return NgramIndex(n, hashes, grams.document[first], bitmap, len(texts) - len(np.unique(grams.document)))


@dataclass(frozen=True, slots=True)
class Hit:
    """The first shared passage of a document: position of its first unit, and the number of the held-out document that has it."""

    position: int
    owner: int


def hits(units: Units, index: NgramIndex) -> dict[int, Hit]:
    """Document number -> first hit, for the documents that share an n-gram with the index."""
    grams = ngrams(units, index.n, single_length(index.n))
    maybe = np.flatnonzero(index.bitmap[grams.hash >> np.uint64(64 - _BITMAP_BITS)])
    if not len(maybe) or not len(index.hash):
        return {}
    place = np.minimum(np.searchsorted(index.hash, grams.hash[maybe]), len(index.hash) - 1)
    sure = index.hash[place] == grams.hash[maybe]
    return _first_hits(grams, maybe[sure], index.owner[place[sure]])


def _first_hits(grams: Ngrams, windows: NDArray[np.int64], owners: NDArray[np.int64]) -> dict[int, Hit]:
    order = np.lexsort((grams.position[windows], grams.document[windows]))
    documents = grams.document[windows][order]
    _, first = np.unique(documents, return_index=True)
    chosen = order[first]
    return {
        int(document): Hit(int(position), int(owner))
        for document, position, owner in zip(documents[first], grams.position[windows][chosen], owners[chosen])
    }


def hits_reference(texts: Sequence[str], heldout: Sequence[str], n: int) -> set[int]:
    """Numbers of the texts that share an n-gram with any held-out text: sets of tuples, the definition of `hits`."""
    known = set().union(*(ngrams_reference(text, n, single_length(n)) for text in heldout)) if heldout else set()
    return {i for i, text in enumerate(texts) if known & ngrams_reference(text, n, single_length(n))}


def passage(text: str, position: int, n: int) -> str:
    """The n units from `position` as they stand in the text, to show what was shared; Han and kana passages are shared for longer."""
    spans = list(islice(units_reference(text), position, position + n))
    return text[spans[0][0] : spans[-1][1]]

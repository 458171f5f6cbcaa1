"""Text as numbers: the lower units of documents, and the n-grams over them, found with whole-array operations.

A unit is a run of letters, marks and digits; a Han or kana character is a unit of its own; a Vietnamese unit is thus a syllable. Units are
folded to lower case; digits and diacritics stay, since two tables with other numbers, and `bán` and `bạn`, are different texts. Exact
duplicates and contamination see only this sequence of units, so case, punctuation and spaces hide nothing.

Hashes of runs come from one running sum: with K odd, S[i] = sum over j < i of v[j] * K^j mod 2^64, the sum (S[b] - S[a]) * K^-a is the
polynomial hash of v[a:b], for all runs at once and any length. Values of characters are random 64-bit numbers, so equal hashes of different
units are as rare as 2^-50 even for anagrams. `units_reference` and `ngrams_reference` are the definition in plain Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from unicodedata import category

import numpy as np
import xxhash
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

CODE_POINTS = 0x32400
"""Characters above (private use, tags, variation selectors) are no letters."""
PIECE_CHARS = 1 << 19
"""So many characters are looked at in one go: the arrays stay near the processor, and memory does not depend on a document's length."""
SCRIPTS = ("none", "digit", "latin", "vietnamese", "han", "kana", "hangul", "cyrillic", "arabic", "thai", "devanagari", "letter", "mark")
"""Classes of characters; `vietnamese` holds the Latin letters that hardly any other language writes."""
_HAN, _KANA = SCRIPTS.index("han"), SCRIPTS.index("kana")
_K = 0x9E3779B97F4A7C15
_K_INVERSE = pow(_K, -1, 1 << 64)
_RANGES = [
    (0x41, 0x24F, "latin"), (0x1E00, 0x1E9F, "latin"), (0x1EA0, 0x1EF9, "vietnamese"), (0x2C60, 0x2C7F, "latin"),
    (0x400, 0x52F, "cyrillic"), (0x600, 0x77F, "arabic"), (0x8A0, 0x8FF, "arabic"), (0xFB50, 0xFDFF, "arabic"),
    (0xFE70, 0xFEFC, "arabic"), (0x900, 0x97F, "devanagari"), (0xE00, 0xE7F, "thai"), (0x1100, 0x11FF, "hangul"),
    (0x3130, 0x318F, "hangul"), (0xAC00, 0xD7FB, "hangul"), (0x3005, 0x3007, "han"), (0x3400, 0x9FFF, "han"),
    (0xF900, 0xFAFF, "han"), (0x20000, 0x323AF, "han"), (0x3041, 0x3096, "kana"), (0x309D, 0x309F, "kana"),
    (0x30A1, 0x30FA, "kana"), (0x30FC, 0x30FF, "kana"), (0x31F0, 0x31FF, "kana"), (0xFF66, 0xFF9D, "kana"),
]  # fmt: skip


@lru_cache(maxsize=1)
def _tables() -> tuple[NDArray[np.uint8], U64]:
    """(class of each code point, random value of its lower-case form); made once, a tenth of a second."""
    classes = np.zeros(CODE_POINTS, np.uint8)
    folded = np.arange(CODE_POINTS, dtype=np.uint64)
    place = {name: i for i, name in enumerate(SCRIPTS)}
    for code in range(CODE_POINTS):
        kind = category(chr(code))[0]
        if kind in "LMN":
            classes[code] = place["digit" if kind == "N" else "mark" if kind == "M" else "letter"]
            folded[code] = ord(fold(chr(code)))
    for first, last, name in _RANGES:
        block = classes[first : last + 1]
        block[np.isin(block, (place["letter"], place["digit"] if name == "han" else place["letter"]))] = place[name]
    for letter in "ĂăĐđƠơƯư":
        classes[ord(letter)] = place["vietnamese"]
    return classes, np.where(classes > 0, mix(folded), np.uint64(0))


def fold(char: str) -> str:
    """Lower case of one character, if that is one character; else the character (`İ` would become two)."""
    lower = char.lower()
    return lower if len(lower) == 1 else char


def mix(values: U64) -> U64:
    """A bijection of 64 bits that looks random (splitmix64's finaliser, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = values + np.uint64(_K)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


_powers: dict[int, U64] = {}


def _power(base: int, count: int) -> U64:
    """base^0 .. base^(count-1) mod 2^64; kept and grown."""
    known = _powers.get(base)
    if known is None or len(known) < count:
        steps = np.full(max(count, PIECE_CHARS + 1), base, np.uint64)
        steps[0] = 1
        known = _powers[base] = np.multiply.accumulate(steps)
    return known[:count]


def _sums(values: U64) -> U64:
    """S of the module's docstring, one longer than `values`."""
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * _power(_K, len(values)), out=sums[1:])
    return sums


@dataclass(frozen=True, slots=True)
class Units:
    """Lower units of some documents, one after the other.

    hash u64[units]; single bool[units]: a Han or kana character; ends i64[documents]: where each document's units end;
    scripts i64[documents, len(SCRIPTS)]: characters of each class.
    """

    hash: U64
    single: NDArray[np.bool_]
    ends: I64
    scripts: I64

    @property
    def starts(self) -> I64:
        return np.concatenate([np.zeros(1, np.int64), self.ends[:-1]]) if len(self.ends) else self.ends

    def joined(self, counts: I64) -> Units:
        """The same units with the first counts[0] documents as one, the next counts[1] as one, and so on; every count is 1 or more."""
        if not len(counts):
            return self
        last = np.cumsum(counts)
        return Units(self.hash, self.single, self.ends[last - 1], np.add.reduceat(self.scripts, last - counts, axis=0))


def scan(texts: Sequence[str]) -> Units:
    """The units of every text, in order."""
    hashes: list[U64] = []
    singles: list[NDArray[np.bool_]] = []
    counts = np.zeros(len(texts), np.int64)
    scripts = np.zeros((len(texts), len(SCRIPTS)), np.int64)
    for documents, pieces in _batches(texts):
        found, single, ends, kinds = _scan_piece(pieces)
        hashes.append(found)
        singles.append(single)
        np.add.at(counts, documents, np.diff(ends, prepend=0))
        np.add.at(scripts, documents, kinds)
    if not hashes:
        return Units(np.zeros(0, np.uint64), np.zeros(0, np.bool_), np.zeros(0, np.int64), scripts)
    return Units(np.concatenate(hashes), np.concatenate(singles), np.cumsum(counts), scripts)


def _batches(texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
    """(document numbers, texts) of about PIECE_CHARS characters; a longer text comes in pieces cut at white space."""
    numbers: list[int] = []
    pieces: list[str] = []
    size = 0
    for number, text in enumerate(texts):
        for piece in _cut(text):
            if size + len(piece) > PIECE_CHARS and pieces:
                yield numbers, pieces
                numbers, pieces, size = [], [], 0
            numbers.append(number)
            pieces.append(piece)
            size += len(piece)
    if pieces:
        yield numbers, pieces


def _cut(text: str) -> list[str]:
    pieces = []
    start = 0
    while len(text) - start > PIECE_CHARS:
        end = max(text.rfind(mark, start, start + PIECE_CHARS) for mark in "\n 。、")
        end = end if end > start else start + PIECE_CHARS
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def _scan_piece(texts: list[str]) -> tuple[U64, NDArray[np.bool_], I64, I64]:
    classes_of, values_of = _tables()
    joined = "\n".join(texts)
    codes = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
    if codes.size and codes.max() >= CODE_POINTS:
        codes = np.where(codes < CODE_POINTS, codes, np.uint32(0))
    classes = classes_of[codes]
    word = classes > 0
    single = (classes == _HAN) | (classes == _KANA)
    limits = np.cumsum([len(text) + 1 for text in texts])
    # a border before position i: a word begins or ends there, or one of the two characters is a unit of its own
    edge = np.ones(len(codes) + 1, np.bool_)
    np.logical_or(single[1:], single[:-1], out=edge[1:-1])
    edge[1:-1] |= word[1:] != word[:-1]
    first = np.flatnonzero(edge[:-1] & word)
    last = np.flatnonzero(edge[1:] & word) + 1
    sums = _sums(values_of[codes])
    hashes = mix((sums[last] - sums[first]) * _power(_K_INVERSE, len(codes) + 1)[first])
    starts = np.concatenate([[0], limits[:-1]])
    kinds = np.stack([np.bincount(classes[a : b - 1], minlength=len(SCRIPTS)) for a, b in zip(starts, limits)])
    return hashes, single[first], np.searchsorted(first, limits), kinds


def content_hashes(units: Units, texts: Sequence[str]) -> NDArray[np.uint64]:
    """u64[documents, 2]: a 128-bit hash (xxh3) of each document's units; of the text itself where it has no unit."""
    data = memoryview(units.hash.tobytes())
    digests = [
        xxhash.xxh3_128_digest(data[8 * a : 8 * b] if b > a else b"text:" + text.encode())
        for a, b, text in zip(units.starts.tolist(), units.ends.tolist(), texts)
    ]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64).reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class Ngrams:
    """hash u64[windows], and for each window its document and the position of its first unit in that document."""

    hash: U64
    document: I64
    position: I64


def ngrams(units: Units, n: int, n_single: int) -> Ngrams:
    """All windows of n units in which at most half are single characters, and of n_single units in which more than half are.

    Windows never cross from one document to the next.
    """
    document = np.repeat(np.arange(len(units.ends)), np.diff(units.ends, prepend=0))
    sums = _sums(units.hash)
    singles = np.concatenate([[0], np.cumsum(units.single)])
    found: list[tuple[U64, I64]] = []
    for length, of_singles in ((n, False), (n_single, True)):
        if len(units.hash) < length or (of_singles and not singles[-1]):
            continue
        count = len(units.hash) - length + 1
        inside = document[:count] == document[length - 1 :]
        if singles[-1]:
            inside &= ((singles[length:] - singles[:count]) * 2 > length) == of_singles
        at = np.flatnonzero(inside)
        found.append((mix((sums[at + length] - sums[at]) * _power(_K_INVERSE, len(units.hash) + 1)[at] + np.uint64(length)), at))
    at = np.concatenate([places for _, places in found]) if found else np.zeros(0, np.int64)
    hashes = np.concatenate([hashes for hashes, _ in found]) if found else np.zeros(0, np.uint64)
    return Ngrams(hashes, document[at], at - units.starts[document[at]])


def units_reference(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each unit of a text, character by character: the definition of `scan`."""
    open_at: int | None = None
    for i, char in enumerate(chain(text, " ")):
        is_word = ord(char) < CODE_POINTS and category(char)[0] in "LMN"
        is_single = is_word and _tables()[0][ord(char)] in (_HAN, _KANA)
        if open_at is not None and (is_single or not is_word):
            yield open_at, i
            open_at = None
        if is_single:
            yield i, i + 1
        elif is_word and open_at is None:
            open_at = i


def ngrams_reference(text: str, n: int, n_single: int) -> set[tuple[str, ...]]:
    """The windows of `ngrams` as tuples of folded units."""
    units = ["".join(map(fold, text[a:b])) for a, b in units_reference(text)]
    single = [len(unit) == 1 and ord(unit) < CODE_POINTS and int(_tables()[0][ord(unit)]) in (_HAN, _KANA) for unit in units]
    windows = set()
    for length, of_singles in ((n, False), (n_single, True)):
        for i in range(len(units) - length + 1):
            if (sum(single[i : i + length]) * 2 > length) == of_singles:
                windows.add(tuple(units[i : i + length]))
    return windows

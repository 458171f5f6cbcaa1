"""Likeness of tokens by the company they keep, and new rows from it: the idea of FOCUS (arXiv 2305.14481, MIT), without fastText.

The target text, cut by the extended tokenizer, shows old and new tokens side by side. A token's vector is its positive pointwise mutual
information with the commonest tokens within a few places; a new token's row is a mix of the old tokens whose vectors point the same way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

WINDOW = 5
"""Places to either side."""
CONTEXTS = 2_000
LEAST_SEEN = 10
"""Occurrences an old token needs for its vector to mean something."""
TEXT_BYTES = 20_000_000
"""Text that is read at most: more changes the vectors of frequent tokens little."""
_LINES_AT_ONCE = 2_000
_NEW_AT_ONCE, _OLD_AT_ONCE = 256, 4_096
_LIKELY_SUPPORT = 256

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Sparse:
    """A matrix by rows: row r has values[ptr[r]:ptr[r+1]] in columns[ptr[r]:ptr[r+1]]."""

    columns: I64
    values: F32
    ptr: I64

    def dense(self, rows: I64, width: int) -> F32:
        """[len(rows), width]"""
        out = np.zeros((len(rows), width), dtype=np.float32)
        sizes = self.ptr[rows + 1] - self.ptr[rows]
        at = np.repeat(self.ptr[rows] - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes) + np.arange(int(sizes.sum()))
        out[np.repeat(np.arange(len(rows)), sizes), self.columns[at]] = self.values[at]
        return out


def focus_mix(
    tokenizer: Tokenizer, texts: Mapping[str, Sequence[str]], first_new_id: int, new: int, special_ids: Collection[int]
) -> list[tuple[list[int], list[float]]]:
    """(old ids, weights) of each of `new` tokens; empty for a token that the texts do not show near any context.

    Weights are the sparsemax of the cosines with all old tokens seen at least 10 times: they sum to 1 and most are zero.
    """
    rows = 1 + max(first_new_id + new - 1, *special_ids, 0)
    sequences = _encoded(tokenizer, texts)
    seen = np.bincount(np.concatenate(sequences) if sequences else np.zeros(0, np.int64), minlength=rows)
    ordinary = np.ones(rows, dtype=bool)
    ordinary[list(special_ids)] = False
    contexts = commonest(np.where(ordinary, seen, 0), CONTEXTS)
    vectors = unit_vectors(count_near(sequences, contexts, rows), len(contexts), rows)
    filled = np.diff(vectors.ptr) > 0
    old = np.flatnonzero(ordinary[:first_new_id] & filled[:first_new_id] & (seen[:first_new_id] >= LEAST_SEEN))
    out: list[tuple[list[int], list[float]]] = [([], [])] * new
    wanted = first_new_id + np.flatnonzero(filled[first_new_id : first_new_id + new])
    if not len(old):
        return out
    for start in range(0, len(wanted), _NEW_AT_ONCE):
        some = wanted[start : start + _NEW_AT_ONCE]
        cosine = _cosines(vectors, some, old, len(contexts))
        for token, (support, weights) in zip(some.tolist(), sparsemax(cosine)):
            out[token - first_new_id] = (old[support].tolist(), weights.tolist())
    return out


def _encoded(tokenizer: Tokenizer, texts: Mapping[str, Sequence[str]]) -> list[I64]:
    """Ids of each line, at most 20 MB of text, the same share of every language."""
    out: list[I64] = []
    for language in sorted(texts):
        lines: list[str] = []
        size = 0
        for text in texts[language]:
            lines += [line for line in text.split("\n") if line.strip()]
            size += len(text.encode(errors="surrogatepass"))
            if size > TEXT_BYTES / len(texts):
                break
        for start in range(0, len(lines), _LINES_AT_ONCE):
            batch = tokenizer.encode_batch_fast(lines[start : start + _LINES_AT_ONCE], add_special_tokens=False)
            out += [np.array(e.ids, dtype=np.int64) for e in batch]
    return out


def commonest(seen: I64, most: int) -> I64:
    """Ids of the `most` commonest tokens, the commonest first, ties by id."""
    order = np.lexsort((np.arange(len(seen)), -seen))[:most]
    return order[seen[order] > 0]


def count_near_reference(sequences: Sequence[I64], contexts: I64, rows: int) -> NDArray[np.int64]:
    """[rows, contexts]: how often each token has each context within WINDOW places in the same sequence. Plain loops."""
    column = {int(t): c for c, t in enumerate(contexts)}
    out = np.zeros((rows, len(contexts)), dtype=np.int64)
    for ids in sequences:
        for i, token in enumerate(ids):
            for j in range(max(0, i - WINDOW), min(len(ids), i + WINDOW + 1)):
                if j != i and int(ids[j]) in column:
                    out[token, column[int(ids[j])]] += 1
    return out


def count_near(sequences: Sequence[I64], contexts: I64, rows: int) -> Sparse:
    """As the reference, by rows, without the zeros. Pairs are summed a block of lines at a time, so memory follows the distinct ones."""
    column = np.full(rows, -1, dtype=np.int64)
    column[contexts] = np.arange(len(contexts))
    keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    waiting: list[tuple[I64, I64]] = []
    for start in range(0, len(sequences), _LINES_AT_ONCE):
        some = [s for s in sequences[start : start + _LINES_AT_ONCE] if len(s)]
        if not some:
            continue
        flat = np.concatenate(some)
        line = np.repeat(np.arange(len(some)), [len(s) for s in some])
        waiting.append(_sum_equal(_pairs(flat, line, column, len(contexts)), None))
        if sum(len(k) for k, _ in waiting) > len(keys):
            keys, counts, waiting = *_sum_equal(*_joined([(keys, counts), *waiting])), []
    keys, counts = _sum_equal(*_joined([(keys, counts), *waiting]))
    ptr = np.searchsorted(keys, np.arange(rows + 1) * len(contexts))
    return Sparse(keys % max(1, len(contexts)), counts.astype(np.float32), ptr.astype(np.int64))


def _pairs(flat: I64, line: I64, column: I64, width: int) -> I64:
    """Keys token * width + context of all near pairs of this block."""
    out = []
    for distance in range(1, WINDOW + 1):
        left, right = flat[:-distance], flat[distance:]
        same = line[:-distance] == line[distance:]
        for token, context in ((left, right), (right, left)):
            some = same & (column[context] >= 0)
            out.append(token[some] * width + column[context[some]])
    return np.concatenate(out)


def _joined(parts: list[tuple[I64, I64]]) -> tuple[I64, I64]:
    return np.concatenate([k for k, _ in parts]), np.concatenate([c for _, c in parts])


def _sum_equal(keys: I64, counts: I64 | None) -> tuple[I64, I64]:
    """Distinct keys in order, with the sum of their counts (None: one each)."""
    if not len(keys):
        return keys, np.zeros(0, np.int64)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    summed = np.diff(np.concatenate([first, [len(keys)]])) if counts is None else np.add.reduceat(counts[order], first)
    return keys[first], summed


def unit_vectors_reference(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """[rows, contexts]: max(0, ln(n(t,c) n / (n(t) n(c)))), each row scaled to length 1; rows without a positive entry stay zero."""
    n = counts.astype(np.float64)
    out = np.zeros_like(n)
    for t, c in zip(*np.nonzero(n)):
        out[t, c] = max(0.0, np.log(n[t, c] * n.sum() / (n[t].sum() * n[:, c].sum())))
    length = np.sqrt((out**2).sum(axis=1, keepdims=True))
    return out / np.where(length > 0, length, 1.0)


def unit_vectors(counts: Sparse, width: int, rows: int) -> Sparse:
    """As the reference, by rows, without the zeros."""
    row = np.repeat(np.arange(rows), np.diff(counts.ptr))
    value = counts.values.astype(np.float64)
    by_row, by_column = np.bincount(row, value, rows), np.bincount(counts.columns, value, width)
    value = np.log(value * value.sum() / (by_row[row] * by_column[counts.columns]))
    keep = value > 0
    row, column, value = row[keep], counts.columns[keep], value[keep]
    length = np.sqrt(np.bincount(row, value**2, rows))
    ptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))])
    return Sparse(column, (value / length[row]).astype(np.float32), ptr)


def _cosines(vectors: Sparse, new: I64, old: I64, width: int) -> F32:
    """[len(new), len(old)]"""
    wanted = vectors.dense(new, width)
    blocks = [wanted @ vectors.dense(old[i : i + _OLD_AT_ONCE], width).T for i in range(0, len(old), _OLD_AT_ONCE)]
    return np.concatenate(blocks, axis=1)


def sparsemax_reference(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest point to z on the simplex (arXiv 1602.02068): max(z - t, 0) with t such that the sum is 1."""
    ordered = np.sort(z)[::-1]
    sums = np.cumsum(ordered)
    k = np.arange(1, len(z) + 1)
    size = int(k[1 + k * ordered > sums][-1])
    return np.maximum(z - (sums[size - 1] - 1) / size, 0.0)


def sparsemax(z: F32) -> list[tuple[I64, NDArray[np.float64]]]:
    """(indices, weights) of each row's non-zero entries. Only the largest entries are sorted, unless they do not settle it."""
    rows, width = z.shape
    most = min(width, _LIKELY_SUPPORT)
    top = np.argpartition(z, width - most, axis=1)[:, width - most :] if most < width else np.tile(np.arange(width), (rows, 1))
    out = []
    for values, indices in zip(z, top):
        chosen = np.sort(indices)
        weights = sparsemax_reference(values[chosen].astype(np.float64))
        if most < width and weights.all():
            chosen, weights = np.arange(width), sparsemax_reference(values.astype(np.float64))
        some = np.flatnonzero(weights)
        out.append((chosen[some], weights[some]))
    return out

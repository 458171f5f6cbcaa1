"""Documents of any length into rows of one length: indices only, the tokens stay where they are.

A *piece* is (start, length) in a shard. A document longer than a row is cut into pieces that overlap by ONE token: the last token of a
piece is nobody's context there, and the first of the next predicts nothing new, so every token but a document's first is a label exactly
once an epoch.

`best_fit` cuts only what is longer than a row: pieces longest first, each into the row with the least free space that still holds it, else
into a new row (best-fit decreasing; the idea for training is arXiv 2404.10830). `chop` lays documents end to end and cuts at every row
end.

    row of 16:   | a a a a a a a | b b b b b b | c c | . |      three pieces and one token of padding
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from rewarm.tokens.scramble import shuffled

I64 = npt.NDArray[np.int64]
Packing = Literal["best_fit", "chop"]

SHORTEST = 2
"""Tokens of the shortest piece: one token alone predicts nothing."""


@dataclass(frozen=True, slots=True)
class RowTable:
    """Row r holds the pieces row_ptr[r] to row_ptr[r+1], end to end, then padding.

    starts: i64 [P], offset of the piece's first token in its shard; lens: i32 [P], tokens of the piece; row_ptr: i64 [rows + 1].
    """

    starts: I64
    lens: npt.NDArray[np.int32]
    row_ptr: I64

    @property
    def rows(self) -> int:
        return len(self.row_ptr) - 1

    def tokens_of_rows(self) -> I64:
        """Tokens in each row, padding not counted."""
        return np.diff(np.concatenate([[0], np.cumsum(self.lens, dtype=np.int64)])[self.row_ptr])


def pack(lengths: I64, row: int, key: np.uint64, packing: Packing = "best_fit") -> RowTable:
    """Rows of `row` tokens for documents of these lengths that lie end to end in a shard. Pure: same arguments, same rows.

    lengths: int64 [documents], separators counted; key: decides which documents share a row (`scramble.key_of`). Documents of fewer than
    two tokens predict nothing and are left out.
    """
    assert row >= SHORTEST, f"rows of {row} tokens predict nothing"
    if packing == "chop":
        return _chop(lengths, row, key)
    starts, lens = cut(lengths, row)
    order = longest_first(lens, key)
    return _table(starts[order], lens[order], best_fit(lens[order], row))


def cut(lengths: I64, row: int) -> tuple[I64, I64]:
    """(starts, lens) of the pieces of all documents, each at most `row` tokens, neighbours in a document overlapping by one token."""
    first = np.cumsum(lengths) - lengths
    kept = lengths >= SHORTEST
    first, lengths = first[kept], lengths[kept]
    parts = -(-(lengths - 1) // (row - 1))
    number = np.arange(int(parts.sum())) - np.repeat(np.cumsum(parts) - parts, parts)
    offset = number * (row - 1)
    return np.repeat(first, parts) + offset, np.minimum(row, np.repeat(lengths, parts) - offset)


def longest_first(lens: I64, key: np.uint64) -> I64:
    """Order of the pieces: longest first, equal ones at random by `key`."""
    order = shuffled(len(lens), key)
    return order[np.argsort(-lens[order], kind="stable")]


def best_fit_reference(lens: I64, row: int) -> I64:
    """Row of each piece, in the order given: of the rows that hold it, the one with the least free space, of those the one touched last.

    The definition, looking at every row for every piece: for tests.
    """
    free: list[int] = []
    touched: list[int] = []
    rows = np.empty(len(lens), dtype=np.int64)
    for i, length in enumerate(lens.tolist()):
        fitting = [r for r, space in enumerate(free) if space >= length]
        if fitting:
            r = min(fitting, key=lambda r: (free[r], -touched[r]))
        else:
            r = len(free)
            free.append(row)
            touched.append(i)
        free[r] -= length
        touched[r] = i
        rows[i] = r
    return rows


def best_fit(lens: I64, row: int) -> I64:
    """The same rows in about a microsecond a piece: a stack of open rows for each amount of free space, and a bit for each non-empty stack.

    The least fitting space is then the lowest set bit at or above the piece's length, found in an integer of `row` bits. Only for pieces in
    descending order of length, all of at least SHORTEST tokens: a row with less space than that is closed.
    """
    full = int(np.searchsorted(-lens, -row, side="right"))
    rows = np.empty(len(lens), dtype=np.int64)
    rows[:full] = np.arange(full)
    stacks: list[list[int]] = [[] for _ in range(row + 1)]
    bits, opened = 0, full
    placed = []
    for length in lens[full:].tolist():
        fitting = bits >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            stack = stacks[space]
            r = stack.pop()
            if not stack:
                bits ^= 1 << space
            space -= length
        else:
            r = opened
            opened += 1
            space = row - length
        placed.append(r)
        if space >= SHORTEST:
            stack = stacks[space]
            if not stack:
                bits |= 1 << space
            stack.append(r)
    rows[full:] = placed
    return rows


def _table(starts: I64, lens: I64, rows: I64) -> RowTable:
    """Sorts pieces by row, keeping their order inside it."""
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=0)
    return RowTable(starts[order], lens[order].astype(np.int32), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def _chop(lengths: I64, row: int, key: np.uint64) -> RowTable:
    """Documents in random order, end to end; where a row ends inside one, the next row goes on with an overlap of one token."""
    first = np.cumsum(lengths) - lengths
    kept = np.flatnonzero(lengths >= SHORTEST)
    order = kept[shuffled(len(kept), key)]
    starts, lens, rows = [], [], []
    r, used = 0, 0
    for start, left in zip(first[order].tolist(), lengths[order].tolist()):
        while left >= SHORTEST:
            if row - used < SHORTEST:
                r, used = r + 1, 0
            part = min(left, row - used)
            starts.append(start)
            lens.append(part)
            rows.append(r)
            used += part
            start += part - 1
            left -= part - 1
    return _table(np.array(starts, dtype=np.int64), np.array(lens, dtype=np.int64), np.array(rows, dtype=np.int64))

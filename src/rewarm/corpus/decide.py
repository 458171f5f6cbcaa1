"""Decisions on columns of numbers: which documents are copies, and which are held out. No text is read here.

Columns of all documents of all sources: a content hash (128 bits), an order (64 bits of the id's hash) and the size, about 40 bytes a
document.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rewarm.corpus.recipe import Heldout
from rewarm.corpus.units import mix

_ENOUGH = 0.95
"""Held-out text within 5 % of its target is enough: looking on for small documents that still fit would prefer small documents."""


@dataclass(frozen=True, slots=True)
class Columns:
    """One entry a document: content hash hi, lo u64; order u64; bytes i64; number of its source and part i32; row in its part i64."""

    hi: NDArray[np.uint64]
    lo: NDArray[np.uint64]
    order: NDArray[np.uint64]
    bytes: NDArray[np.int64]
    source: NDArray[np.int32]
    part: NDArray[np.int32]
    row: NDArray[np.int64]


def copies(columns: Columns) -> NDArray[np.int64]:
    """i64[documents]: -1, or the document that this one is a copy of.

    Of equal documents the one of the earliest source stays, then the one with the smallest order; never the first that was read.
    """
    if not len(columns.hi):
        return np.zeros(0, np.int64)
    order = np.lexsort((columns.order, columns.source, columns.lo, columns.hi))
    hi, lo = columns.hi[order], columns.lo[order]
    head = np.ones(len(order), np.bool_)
    head[1:] = (hi[1:] != hi[:-1]) | (lo[1:] != lo[:-1])
    kept = order[np.maximum.accumulate(np.where(head, np.arange(len(order)), 0))]
    out = np.empty(len(order), np.int64)
    out[order] = np.where(head, -1, kept)
    return out


def choose_heldout(columns: Columns, candidates: NDArray[np.int64], cfg: Heldout, seed: int) -> NDArray[np.int64]:
    """Numbers of the held-out documents among `candidates` (those of one source), ascending.

    Documents come in the order of their content hash, mixed with the seed, until `share` of the bytes (within min_mb and max_mb) is
    reached, at most a tenth of the documents. So neither names nor places of files decide, and one more document changes little. What
    would go above max_mb is passed over.
    """
    limit = int(cfg.max_mb * 1e6)
    target = min(max(cfg.share * float(columns.bytes[candidates].sum()), cfg.min_mb * 1e6), limit)
    with np.errstate(over="ignore"):
        key = mix(columns.lo[candidates] ^ mix(np.array([seed], np.uint64)))
    chosen: list[int] = []
    total = 0
    for number in candidates[np.lexsort((columns.hi[candidates], key))]:
        if len(chosen) >= len(candidates) // 10 or total >= _ENOUGH * target:
            break
        size = int(columns.bytes[number])
        if total + size <= limit:
            chosen.append(int(number))
            total += size
    return np.array(sorted(chosen), np.int64)


def repeated_ids(columns: Columns, source: int) -> int:
    """How many documents of a source have the id of another one of it (seen by its 64-bit order)."""
    orders = columns.order[columns.source == source]
    return len(orders) - len(np.unique(orders))

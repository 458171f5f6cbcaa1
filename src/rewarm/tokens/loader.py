"""The rows of a step as arrays: gathered from memory-mapped shards, the same for any order of calls and any number of ranks.

ids           a b c . | x y . | pad pad       two documents and padding in one row of nine
labels        b c . -  | y . - |  -   -       already shifted inside the piece; - is -100
position_ids  0 1 2 3 | 0 1 2 |  0   1        restart at every piece
piece         0 0 0 0 | 1 1 1 |  2   2        padding is a piece of its own
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rewarm.errors import UserError
from rewarm.tokens.mixture import Mixture

IGNORE = -100
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


# Axes: B rows, T positions of a row.
@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one step. ids, position_ids, piece int32 [B, T]; labels int64 [B, T], IGNORE where nothing is predicted.

    source int32 [B], counting into `Mixture.names`; bytes int64 [B]: UTF-8 bytes of the text of the row's labels, special tokens 0;
    weight float32 [B, T] or None: how much each label counts (None: 1).
    """

    ids: I32
    position_ids: I32
    labels: I64
    piece: I32
    source: I32
    bytes: I64
    weight: npt.NDArray[np.float32] | None = None


def batch(mixture: Mixture, step: int, rank: int = 0, world: int = 1) -> Batch:
    """The rows that `rank` of `world` reads in the whole of step `step`: its contiguous part of the step's rows.

    UserError if the rows of a step cannot be dealt out evenly.
    """
    rows = mixture.batch_rows
    if rows % world:
        raise UserError(
            f"{rows} rows a step cannot be dealt out to {world} processes",
            where="train.step_tokens",
            fix=f"set train.step_tokens: {max(1, round(rows / world)) * world * mixture.row_tokens}",
        )
    part = rows // world
    first = step * rows + rank * part
    return rows_of(mixture, np.arange(first, first + part))


def rows_of(mixture: Mixture, g: I64) -> Batch:
    """The global rows g (int64 [B], any order) as a batch."""
    width = mixture.row_tokens
    at = mixture.locate(g)
    ids = np.full((len(g), width), mixture.pad_id, dtype=np.int32)
    used = np.zeros(len(g), dtype=np.int64)
    starts_piece = np.zeros((len(g), width), dtype=bool)
    for b, (source, shard, row) in enumerate(zip(at.source.tolist(), at.shard.tolist(), at.row.tolist())):
        table, tokens = mixture.sources[source].tables[shard], mixture.sources[source].shards[shard].ids
        first, end = table.row_ptr[row : row + 2].tolist()
        column = 0
        target = ids[b]
        for start, length in zip(table.starts[first:end].tolist(), table.lens[first:end].tolist()):
            target[column : column + length] = tokens[start : start + length]
            starts_piece[b, column] = True
            column += length
        used[b] = column
    padded = np.flatnonzero(used < width)
    starts_piece[padded, used[padded]] = True
    return _finish(mixture, at.source, ids, starts_piece, used)


def _finish(mixture: Mixture, source: I32, ids: I32, starts: npt.NDArray[np.bool_], used: I64) -> Batch:
    """Labels, positions, pieces and bytes from ids, the first column of each piece and the columns in use."""
    rows, width = ids.shape
    columns = np.arange(width, dtype=np.int32)
    position_ids = columns - np.maximum.accumulate(np.where(starts, columns, 0), axis=1)
    piece = np.cumsum(starts, axis=1, dtype=np.int32) - 1
    predicts = np.zeros((rows, width), dtype=bool)
    predicts[:, :-1] = ~starts[:, 1:]
    predicts &= columns < used[:, None]
    following = np.empty_like(ids)
    following[:, :-1] = ids[:, 1:]
    following[:, -1] = mixture.pad_id
    labels = np.where(predicts, following, IGNORE).astype(np.int64)
    sizes = np.where(predicts, mixture.byte_lengths[following], 0).sum(axis=1, dtype=np.int64)
    return Batch(ids, position_ids.astype(np.int32), labels, piece, source, sizes)

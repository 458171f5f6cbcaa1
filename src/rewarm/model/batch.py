"""The loader's rows as tensors on a device, cut into micro-batches of one constant shape.

Two forms. `rows` [B, T] with the lengths of the pieces as numbers: what a CPU takes, where attention runs piece by piece. `flat` [1, N],
the rows laid end to end with the pieces' bounds in tensors of a fixed size: what a GPU takes, and whatever is compiled. There shapes never
change within a run, so nothing compiles twice: the last micro-batch of a step is filled up with rows that have no label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IGNORE = -100
"""The label that counts nothing: at a piece's last token, in padding, on a prompt that is not learned."""

Form = Literal["rows", "flat"]


class RowBatch(Protocol):
    """The loader's rows of a whole step, as numpy arrays (B rows of T tokens)."""

    @property
    def ids(self) -> npt.NDArray[np.int32]: ...
    @property
    def position_ids(self) -> npt.NDArray[np.int32]: ...
    @property
    def labels(self) -> npt.NDArray[np.int64]: ...
    @property
    def piece(self) -> npt.NDArray[np.int32]: ...
    @property
    def source(self) -> npt.NDArray[np.int32]: ...
    @property
    def bytes(self) -> npt.NDArray[np.int64]: ...
    @property
    def weight(self) -> npt.NDArray[np.float32] | None: ...


# Axes: B rows of this micro-batch, T positions of a row, N = B*T; [shape] is [B, T] in form `rows` and [1, N] in form `flat`.
@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """One micro-batch.

    ids, position_ids, labels int64 [shape]: positions restart at every piece, labels are already shifted inside their piece.
    source int32 [B], bytes int64 [B] (UTF-8 bytes of the row's label tokens): for the loss by source. weight fp32 [shape], or None for 1.
    n_valid: labels of the whole step over all micro-batches and ranks, what the summed loss is divided by.
    lengths: tokens of each piece, row after row, summing to N. In form `flat` they are on the device too: cu int32 [row_pieces*B + 1], the
    first token of every piece and then N up to the end; meta int64 [2] on the **CPU**, (pieces, longest piece), so that reading it neither
    waits for the device nor compiles again.
    """

    ids: Tensor
    position_ids: Tensor
    labels: Tensor
    source: Tensor
    bytes: Tensor
    weight: Tensor | None
    n_valid: int
    lengths: tuple[int, ...]
    cu: Tensor | None = None
    meta: Tensor | None = None

    @property
    def rows(self) -> int:
        return len(self.source)

    def by_row(self, per_token: Tensor) -> Tensor:
        """A tensor of the labels' shape as [B, T]."""
        return per_token.view(self.rows, -1)


def form_for(device: torch.device, *, compiled: bool) -> Form:
    """`flat` on a GPU and where layers are compiled (numbers that change would compile them again), else `rows`."""
    return "flat" if device.type == "cuda" or compiled else "rows"


def count_labels(batch: RowBatch) -> int:
    """Labels that count in these rows; over ranks and micro-batches their sum is `n_valid`."""
    return int((batch.labels != IGNORE).sum())


def micro_batches(
    batch: RowBatch,
    micro_rows: int,
    device: torch.device | str,
    form: Form,
    *,
    n_valid: int | None = None,
    row_pieces: int | None = None,
) -> list[DeviceBatch]:
    """A step's rows in micro-batches of exactly `micro_rows` rows, the last one filled with rows without a label.

    n_valid: labels of the step over all ranks; None = those of `batch` (one rank). row_pieces: the most pieces that any row of the run
    has, for the length of `cu`; None = as many as a row has tokens. Both orders of summation, by micro-batch or all at once, give the
    same loss.
    """
    total = count_labels(batch) if n_valid is None else n_valid
    device = torch.device(device)
    made = []
    for first in range(0, len(batch.ids), micro_rows):
        cut = slice(first, first + micro_rows)
        fill = micro_rows - len(batch.ids[cut])
        piece = _filled(batch.piece[cut], fill, 0)
        positions = _filled(batch.position_ids[cut], fill, 0)
        if fill:
            positions[-fill:] = np.arange(positions.shape[1])
        shape = (1, -1) if form == "flat" else piece.shape
        room = micro_rows * (piece.shape[1] if row_pieces is None else row_pieces)
        made.append(
            DeviceBatch(
                ids=_to(_filled(batch.ids[cut], fill, 0).reshape(shape), torch.int64, device),
                position_ids=_to(positions.reshape(shape), torch.int64, device),
                labels=_to(_filled(batch.labels[cut], fill, IGNORE).reshape(shape), torch.int64, device),
                source=_to(_filled(batch.source[cut], fill, 0), torch.int32, device),
                bytes=_to(_filled(batch.bytes[cut], fill, 0), torch.int64, device),
                weight=None if batch.weight is None else _to(_filled(batch.weight[cut], fill, 0).reshape(shape), torch.float32, device),
                n_valid=total,
                **_bounds(_piece_lengths(piece), device if form == "flat" else None, room),
            )
        )
    return made


def pick_rows(batch: DeviceBatch, rows: Sequence[int]) -> DeviceBatch:
    """Some rows of a micro-batch in the same form, in the given order: what a frozen teacher reads of it. `cu` is as long as it must be."""
    where = torch.tensor(rows, dtype=torch.int64, device=batch.ids.device)
    width = batch.ids.numel() // batch.rows
    ends = np.cumsum(batch.lengths)
    cuts = [batch.lengths[np.searchsorted(ends, row * width, "right") : np.searchsorted(ends, (row + 1) * width) + 1] for row in rows]

    def picked(values: Tensor) -> Tensor:
        chosen = batch.by_row(values)[where]
        return chosen if batch.cu is None else chosen.view(1, -1)

    return DeviceBatch(
        ids=picked(batch.ids),
        position_ids=picked(batch.position_ids),
        labels=picked(batch.labels),
        source=batch.source[where],
        bytes=batch.bytes[where],
        weight=None if batch.weight is None else picked(batch.weight),
        n_valid=batch.n_valid,
        **_bounds(tuple(length for cut in cuts for length in cut), None if batch.cu is None else batch.ids.device, None),
    )


def one_row(pieces: Sequence[Sequence[int]], device: torch.device | str = "cpu", form: Form = "rows") -> DeviceBatch:
    """Documents packed into one row, each labelled with its own next tokens: for the gates and tests."""
    lengths = [len(ids) for ids in pieces]
    row = _OneRow(
        ids=np.concatenate([np.asarray(ids, dtype=np.int32) for ids in pieces])[None],
        position_ids=np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])[None],
        labels=np.concatenate([np.asarray([*ids[1:], IGNORE], dtype=np.int64) for ids in pieces])[None],
        piece=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[None],
        source=np.zeros(1, dtype=np.int32),
        bytes=np.zeros(1, dtype=np.int64),
        weight=None,
    )
    return micro_batches(row, 1, device, form)[0]


@dataclass(frozen=True)
class _OneRow:
    ids: npt.NDArray[np.int32]
    position_ids: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int64]
    piece: npt.NDArray[np.int32]
    source: npt.NDArray[np.int32]
    bytes: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32] | None


def _filled(rows: npt.NDArray, count: int, value: int) -> npt.NDArray:
    """`rows` and `count` more of them that hold `value`; a copy only if count > 0."""
    if not count:
        return rows
    return np.concatenate([rows, np.full((count, *rows.shape[1:]), value, dtype=rows.dtype)])


def _to(values: npt.NDArray, dtype: torch.dtype, device: torch.device) -> Tensor:
    """To the device from pinned memory, widened there: half the bytes on the wire."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if device.type == "cuda":
        tensor = tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(dtype)


def _piece_lengths(piece: npt.NDArray[np.int32]) -> tuple[int, ...]:
    """A piece ends where the number changes and where its row ends."""
    starts = np.ones(piece.shape, dtype=bool)
    starts[:, 1:] = piece[:, 1:] != piece[:, :-1]
    return tuple(np.diff(np.append(np.flatnonzero(starts), piece.size)).tolist())


def _bounds(lengths: tuple[int, ...], device: torch.device | None, room: int | None) -> dict[str, Any]:
    """lengths, and for `flat` cu and meta on `device`; cu has room for that many pieces."""
    if device is None:
        return {"lengths": lengths}
    room = len(lengths) if room is None else room
    assert len(lengths) <= room, f"{len(lengths)} pieces where at most {room} were announced"
    cu = np.full(room + 1, sum(lengths), dtype=np.int32)
    cu[: len(lengths)] = np.cumsum((0, *lengths[:-1]))
    return {
        "lengths": lengths,
        "cu": _to(cu, torch.int32, device),
        "meta": torch.tensor([len(lengths), max(lengths)], dtype=torch.int64),
    }

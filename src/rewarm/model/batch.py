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
    lengths, in form `rows`: tokens of each piece, row after row, summing to N. In form `flat`: cu int32 [row_pieces*B + 1] on the device,
    the first token of every piece and then N up to the end; meta int64 [2] on the **CPU**, (pieces, longest piece), so that reading it
    neither waits for the device nor compiles again.
    """

    ids: Tensor
    position_ids: Tensor
    labels: Tensor
    source: Tensor
    bytes: Tensor
    weight: Tensor | None
    n_valid: int
    lengths: tuple[int, ...] | None = None
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
        made.append(
            DeviceBatch(
                ids=_to(_filled(batch.ids[cut], fill, 0).reshape(shape), torch.int64, device),
                position_ids=_to(positions.reshape(shape), torch.int64, device),
                labels=_to(_filled(batch.labels[cut], fill, IGNORE).reshape(shape), torch.int64, device),
                source=_to(_filled(batch.source[cut], fill, 0), torch.int32, device),
                bytes=_to(_filled(batch.bytes[cut], fill, 0), torch.int64, device),
                weight=None if batch.weight is None else _to(_filled(batch.weight[cut], fill, 0).reshape(shape), torch.float32, device),
                n_valid=total,
                **_bounds(piece, device, form, row_pieces),
            )
        )
    return made


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


def _bounds(piece: npt.NDArray[np.int32], device: torch.device, form: Form, row_pieces: int | None) -> dict[str, Any]:
    rows, width = piece.shape
    starts = np.ones((rows, width), dtype=bool)
    starts[:, 1:] = piece[:, 1:] != piece[:, :-1]
    first = np.flatnonzero(starts)
    lengths = np.diff(np.append(first, rows * width))
    if form == "rows":
        return {"lengths": tuple(lengths.tolist())}
    room = rows * (width if row_pieces is None else row_pieces)
    assert len(first) <= room, f"{len(first)} pieces in {rows} rows, {row_pieces} a row at most"
    cu = np.full(room + 1, rows * width, dtype=np.int32)
    cu[: len(first)] = first
    return {"cu": _to(cu, torch.int32, device), "meta": torch.tensor([len(first), int(lengths.max())], dtype=torch.int64)}

"""Rows picked out of a batch and put together: what a rehearsal and a method's gradients read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rewarm.model.batch import RowBatch


@dataclass
class Rows:
    """A `RowBatch` of some rows."""

    ids: npt.NDArray[np.int32]
    position_ids: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int64]
    piece: npt.NDArray[np.int32]
    source: npt.NDArray[np.int32]
    bytes: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32] | None


_FIELDS = tuple(Rows.__annotations__)


def take(batch: RowBatch, rows: npt.NDArray[np.int64] | slice) -> Rows:
    """These rows of a batch, in this order."""
    return Rows(**{name: _of(batch, name, rows) for name in _FIELDS})


def _of(batch: RowBatch, name: str, rows: Any) -> Any:
    values = getattr(batch, name)
    return None if values is None else values[rows]


def join(parts: Sequence[Rows]) -> Rows:
    """All rows of the parts, in order; all have weights or none has."""
    joined: dict[str, list[Any]] = {name: [getattr(part, name) for part in parts] for name in _FIELDS}
    whole: dict[str, Any] = {name: None if values[0] is None else np.concatenate(values) for name, values in joined.items()}
    return Rows(**whole)

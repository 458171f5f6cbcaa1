"""Where a long document is cut for a model that cannot read it at once: by characters, the same for every tokenizer.

An extended tokenizer packs more than twice the text into a window of tokens, so windows counted in tokens would credit the new vocabulary
with context that it did not earn (2.09 or 1.95 bits per byte of the same text and model, by window alone).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rewarm.errors import UserError

Starts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens begin..end of a document, of which score..end are scored and the others are context."""

    begin: int
    score: int
    end: int


def cut_windows(starts: Starts, window: int, stride: int) -> list[Window]:
    """Windows of one document whose tokens begin at the characters `starts` (never falling).

    Window 0 scores the tokens that begin in [0, W); window k >= 1 those in [W + (k-1) S, W + k S), with the tokens from character k S on
    before them: at least W - S characters. Every token is scored exactly once. Windows that score nothing are left out.
    """
    return list(_windows(starts, window, stride))


def _windows(starts: Starts, window: int, stride: int) -> Iterator[Window]:
    if not len(starts):
        return
    last = int(starts[-1])
    count = 1 if last < window else 2 + (last - window) // stride
    k = np.arange(count)
    ends = np.searchsorted(starts, window + k * stride)
    begins = np.searchsorted(starts, k * stride)
    scored = 0
    for begin, end in zip(begins.tolist(), ends.tolist()):
        if end > scored:
            yield Window(begin, scored, end)
        scored = end
    assert scored == len(starts), "every token is scored exactly once"


def longest(documents: Iterable[Starts], window: int, stride: int) -> int:
    """Tokens of the longest window of these documents."""
    return max((w.end - w.begin for starts in documents for w in cut_windows(starts, window, stride)), default=0)


def fit(window: int, stride: int, models: Iterable[tuple[list[Starts], int | None]], extra: int) -> tuple[int, int]:
    """(window, stride) at which no model's longest window, with `extra` tokens around it, is longer than its positions.

    models: the documents under each one's tokenizer, and its positions (None: no limit). The window is halved until it fits, and the
    stride is then half of it. UserError if not even two characters fit.
    """
    for documents, limit in models:
        while limit is not None and longest(documents, window, stride) + extra > limit:
            if window < 4:
                raise UserError(f"the model has {limit:,} positions: not even two characters fit", where="evaluate.window")
            window //= 2
            stride = window // 2
    return window, stride

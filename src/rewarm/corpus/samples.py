"""A few of the dropped documents of each kind, the same ones in every run: those with the smallest content hash."""

from __future__ import annotations

import heapq
from typing import Any

KEPT = 20
SHOWN_CHARS = 300


class Samples:
    """Keeps the `KEPT` entries with the smallest rank for each reason."""

    def __init__(self) -> None:
        self._heaps: dict[str, list[tuple[int, int, dict[str, Any]]]] = {}
        self._count = 0

    def add(self, reason: str, rank: int, entry: dict[str, Any]) -> None:
        """`rank` orders the entries: a hash of the content. Of equal ranks the first added stays."""
        heap = self._heaps.setdefault(reason, [])
        self._count += 1
        item = (-rank, -self._count, entry)
        if len(heap) < KEPT:
            heapq.heappush(heap, item)
        elif item > heap[0]:
            heapq.heapreplace(heap, item)

    def wanted(self, reason: str, rank: int) -> bool:
        """Would an entry of this rank be kept now? Saves making entries for nothing."""
        heap = self._heaps.get(reason, [])
        return len(heap) < KEPT or -rank > heap[0][0]

    def as_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Reason -> entries with their `rank`, smallest first."""
        return {
            reason: [{"rank": -rank, **entry} for rank, _, entry in sorted(heap, key=lambda item: (-item[0], -item[1]))]
            for reason, heap in sorted(self._heaps.items())
        }


def shown(text: str) -> str:
    """The beginning of a text, for people."""
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "…"

"""What readers hand on: rows that are text, rows that are not, and the tally of both."""

from __future__ import annotations

from dataclasses import dataclass, field

KEPT_REJECTS = 1_000
"""So many broken rows a file are written out; all are counted."""


@dataclass(frozen=True, slots=True)
class Row:
    """One text as it stands in the file. `part` is the number of the piece where one row gives several documents."""

    row: int
    text: str
    id: str | None = None
    part: int | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that is no text: which (counted from 1, as editors count lines), where (byte offset in the unpacked file, None in tables and
    arrays), what kind, and why."""

    file: str
    row: int
    offset: int | None
    kind: str
    error: str


@dataclass
class Tally:
    """What a reader met beside the documents: rows with content, broken rows, headings that were left out; and how far it is."""

    rows: int = 0
    rejected: int = 0
    rejects: list[Reject] = field(default_factory=list)
    left_out_chars: int = 0
    files: int = 0
    """Files that are finished."""
    place: int = 0
    """Bytes of the present file (as packed on disk) that were read so far."""

    def at(self, place: int) -> None:
        self.place = place

    def reject(self, reject: Reject) -> None:
        self.rejected += 1
        if len(self.rejects) < KEPT_REJECTS:
            self.rejects.append(reject)

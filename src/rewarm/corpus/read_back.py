"""A finished corpus folder, opened for the rooms that come after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rewarm.atomic import read_json
from rewarm.errors import UserError


@dataclass(frozen=True, slots=True)
class SourceDocs:
    """Documents of one source: parquet files with id, text, source, language, licence, bytes; `heldout` has the same, or is None."""

    name: str
    role: str
    languages: tuple[str, ...]
    licence: str | None
    files: tuple[Path, ...]
    documents: int
    bytes: int
    heldout: Path | None
    heldout_documents: int
    heldout_bytes: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """All sources of a corpus folder, in the recipe's order."""

    folder: Path
    sources: tuple[SourceDocs, ...]


def open_corpus(folder: Path) -> Corpus:
    """Reads `corpus.json` of a finished corpus. UserError if there is none."""
    try:
        record = read_json(folder / "corpus.json")
    except FileNotFoundError:
        raise UserError("no finished corpus here (corpus.json is missing)", where=str(folder), fix="run the corpus stage first") from None
    sources = tuple(
        SourceDocs(
            name=s["name"],
            role=s["role"],
            languages=tuple(s["languages"]),
            licence=s["licence"],
            files=tuple(folder / name for name in s["files"]),
            documents=s["documents"],
            bytes=s["bytes"],
            heldout=folder / s["heldout"] if s["heldout"] else None,
            heldout_documents=s["heldout_documents"],
            heldout_bytes=s["heldout_bytes"],
        )
        for s in record["sources"]
    )
    return Corpus(folder, sources)

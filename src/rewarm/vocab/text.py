"""The text that an extension learns from: files in, pieces out, and which piece is counted, held out or tested.

A piece is a document, or a part of about 10,000 characters of a long one. What happens to it depends on a hash of its text alone, so the
order of files and documents changes nothing.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from rewarm.errors import UserError

PIECE_CHARS = 10_000
LONG_LINE = 200
_SENTENCE_END = re.compile(r"(?<=[.!?])(?=\s)|(?<=[。！？])(?!$)")


def read_documents(path: Path) -> Iterator[str]:
    """Texts of a .parquet (column `text`), .jsonl (field `text`) or .txt file (one document).

    Raises UserError naming the file, and the row or byte where there is one, if the text cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("no such file", where=str(path), fix="give a .txt, .jsonl or .parquet file")
    reader = {".parquet": _read_parquet, ".jsonl": _read_jsonl, ".txt": _read_txt}.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"unknown kind of file `{path.suffix}`", where=str(path), fix="give a .txt, .jsonl or .parquet file")
    yield from reader(path)


def _read_txt(path: Path) -> Iterator[str]:
    try:
        yield path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 (byte {error.start:,})", where=str(path), fix="save the text as UTF-8") from None


def _read_jsonl(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for row, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
            except orjson.JSONDecodeError as error:
                raise UserError(f"not JSON: {error}", where=f"{path}, row {row:,}", fix="mend or remove this row") from None
            text = value.get("text") if isinstance(value, dict) else None
            if not isinstance(text, str):
                has = ", ".join(value) if isinstance(value, dict) else type(value).__name__
                raise UserError(f"field `text` is missing or no string; this row has: {has}", where=f"{path}, row {row:,}")
            yield text


def _read_parquet(path: Path) -> Iterator[str]:
    try:
        with pq.ParquetFile(path) as file:
            if "text" not in file.schema_arrow.names:
                raise UserError(f"no column `text`; there are: {', '.join(file.schema_arrow.names)}", where=str(path))
            for batch in file.iter_batches(batch_size=4096, columns=["text"]):
                yield from (text for text in batch.column(0).to_pylist() if text)
    except pa.ArrowInvalid as error:
        raise UserError(f"not a parquet file: {str(error).splitlines()[0]}", where=str(path)) from None


def cut_pieces(document: str) -> Iterator[str]:
    """The document itself, or, if it is longer than two pieces, parts of about PIECE_CHARS characters that end at line ends."""
    if len(document) <= 2 * PIECE_CHARS:
        if document:
            yield document
        return
    start = 0
    while start < len(document):
        end = document.find("\n", start + PIECE_CHARS)
        end = len(document) if end < 0 else end + 1
        yield document[start:end]
        start = end


def _hash(raw: bytes, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(raw, seed & 0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class Sample:
    """Pieces of one language's (or the protected) text, cut by hash into parts."""

    counted: list[str]
    tuning: list[str]
    test: list[str]
    total_bytes: int
    """UTF-8 bytes of all files, before sampling."""


def sample_pieces(files: Iterable[Path], limit_bytes: int, tuning: float, test: float, seed: int) -> Sample:
    """Reads all files and keeps the pieces of smallest hash until `limit_bytes` are reached; then cuts them into parts.

    tuning, test: shares (0..1) of the pieces. The same set of texts gives the same parts, in any order of files.
    """
    kept: list[tuple[int, str, int]] = []
    size = total = 0
    for path in files:
        for document in read_documents(path):
            for piece in cut_pieces(document):
                raw = piece.encode(errors="surrogatepass")
                n = len(raw)
                total += n
                size += n
                heapq.heappush(kept, (-_hash(raw, seed), piece, n))
                while size - kept[0][2] >= limit_bytes:
                    size -= heapq.heappop(kept)[2]
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for _, piece, _ in sorted(kept, key=lambda item: (-item[0], item[1])):
        share = _hash(piece.encode(errors="surrogatepass"), seed + 1) / 2.0**64
        parts[1 if share < tuning else 2 if share < tuning + test else 0].append(piece)
    return Sample(*parts, total_bytes=total)


def lines_of(pieces: Iterable[str]) -> Iterator[str]:
    """Lines with the line ends that follow them: `"a\\n\\nb"` gives `"a\\n\\n"` and `"b"`."""
    for piece in pieces:
        start = 0
        while start < len(piece):
            end = piece.find("\n", start)
            if end < 0:
                yield piece[start:]
                break
            end += 1
            while end < len(piece) and piece[end] == "\n":
                end += 1
            yield piece[start:end]
            start = end


def compared_lines(pieces: Iterable[str]) -> list[str]:
    """What counts as a line where changed lines are counted: unique, in order, without blank ones and without their line ends.

    Clean text has whole paragraphs in a line, so a share of them would say how long the paragraphs are. A line above LONG_LINE characters
    is therefore cut at the ends of its sentences; the blank goes with what follows, as most tokenizers have it.
    """
    out: set[str] = set()
    for line in lines_of(pieces):
        line = line.strip("\n")
        out.update(_SENTENCE_END.split(line) if len(line) > LONG_LINE else [line])
    return sorted(line for line in out if line.strip())

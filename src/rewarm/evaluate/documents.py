"""The text that is measured: documents with names, in an order that no file decides.

Documents are sorted by a hash of their text, so that "the first 200 KB" are the same ones whatever the order of rows or files, and nothing
about a text is changed: what is measured is what is in the file.
"""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from rewarm.errors import UserError

PIECE_BYTES = 4096
FEW_DOCUMENTS = 10
"""Fewer documents give no interval; so a text of fewer, but longer ones is cut into pieces."""
KINDS = ".txt, .md, .jsonl, .jsonl.gz, .jsonl.zst or .parquet"


@dataclass(frozen=True, slots=True)
class TextRef:
    """A text to measure: `old` text that shall be kept, or `new` text that shall be learned. half: only one half of its documents, so that
    what was chosen on one is reported on the other. field: of the text in jsonl and parquet."""

    name: str
    role: Literal["old", "new"]
    path: Path
    half: Literal["control", "verify"] | None = None
    field: str = "text"


@dataclass(frozen=True, slots=True)
class Documents:
    """ids and texts, sorted by the hash of the text. cut: documents are pieces of longer ones. empty: how many were skipped."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    cut: bool = False
    empty: int = 0

    @property
    def bytes(self) -> int:
        return sum(len(text.encode()) for text in self.texts)

    @property
    def sha256(self) -> str:
        """Of all texts, whatever their order or ids."""
        return hashlib.sha256(b"".join(sorted(_digest(text) for text in self.texts))).hexdigest()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _sorted(documents: Iterable[tuple[str, str]], cut: bool = False, empty: int = 0) -> Documents:
    order = sorted(documents, key=lambda document: (_digest(document[1]), document[0]))
    return Documents(tuple(i for i, _ in order), tuple(text for _, text in order), cut, empty)


def read_documents(path: Path, field: str = "text") -> Documents:
    """All documents of a file: a .txt or .md file is one, a .jsonl or .parquet has one a row, named by its `id` field or its number.

    Empty ones are counted and left out. UserError names file and row where something cannot be read, and the fields that are there.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "txt":
        rows: Iterator[tuple[str, str]] = iter([(path.stem, _utf8(path.read_bytes(), str(path)))])
    else:
        rows = _jsonl(path, field) if kind == "jsonl" else _parquet(path, field)
    found: dict[str, str] = {}
    empty = 0
    for row, (identity, text) in enumerate(rows, 1):
        if identity in found:
            raise UserError(f"the id `{identity}` is there twice", where=f"{path}, row {row:,}", fix="give every document an id of its own")
        if text.strip():
            found[identity] = text
        else:
            empty += 1
    if not found:
        raise UserError("there is no text in this file", where=str(path))
    return _sorted(found.items(), empty=empty)


def kind_of(path: Path) -> Literal["txt", "jsonl", "parquet"]:
    """How a file is read, by its ending. UserError for a file that is not there or ends otherwise."""
    if not path.is_file():
        raise UserError("a folder, not a file" if path.is_dir() else "no such file", where=str(path), fix=f"give a {KINDS} file")
    name = path.name.lower()
    if name.endswith((".txt", ".md")):
        return "txt"
    if name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
        return "jsonl"
    if name.endswith(".parquet"):
        return "parquet"
    raise UserError(f"unknown kind of file `{path.suffix}`", where=str(path), fix=f"give a {KINDS} file")


def _utf8(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text (byte {error.start:,})", where=where, fix="save it as UTF-8, or leave it out") from None


def _jsonl(path: Path, field: str) -> Iterator[tuple[str, str]]:
    row = 0
    try:
        with _lines(path) as file:
            for row, line in enumerate(file, 1):
                if not line.strip():
                    continue
                where = f"{path}, row {row:,}"
                try:
                    value = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
                except orjson.JSONDecodeError as error:
                    raise UserError(f"not JSON: {error}", where=where, fix="mend or remove this row") from None
                if not isinstance(value, dict):
                    raise UserError(f"a row is a JSON object, this is a {type(value).__name__}", where=where, fix="write one object a line")
                if not isinstance(text := value.get(field), str):
                    raise UserError(
                        f"field `{field}` is missing or no string; this row has: {', '.join(value) or 'nothing'}",
                        where=where,
                        fix="name the text's field (--field), or mend this row",
                    )
                yield str(value.get("id", row)), text
    except (gzip.BadGzipFile, EOFError, zstandard.ZstdError) as error:
        raise UserError(f"cannot be unpacked: {error}", where=f"{path}, after row {row:,}", fix="the file is damaged or cut") from None


def _lines(path: Path) -> io.BufferedIOBase:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".zst":
        raw = path.open("rb")
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=True))
    return path.open("rb")


def _parquet(path: Path, field: str) -> Iterator[tuple[str, str]]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise UserError(
                    f"no column `{field}`; there are: {', '.join(names)}", where=str(path), fix="name the text's column (--field)"
                )
            columns = [field, "id"] if "id" in names and field != "id" else [field]
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                texts = batch.column(field).to_pylist()
                ids = batch.column("id").to_pylist() if "id" in columns and field != "id" else [None] * len(texts)
                for identity, text in zip(ids, texts):
                    row += 1
                    if not isinstance(text, str):
                        found = "empty" if text is None else f"a {type(text).__name__}"
                        raise UserError(
                            f"column `{field}` is {found}, not text", where=f"{path}, row {row:,}", fix="mend or remove this row"
                        )
                    yield str(row if identity is None else identity), text
    except pa.ArrowInvalid as error:
        raise UserError(f"not a parquet file: {str(error).splitlines()[0]}", where=str(path)) from None


def prepare(ref: TextRef, max_bytes: int) -> Documents:
    """The documents of a text that are measured: read, long ones cut, the half, then as many as `max_bytes` hold."""
    documents = cut_long(read_documents(ref.path, ref.field), max_bytes)
    if ref.half is not None:
        if len(documents.ids) < 2:
            raise UserError("one document cannot be halved", where=f"text `{ref.name}`: {ref.path}", fix="hold out more text")
        documents = halves(documents)[ref.half == "verify"]
    return select(documents, max_bytes)


def cut_long(documents: Documents, max_bytes: int) -> Documents:
    """Long documents in pieces that end at line ends; all of about 4 KB if there are fewer than ten documents, else those above a tenth of
    `max_bytes` in pieces of that size. So one book still gives an interval, and no single document is all that is measured."""
    size = PIECE_BYTES if len(documents.ids) < FEW_DOCUMENTS else max(PIECE_BYTES, max_bytes // 10)
    pieces: list[tuple[str, str]] = []
    for identity, text in zip(documents.ids, documents.texts):
        parts = list(_pieces(text, size))
        pieces += [(identity, text)] if len(parts) == 1 else [(f"{identity}#{i}", part) for i, part in enumerate(parts, 1)]
    if len(pieces) == len(documents.ids):
        return documents
    return _sorted(pieces, cut=True, empty=documents.empty)


def _pieces(text: str, size: int) -> Iterator[str]:
    """Parts of at least `size` bytes that end where a line ends, or else at a character; the parts together are the text."""
    if len(text.encode()) < 2 * size:
        yield text
        return
    part, held = [], 0
    for line in text.splitlines(keepends=True):
        for begin in range(0, len(line), size):
            part.append(line[begin : begin + size])
            held += len(part[-1].encode())
            if held >= size:
                yield "".join(part)
                part, held = [], 0
    if part:
        yield "".join(part)


def halves(documents: Documents) -> tuple[Documents, Documents]:
    """(control, verify): every second document in the order of a hash that is not the one which selects, so both are fair samples."""
    order = sorted(
        range(len(documents.ids)), key=lambda i: (hashlib.sha256(b"half\0" + documents.texts[i].encode()).digest(), documents.ids[i])
    )
    control, verify = sorted(order[0::2]), sorted(order[1::2])
    return _subset(documents, control), _subset(documents, verify)


def _subset(documents: Documents, rows: list[int]) -> Documents:
    return replace(documents, ids=tuple(documents.ids[i] for i in rows), texts=tuple(documents.texts[i] for i in rows))


def select(documents: Documents, max_bytes: int) -> Documents:
    """Documents in the order of their hash up to `max_bytes` together, at least one."""
    rows: list[int] = []
    total = 0
    for i, text in enumerate(documents.texts):
        total += len(text.encode())
        if rows and total > max_bytes:
            break
        rows.append(i)
    return _subset(documents, rows)

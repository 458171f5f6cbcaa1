"""Rows out of files: strict about what is text, patient with what is broken.

A row that cannot be read is noted with file, row, byte offset and reason, and the reading goes on; who calls decides how many are too many.
JSON is read row by row into plain objects and only two fields are looked at, so side fields may change their type from row to row, which
typed readers refuse. Rows, and with them ids, count every line of a file, also blank and broken ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import orjson

from rewarm.corpus.plan import InputFile
from rewarm.corpus.recipe import Source
from rewarm.corpus.rows import Reject, Row, Tally
from rewarm.corpus.statute import cut
from rewarm.corpus.streams import BOM, Truncated, blocks, lines
from rewarm.errors import UserError

WHOLE_JSON_BYTES = 256_000_000
"""A .json file that is one array or one object is parsed in one piece, up to this size."""
DOCUMENT_BYTES = 64_000_000
"""Longer texts are split at paragraphs."""


def read_file(file: InputFile, source: Source, tally: Tally, limit: int = DOCUMENT_BYTES) -> Iterator[Row]:
    """Every readable row of a file, in order; the others go to `tally`. Texts above `limit` bytes come in parts.

    Raises UserError for a truncated or damaged file, and for a table without the text column.
    """
    reader: Callable[[InputFile, Source, Tally], Iterator[Row]] = {"txt": read_txt, "jsonl": read_jsonl, "parquet": read_parquet}[
        file.format
    ]
    try:
        for row in reader(file, source, tally):
            if len(row.text) * 4 <= limit or len(row.text.encode()) <= limit:
                yield row
            else:
                for part, text in enumerate(split_long(row.text, limit)):
                    yield Row(row.row, text, row.id, part)
    except Truncated as error:
        raise UserError(
            f"{error}; {tally.rows - tally.rejected:,} rows came before the break",
            where=str(file.path),
            fix="fetch or write the file again, or leave it out of the source's paths",
        ) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=str(file.path)) from None


def split_long(text: str, limit: int) -> list[str]:
    """Pieces of at most `limit` UTF-8 bytes, cut after the last blank line before it, else line, else space, else anywhere."""
    data = text.encode()
    pieces = []
    start = 0
    while len(data) - start > limit:
        end = -1
        for mark in (b"\n\n", b"\n", b" "):
            at = data.rfind(mark, start, start + limit)
            if at > start:
                end = at + len(mark)
                break
        if end < 0:
            end = start + limit
            while data[end] & 0xC0 == 0x80:
                end -= 1
        pieces.append(data[start:end].decode())
        start = end
    return [*pieces, data[start:].decode()]


def read_txt(file: InputFile, source: Source, tally: Tally) -> Iterator[Row]:
    """A text file by `source.txt_unit`: whole, by blocks between blank lines, by lines, or by articles of a statute."""
    stream = blocks(file.path, tally.at)
    head = next(stream, b"")
    if head.count(0) * 100 > len(head):
        tally.rows += 1
        tally.reject(Reject(file.name, 1, 0, "binary", "NUL bytes: a binary file, or UTF-16"))
        return
    rows = _units(lines(chain([head], stream)), source.txt_unit, DOCUMENT_BYTES)
    for number, (offset, data) in enumerate(rows):
        if not data.strip():
            continue
        text = _utf8(data, file, number, offset, tally)
        if text is None:
            continue
        if source.txt_unit != "article":
            yield Row(number, text)
            continue
        statute = cut(text)
        tally.left_out_chars += statute.left_out
        if not statute.articles:
            tally.reject(Reject(file.name, 1, 0, "article", "no line begins with `Điều <number>.`"))
        for part, article in enumerate(statute.articles):
            yield Row(number, article, part=part)


def _units(rows: Iterator[tuple[int, bytes]], unit: str, limit: int) -> Iterator[tuple[int, bytes]]:
    """Lines put together to documents, with the byte offset where each begins.

    A document of more than `limit` bytes ends at the next blank line, so that a file of any size passes through little memory; a statute
    stays whole.
    """
    if unit == "line":
        yield from rows
        return
    start, size = 0, 0
    kept: list[bytes] = []
    for offset, row in rows:
        full = size > limit and unit != "article"
        if (unit == "blank_line" or full) and not row.strip():
            if kept:
                yield start, b"".join(kept)
            size, kept = 0, []
            continue
        if not kept:
            start = offset
        kept.append(row)
        size += len(row)
    if kept:
        yield start, b"".join(kept)


def _utf8(data: bytes, file: InputFile, row: int, offset: int, tally: Tally) -> str | None:
    tally.rows += 1
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        tally.reject(Reject(file.name, row + 1, offset + error.start, "encoding", f"no UTF-8: byte 0x{data[error.start]:02x}"))
        return None


def read_jsonl(file: InputFile, source: Source, tally: Tally) -> Iterator[Row]:
    """JSON, one object a line; also a file that is one array of objects, or one object with the text field."""
    stream = blocks(file.path, tally.at)
    head = next(stream, b"")
    first = head.removeprefix(BOM).lstrip()[:1]
    if first == b"[" or (first == b"{" and not _first_line_is_json(head)):
        stored = [head]
        while sum(map(len, stored)) <= WHOLE_JSON_BYTES and (block := next(stream, None)):
            stored.append(block)
        whole = _parse(b"".join(stored).removeprefix(BOM))
        items = _items(whole, file, source) if not isinstance(whole, orjson.JSONDecodeError) else None
        if items is not None:
            for number, item in enumerate(items):
                tally.rows += 1
                yield from _json_row(item, file, source, number, None, tally)
            return
        if sum(map(len, stored)) > WHOLE_JSON_BYTES and first == b"[" and not _first_line_is_json(head):
            raise UserError(
                f"a JSON array of more than {WHOLE_JSON_BYTES // 10**6} MB; such files are read as JSON lines only",
                where=str(file.path),
                fix="write one object a line, for example with: jq -c '.[]' FILE > FILE.jsonl",
            )
        stream = chain(stored, stream)
    else:
        stream = chain([head], stream)
    for number, (offset, line) in enumerate(lines(stream)):
        line = line.removeprefix(BOM).strip()
        if not line:
            continue
        tally.rows += 1
        item = _parse(line)
        if isinstance(item, orjson.JSONDecodeError):
            tally.reject(Reject(file.name, number + 1, offset, "json", f"no JSON: {item.msg} at character {item.pos}"))
        else:
            yield from _json_row(item, file, source, number, offset, tally)


def _parse(data: bytes) -> Any:
    """The parsed value, or the error as a value."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        return error


def _first_line_is_json(head: bytes) -> bool:
    line = head.removeprefix(BOM).lstrip().partition(b"\n")[0]
    return not isinstance(_parse(line), orjson.JSONDecodeError)


def _items(whole: Any, file: InputFile, source: Source) -> list[Any] | None:
    """The documents of a file that is one JSON value; None if it is better read by lines. UserError for a list inside an object."""
    if isinstance(whole, list):
        return whole if any(isinstance(item, dict) for item in whole) else None
    if not isinstance(whole, dict) or source.text_field in whole:
        return [whole]
    key = next((k for k, v in whole.items() if isinstance(v, list) and any(isinstance(item, dict) for item in v)), None)
    if key is None:
        return [whole]
    raise UserError(
        f"one JSON object that holds an array under `{key}`, not JSON lines",
        where=str(file.path),
        fix=f"write the array's items one a line, for example with: jq -c '.{key}[]' FILE > FILE.jsonl",
    )


def _json_row(item: Any, file: InputFile, source: Source, row: int, offset: int | None, tally: Tally) -> Iterator[Row]:
    if not isinstance(item, dict):
        tally.reject(Reject(file.name, row + 1, offset, "object", f"expected an object, found {_kind(item)}"))
    elif source.text_field not in item:
        has = ", ".join(list(item)[:8]) or "no field"
        tally.reject(Reject(file.name, row + 1, offset, "field", f"field `{source.text_field}` is missing; this row has: {has}"))
    elif not isinstance(item[source.text_field], str):
        kind = _kind(item[source.text_field])
        tally.reject(Reject(file.name, row + 1, offset, "type", f"field `{source.text_field}` is {kind}, expected text"))
    else:
        yield Row(row, item[source.text_field], _id(item.get(source.id_field) if source.id_field else None))


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a truth value", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def _id(value: Any) -> str | None:
    """A document's own name: text, or a number as text; anything else counts as none."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def read_parquet(file: InputFile, source: Source, tally: Tally) -> Iterator[Row]:
    """The text column (and the id column) of a parquet table, some hundred rows at a time; a null is a broken row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file.path)
        names = table.schema_arrow.names
        columns = list(dict.fromkeys([source.text_field, *([source.id_field] if source.id_field in names else [])]))
        if source.text_field not in names:
            raise UserError(
                f"no column `{source.text_field}`; this table has: {', '.join(names)}",
                where=str(file.path),
                fix=f"set text_field of source `{source.name}` to the column that holds the text",
            )
        row = 0
        for batch in table.iter_batches(batch_size=256, columns=columns):
            texts = _strings(batch.column(source.text_field), file, source)
            ids = batch.column(columns[-1]).to_pylist() if len(columns) > 1 else [None] * len(texts)
            for text, name in zip(texts, ids):
                tally.rows += 1
                tally.at(file.bytes * (row + 1) // table.metadata.num_rows)
                if text is None:
                    tally.reject(Reject(file.name, row + 1, None, "type", f"column `{source.text_field}` is null"))
                else:
                    yield Row(row, text, _id(name))
                row += 1
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None):
            raise
        raise Truncated(f"no whole parquet file ({str(error).splitlines()[0].rstrip('.')})") from None


def _strings(column: Any, file: InputFile, source: Source) -> list[str | None]:
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise UserError(f"column `{source.text_field}` holds {column.type}, expected text", where=str(file.path), fix="set text_field")
    try:
        return column.to_pylist()
    except UnicodeDecodeError as error:
        raise UserError(f"column `{source.text_field}` holds bytes that are no UTF-8 ({error.reason})", where=str(file.path)) from None

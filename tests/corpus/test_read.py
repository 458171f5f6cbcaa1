"""Every way text lies in files, whole and broken: what can be read is read, what cannot is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from rewarm.corpus.plan import InputFile, format_of
from rewarm.corpus.read import read_file, split_long
from rewarm.corpus.recipe import Source
from rewarm.corpus.rows import Tally
from rewarm.corpus.streams import blocks, lines
from rewarm.errors import UserError

ROWS = [{"id": f"a{i}", "text": f"Văn bản số {i}: " + "nội dung " * i} for i in range(12)]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def read(path: Path, data: bytes | None = None, **fields) -> tuple[list[tuple], Tally]:
    if data is not None:
        path.write_bytes(data)
    tally = Tally()
    source = Source(name="s", paths=["x"], **fields)
    file = InputFile(path, path.name, format_of(path) or source.format, path.stat().st_size)
    return [(row.row, row.id, row.text) for row in read_file(file, source, tally)], tally


ALL = [(i, row["id"], row["text"]) for i, row in enumerate(ROWS)]
IDS = {"id_field": "id"}


def frames(data: bytes, ends: list[int], pack) -> bytes:
    return b"".join(pack(data[a:b]) for a, b in zip([0, *ends], [*ends, len(data)]))


SKIPPABLE = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("plain.jsonl", JSONL),
        ("no-last-newline.jsonl", JSONL[:-1]),
        ("bom.jsonl", b"\xef\xbb\xbf" + JSONL),
        ("windows.jsonl", JSONL.replace(b"\n", b"\r\n")),
        ("members.jsonl.gz", frames(JSONL, [70, 71, 400], gzip.compress)),
        ("frames.jsonl.zst", SKIPPABLE + frames(JSONL, [70, 71, 400], zstandard.compress) + SKIPPABLE),
        ("packed-but-not-by-name.jsonl", gzip.compress(JSONL)),
        ("array.json", json.dumps(ROWS).encode()),
        ("pretty.json", json.dumps(ROWS, indent=2, ensure_ascii=False).encode()),
        ("array-on-one-line.jsonl", b"\xef\xbb\xbf  " + json.dumps(ROWS).encode() + b"\n"),
    ],
)
def test_one_text_in_ten_wrappings_gives_the_same_rows(tmp_path, name, data):
    """Several gzip members or zstandard frames cut rows anywhere; a reader of the first one only would lose most without a word."""
    assert read(tmp_path / name, data, **IDS)[0] == ALL


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_lines_do_not_depend_on_where_blocks_end(chunk):
    """A line end may fall between two blocks, also inside \\r\\n."""
    data = b"\xef\xbb\xbfm\xe1\xbb\x99t\r\nhai\rba\n\n\xe2\x80\xa8b\xe1\xbb\x91n"
    found = list(lines(data[i : i + chunk] for i in range(0, len(data), chunk)))
    assert [line for _, line in found] == [b"m\xe1\xbb\x99t\r\n", b"hai\r", b"ba\n", b"\n", b"\xe2\x80\xa8b\xe1\xbb\x91n"]
    assert [offset for offset, _ in found] == [0, 10, 14, 17, 18]


@pytest.mark.parametrize(("name", "pack"), [("cut.jsonl.gz", gzip.compress), ("cut.jsonl.zst", zstandard.compress)])
def test_a_cut_stream_is_an_error_that_names_file_and_rows(tmp_path, name, pack):
    """Half a file that passes for a whole one is the worst kind of loss; the first member is whole here."""
    whole = frames(JSONL, [JSONL.index(b"\n", 300) + 1], pack)
    with pytest.raises(UserError) as error:
        read(tmp_path / name, whole[:-20])
    assert name in error.value.render() and "ends in the middle" in error.value.what and "rows came before" in error.value.what


@pytest.mark.parametrize("name", ["damaged.jsonl.gz", "damaged.jsonl.zst"])
def test_a_damaged_stream_is_an_error_that_names_the_file(tmp_path, name):
    data = gzip.compress(JSONL) if name.endswith("gz") else zstandard.ZstdCompressor(write_checksum=True).compress(JSONL)
    with pytest.raises(UserError, match="damaged"):
        read(tmp_path / name, data[:60] + bytes([data[60] ^ 0xFF]) + data[61:])


def test_an_empty_file_has_no_rows(tmp_path):
    for name in ("a.jsonl", "b.txt"):
        rows, tally = read(tmp_path / name, b"")
        assert (rows, tally.rows) == ([], 0)


@pytest.mark.parametrize(
    ("line", "kind", "word"),
    [
        (b'{"text": "a"', "json", "character"),
        (b"{'text': 'a'}", "json", "no JSON"),
        (b'["text", "a"]', "object", "a list"),
        (b"null", "object", "null"),
        (b'{"body": "a", "title": "b"}', "field", "body, title"),
        (b'{"text": null}', "type", "null"),
        (b'{"text": 42}', "type", "a number"),
        (b'{"text": {"vi": "a"}}', "type", "an object"),
        (b'{"text": "\xff\xfe"}', "json", "UTF-8"),
        (b'{"text": "\\ud83d"}', "json", "surrogate"),
        (b'{"text": "a"} {"text": "b"}', "json", "no JSON"),
    ],
)
def test_a_broken_row_is_named_and_the_rest_is_read(tmp_path, line, kind, word):
    """File, row and byte offset are what a person needs to look at it; the row is the line's number, blank lines counted."""
    rows, tally = read(tmp_path / "x.jsonl", b'{"text": "tr\xc6\xb0\xe1\xbb\x9bc"}\n \n' + line + b'\n{"text": "sau"}\n')
    assert [(row, text) for row, _, text in rows] == [(0, "trước"), (3, "sau")]
    (reject,) = tally.rejects
    assert (tally.rows, tally.rejected, reject.file, reject.row, reject.offset, reject.kind) == (3, 1, "x.jsonl", 3, 23, kind)
    assert word in reject.error


def test_a_first_row_that_is_an_array_does_not_make_the_file_one(tmp_path):
    rows, tally = read(tmp_path / "x.jsonl", b'["a"]\n{"text": "b"}\n')
    assert [text for _, _, text in rows] == ["b"] and tally.rejected == 1


def test_side_fields_may_change_their_type(tmp_path):
    """A typed JSON reader refuses the whole file at the row where a year becomes text."""
    sides = [1984, "1984", None, {"y": 1}, [1, "a"], 1.5, True]
    data = "".join(json.dumps({"id": f"m{i}", "text": f"văn bản {i}", "meta": side}) + "\n" for i, side in enumerate(sides))
    rows, tally = read(tmp_path / "x.jsonl", data.encode(), **IDS)
    assert len(rows) == len(sides) and tally.rejected == 0


def test_an_object_around_the_array_is_an_error_that_names_the_key(tmp_path):
    """Never a rejected row for each line of the pretty print."""
    with pytest.raises(UserError) as error:
        read(tmp_path / "wrapped.json", json.dumps({"version": 1, "data": ROWS}, indent=1).encode())
    assert "wrapped.json" in error.value.render() and "array under `data`" in error.value.what and "jq" in str(error.value.fix)


def test_one_pretty_object_is_one_document(tmp_path):
    rows, _ = read(tmp_path / "one.json.gz", gzip.compress(json.dumps({"n": 1, "raw": "văn bản"}, indent=1).encode()), text_field="raw")
    assert rows == [(0, None, "văn bản")]


def test_ids_may_be_text_or_numbers(tmp_path):
    rows, _ = read(
        tmp_path / "x.jsonl", b'{"id": 28, "text": "a"}\n{"id": "b", "text": "b"}\n{"text": "c"}\n{"id": null, "text": "d"}', **IDS
    )
    assert [name for _, name, _ in rows] == ["28", "b", None, None]


TXT = "Dòng một\r\ndòng hai\r\n\r\n \r\nKhối hai\u2028vẫn khối hai\r\n"


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("file", [TXT]),
        ("blank_line", ["Dòng một\r\ndòng hai\r\n", "Khối hai\u2028vẫn khối hai\r\n"]),
        ("line", ["Dòng một\r\n", "dòng hai\r\n", "Khối hai\u2028vẫn khối hai\r\n"]),
    ],
)
def test_a_text_file_is_cut_by_its_unit(tmp_path, unit, expected):
    rows, tally = read(tmp_path / "a.txt", b"\xef\xbb\xbf" + TXT.encode(), txt_unit=unit)
    assert [text for _, _, text in rows] == expected and tally.rows == len(expected)


def test_a_statute_file_is_cut_into_articles_and_headings_are_counted(tmp_path):
    rows, tally = read(tmp_path / "luat.txt", "LUẬT\nĐiều 1. Một\nNội dung.\nĐiều 2. Hai\nNội dung.".encode(), txt_unit="article")
    assert [text for _, _, text in rows] == ["Điều 1. Một\nNội dung.", "Điều 2. Hai\nNội dung."] and tally.left_out_chars > 0
    assert read(tmp_path / "no.txt", "Không có điều nào".encode(), txt_unit="article")[1].rejects[0].kind == "article"


def test_text_that_is_no_utf8_is_rejected_with_its_byte(tmp_path):
    """A guess of the encoding would turn one wrong file into thousands of wrong letters."""
    rows, tally = read(tmp_path / "a.txt", "một\n\nhai".encode() + b" \xe9\n\nba", txt_unit="blank_line")
    assert [text for _, _, text in rows] == ["một\n", "ba"]
    assert tally.rejects[0].offset == 11 and "0xe9" in tally.rejects[0].error
    rows, tally = read(tmp_path / "b.txt", "tiếng Việt".encode("utf-16"))
    assert rows == [] and tally.rejects[0].kind == "binary"


def test_a_long_text_file_passes_in_pieces(tmp_path, monkeypatch):
    """A file above the limit ends a document at a blank line; memory does not grow with it."""
    monkeypatch.setattr("rewarm.corpus.read.DOCUMENT_BYTES", 40)
    text = "".join(f"đoạn {i} có chữ\n\n" for i in range(10))
    rows, _ = read(tmp_path / "a.txt", text.encode(), txt_unit="file")
    assert len(rows) > 2 and "".join(t for _, _, t in rows).replace("\n", "") == text.replace("\n", "")


@pytest.mark.parametrize("text", ["từ " * 50, "đoạn một\n\n" * 20, "không" * 40, "漢" * 100])
def test_long_documents_are_split_without_loss(text):
    pieces = split_long(text, 60)
    assert "".join(pieces) == text and all(len(piece.encode()) <= 60 for piece in pieces)


def test_paragraphs_are_better_places_to_split_than_words():
    assert split_long("một hai\n\nba bốn năm sáu", 24) == ["một hai\n\n", "ba bốn năm sáu"]


def table(path: Path, **columns) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return path


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()])
def test_parquet_text_of_every_string_type_is_read(tmp_path, kind):
    texts = [row["text"] for row in ROWS]
    path = table(
        tmp_path / "t.parquet", id=[row["id"] for row in ROWS], text=pa.array(texts, pa.string()).cast(kind), other=[{"a": 1}] * 12
    )
    assert read(path, **IDS)[0] == ALL


def test_a_null_in_a_table_is_a_broken_row(tmp_path):
    rows, tally = read(table(tmp_path / "t.parquet", text=["a", None, "b"]))
    assert [(row, text) for row, _, text in rows] == [(0, "a"), (2, "b")] and tally.rejects[0].row == 2


def test_a_table_without_the_column_says_which_it_has(tmp_path):
    with pytest.raises(UserError, match="body, lang"):
        read(table(tmp_path / "t.parquet", body=["a"], lang=["vi"]))
    with pytest.raises(UserError, match="holds int64"):
        read(table(tmp_path / "u.parquet", text=[1]))


@pytest.mark.parametrize("cut", [3, 200, -4])
def test_a_cut_table_is_an_error_that_names_the_file(tmp_path, cut):
    data = table(tmp_path / "t.parquet", text=[row["text"] for row in ROWS]).read_bytes()
    with pytest.raises(UserError, match=r"cut\.parquet"):
        read(tmp_path / "cut.parquet", data[:cut])


def test_blocks_of_a_zstandard_file_without_content_size(tmp_path):
    """Streaming writers do not put the size into the frame."""
    path = tmp_path / "s.zst"
    packer = zstandard.ZstdCompressor().compressobj()
    path.write_bytes(packer.compress(JSONL) + packer.flush())
    assert b"".join(blocks(path)) == JSONL

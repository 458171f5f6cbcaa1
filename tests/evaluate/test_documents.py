"""What is read, cut, halved and selected: by content, never by order."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm.errors import UserError
from rewarm.evaluate.documents import Documents, TextRef, _pieces, _sorted, cut_long, halves, prepare, read_documents, select

ROWS = [{"id": f"d{i}", "text": f"Document {i} has its own text.", "other": i} for i in range(12)]


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_every_format_gives_the_same_documents(tmp_path: Path):
    """A text is its documents; the container may not show in a result. Archives of several members are read to their end."""
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(ROWS))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(ROWS[:5])) + gzip.compress(lines(ROWS[5:])))
    zstd = zstandard.ZstdCompressor()
    (tmp_path / "a.jsonl.zst").write_bytes(zstd.compress(lines(ROWS[:5])) + zstd.compress(lines(ROWS[5:])))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    found = [read_documents(tmp_path / f"a.{kind}") for kind in ("jsonl", "jsonl.gz", "jsonl.zst", "parquet")]
    assert len(found[0].ids) == 12 and found[1:] == found[:-1]


def test_the_order_of_rows_changes_nothing(tmp_path: Path):
    """ "The first 200 KB" must be the same documents whoever wrote the file."""
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS))
    (tmp_path / "b.jsonl").write_bytes(lines(ROWS[::-1]))
    a, b = read_documents(tmp_path / "a.jsonl"), read_documents(tmp_path / "b.jsonl")
    assert a == b and a.sha256 == b.sha256 and select(a, 100) == select(b, 100)
    assert a.ids != tuple(row["id"] for row in ROWS)


def test_nothing_in_a_text_is_changed(tmp_path: Path):
    """Bytes are counted of the very string: blanks, CRLF and decomposed letters stay, only a byte order mark goes."""
    text = "\t e\u0301 \r\n\u2028 x\u00a0 \n\n"
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_documents(tmp_path / "a.txt").texts == (text,)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"text": "a"}\n{"text": "b"\n', "row 2"),
        (b'{"text": "a"}\n["b"]\n', "row 2"),
        (b'{"text": "a"}\n\n{"body": "b", "title": "c"}\n', "row 3\n  field `text` is missing or no string; this row has: body, title"),
        (b'{"text": "a"}\n{"text": 5}\n', "row 2"),
        (b'{"id": 1, "text": "a"}\n{"id": 1, "text": "b"}\n', "row 2\n  the id `1` is there twice"),
        (b'{"text": " "}\n', "no text in this file"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, content: bytes, told: str):
    """Somebody has to find it in a file of a million rows."""
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_documents(tmp_path / "a.jsonl")
    assert told in str(error.value) and "a.jsonl" in str(error.value)


def test_other_bad_files_are_named(tmp_path: Path):
    """Binary, cut, missing, unknown: each says what it is and what to do."""
    (tmp_path / "a.txt").write_bytes(b"abc\xff\xfe")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines(ROWS))[:-20])
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    (tmp_path / "d.csv").write_text("a,b")
    pq.write_table(pa.table({"body": ["x"], "text2": ["y"]}), tmp_path / "e.parquet")
    pq.write_table(pa.table({"text": ["x", None]}), tmp_path / "f.parquet")
    expected = {
        "a.txt": "not UTF-8 text (byte 3)", "b.jsonl.gz": "cannot be unpacked", "c.parquet": "not a parquet file", "d.csv": "unknown kind",
        "e.parquet": "there are: body, text2", "f.parquet": "row 2", "g.txt": "no such file",
    }  # fmt: skip
    for name, told in expected.items():
        with pytest.raises(UserError) as error:
            read_documents(tmp_path / name)
        assert told in str(error.value) and name in str(error.value)


@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet="ab \n\u1ec1\r\u2028\U0001f600", max_size=400), size=st.integers(8, 50))
def test_pieces_are_the_text(text: str, size: int):
    """Cutting may not lose or add a byte, and no piece may be much longer than asked."""
    pieces = list(_pieces(text, size))
    assert "".join(pieces) == text
    assert all(len(piece.encode()) < 5 * size + 4 for piece in pieces)


def test_one_long_file_becomes_pieces_and_says_so():
    """A book is one document, and one document has no interval."""
    book = "".join(f"Line {i} of a book that has no other documents.\n" for i in range(2000))
    cut = cut_long(Documents(("book",), (book,)), 200_000)
    assert cut.cut and len(cut.ids) > 15 and all(text.endswith("\n") for text in cut.texts)
    assert sum(map(len, cut.texts)) == len(book) and "book#1" in cut.ids
    short = _sorted((f"d{i}", f"short {i}") for i in range(3))
    assert cut_long(short, 200_000) is short
    assert prepare_one(book).bytes <= 20_000


def prepare_one(book: str) -> Documents:
    return select(cut_long(Documents(("book",), (book,)), 20_000), 20_000)


def test_halves_are_even_disjoint_and_whole(tmp_path: Path):
    """What is chosen on one half is reported on the other: no document may be in both, and none be lost."""
    many = [{"id": str(i), "text": f"text {i} " * (i % 7 + 1)} for i in range(41)]
    (tmp_path / "a.jsonl").write_bytes(lines(many))
    control, verify = halves(read_documents(tmp_path / "a.jsonl"))
    assert not set(control.ids) & set(verify.ids) and set(control.ids) | set(verify.ids) == {str(i) for i in range(41)}
    assert len(control.ids) == 21
    (tmp_path / "b.jsonl").write_bytes(lines(many[::-1]))
    assert halves(read_documents(tmp_path / "b.jsonl")) == (control, verify)
    refs = [TextRef("a", "old", tmp_path / "a.jsonl", half) for half in ("control", "verify")]
    assert [prepare(ref, 10**6) for ref in refs] == [control, verify]


def test_one_document_cannot_be_halved(tmp_path: Path):
    """Said when the control half is made, at the start of a run, not when the other one is missing at its end."""
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS[:1]))
    for half in ("control", "verify"):
        with pytest.raises(UserError, match="halved"):
            prepare(TextRef("a", "old", tmp_path / "a.jsonl", half), 10**6)


def test_a_selection_fills_the_limit_and_grows_with_it():
    """More text is the same documents and some more, so results at two limits are not unrelated."""
    documents = _sorted((str(i), f"{i:04d} " + "x" * 95) for i in range(50))
    small, large = select(documents, 1000), select(documents, 2550)
    assert small.bytes == 1000 and large.bytes == 2500
    assert large.ids[:10] == small.ids
    assert len(select(documents, 1).ids) == 1

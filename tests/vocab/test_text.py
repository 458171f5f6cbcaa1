"""Reading text for the vocabulary, and cutting it into counted, held-out and tested parts."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm.errors import UserError
from rewarm.vocab.text import PIECE_CHARS, compared_lines, cut_pieces, lines_of, read_documents, sample_pieces


def test_the_three_kinds_of_file_give_the_same_texts(tmp_path: Path) -> None:
    """Users have txt, jsonl or parquet."""
    texts = ["một\nhai", "三"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts) + "\n\n")
    pq.write_table(pa.table({"text": [*texts, None], "id": ["1", "2", "3"]}), tmp_path / "a.parquet")
    (tmp_path / "a.txt").write_bytes("\ufeffmột\r\nhai".encode())
    assert list(read_documents(tmp_path / "a.jsonl")) == list(read_documents(tmp_path / "a.parquet")) == texts
    assert list(read_documents(tmp_path / "a.txt")) == texts[:1]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"abc\xffdef", r"a\.txt\n  not UTF-8 \(byte 3\)"),
        ("a.jsonl", b'{"text": "x"}\n{"body": "y"}\n', r"row 2\n  field `text` is missing or no string; this row has: body"),
        ("a.jsonl", b'{"text": "x"\n', r"row 1\n  not JSON"),
        ("a.parquet", b"PAR?", r"not a parquet file"),
        ("a.docx", b"", r"unknown kind of file `\.docx`"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    """File, and row or byte: where to look."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        list(read_documents(tmp_path / name))


def test_a_missing_file_and_a_missing_column_are_errors(tmp_path: Path) -> None:
    """Both happen with a mistyped name."""
    with pytest.raises(UserError, match="no such file"):
        list(read_documents(tmp_path / "none.txt"))
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no column `text`; there are: body"):
        list(read_documents(tmp_path / "a.parquet"))


@given(st.text(st.sampled_from("ab\n"), max_size=40))
def test_lines_and_pieces_lose_nothing(text: str) -> None:
    """What is cut must add up to the text."""
    assert "".join(lines_of([text])) == text
    long = text * (3 * PIECE_CHARS // max(1, len(text)) + 1)
    assert "".join(cut_pieces(long)) == long


def test_the_same_texts_give_the_same_parts_in_any_order(tmp_path: Path) -> None:
    """The split is by a hash of the text: a file more or another order moves nothing else."""
    texts = [f"document {i} " * 5 for i in range(400)]
    for name, some in (("a", texts[:150]), ("b", texts[150:]), ("c", texts[::-1])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in some))
    two = sample_pieces([tmp_path / "b.jsonl", tmp_path / "a.jsonl"], 10**9, 0.1, 0.2, 7)
    assert two == sample_pieces([tmp_path / "c.jsonl"], 10**9, 0.1, 0.2, 7)
    assert {*two.counted, *two.tuning, *two.test} == set(texts) and 20 < len(two.tuning) < 60 < len(two.test) < 110
    other = sample_pieces([tmp_path / "c.jsonl"], 10**9, 0.1, 0.2, 8)
    assert set(other.test) != set(two.test)


def test_a_sample_keeps_to_its_size_and_does_not_depend_on_order(tmp_path: Path) -> None:
    """Gigabytes are sampled in one pass, with no more in memory than the sample."""
    texts = [f"{i:04} " + "x" * (i % 90) for i in range(500)]
    for name, some in (("a", texts), ("b", texts[::-1])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in some))
    a, b = (sample_pieces([tmp_path / f"{name}.jsonl"], 5_000, 0.0, 0.0, 1) for name in "ab")
    assert a == b and 5_000 <= sum(map(len, a.counted)) < 5_100 and a.total_bytes == sum(map(len, texts))


def test_a_long_paragraph_counts_as_its_sentences() -> None:
    """A share of changed lines must not depend on whether text comes in paragraphs or in lines; nothing of the text may be lost either."""
    paragraph = "It rained, he said. " * 9 + "Why? Nobody knows! 雨が降った。" + "長い文だ。" * 4
    lines = compared_lines([f"Short. Line.\n\n{paragraph}\n   \n"])
    assert "Short. Line." in lines and " Why?" in lines and "長い文だ。" in lines and len(paragraph) > 200
    assert len(lines) == len(set(lines)) and all(line.strip() for line in lines)
    assert sum(map(len, set(lines) - {"Short. Line."})) == len("It rained, he said." * 2 + " Why? Nobody knows!雨が降った。長い文だ。") + 2

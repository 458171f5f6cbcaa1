"""What texts cost, counted by hand where that is possible, and the words and tables that say it."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.cells import cell_len

from rewarm.vocab.compare import Fertility, compare, cost_lines, fertility_lines
from rewarm.vocab.readers import Cutter
from rewarm.vocab.show import Piece, escaped, readable, show, table


def letters(name: str = "letters") -> Cutter:
    """A token a character; id 0 for what is beyond ASCII."""
    surfaces = [b"?", *(bytes([i]) for i in range(1, 128))]
    return Cutter(name, "test", Path(__file__), lambda texts: [[ord(c) if ord(c) < 128 else 0 for c in t] for t in texts], surfaces, 0)


def single_bytes(name: str = "bytes") -> Cutter:
    return Cutter(name, "test", Path(__file__), lambda texts: [list(t.encode()) for t in texts], [bytes([i]) for i in range(256)], None)


def blocks(size: int, name: str = "blocks") -> Cutter:
    """`size` characters a token, made up as they come."""
    surfaces: list[bytes | None] = []
    known: dict[str, int] = {}

    def encode(texts: list[str]) -> list[list[int]]:
        out = []
        for text in texts:
            parts = [text[i : i + size] for i in range(0, len(text), size)]
            for part in parts:
                if part not in known:
                    known[part] = len(surfaces)
                    surfaces.append(part.encode())
            out.append([known[part] for part in parts])
        return out

    encode(["ab cd ef", "chào bạn", "你好"])
    return Cutter(name, "test", Path(__file__), encode, surfaces, None)


def test_every_figure_of_a_small_text() -> None:
    """`chào bạn` has 8 characters in 11 bytes and 2 words; its two accented letters are 2 and 3 bytes."""
    rows = compare([single_bytes(), letters(), blocks(2)], {"vi": ["chào", " bạn"]})
    by_byte, by_letter, by_two = rows
    assert (by_byte.bytes, by_byte.characters, by_byte.words, by_byte.tokens, by_byte.lone_bytes, by_byte.unknown) == (11, 8, 2, 11, 5, 0)
    assert (by_letter.tokens, by_letter.lone_bytes, by_letter.unknown) == (8, 0, 2)
    assert by_two.tokens == 4 and by_two.bytes_per_token == 11 / 4 and by_two.characters_per_token == 2 and by_two.tokens_per_word == 2
    assert by_two.record()["tokens_per_word"] == 2 and by_byte.record()["lone_byte_share"] == round(5 / 11, 4)


def test_text_without_blanks_has_no_words() -> None:
    """Chinese has no words to count between blanks; a table that gave some would compare sentences with words."""
    row = compare([single_bytes()], {"zh": ["你好很高兴见到你" * 5 + "\n", "你好很高兴见到你" * 5]})[0]
    assert row.words is None and row.tokens_per_word is None and row.record()["tokens_per_word"] is None
    assert " - " in fertility_lines([row])[1]


def row(text: str, tokenizer: str, tokens: int, unknown: int = 0) -> Fertility:
    return Fertility(text, tokenizer, 1000, 900, 200, tokens, 100, unknown)


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        ([row("vi", "A", 240)], []),
        ([row("vi", "A", 240), row("vi", "B", 100)], ["vi costs 2.40 times fewer tokens with B than with A"]),
        ([row("vi", "A", 100), row("vi", "B", 240)], ["vi costs 2.40 times more tokens with B than with A"]),
        ([row("vi", "A", 1000), row("vi", "B", 1004)], ["vi costs the same with B as with A"]),
        (
            [row("vi", "A", 240), row("vi", "B", 120, 7), row("en", "A", 10), row("en", "B", 5)],
            [
                "vi costs 2.00 times fewer tokens with B than with A; but B does not know 7 pieces of it, which are lost",
                "en costs 2.00 times fewer tokens with B than with A",
            ],
        ),
    ],
)
def test_costs_are_said_against_the_first_tokenizer(rows: list[Fertility], lines: list[str]) -> None:
    assert cost_lines(rows) == lines


def test_the_table_has_a_row_a_tokenizer_and_names_a_text_once() -> None:
    head, first, second = fertility_lines([row("vi", "short", 240), row("vi", "a longer name", 100, 3)])
    assert len(head) == len(first) == len(second) and head.endswith("unknown")
    assert first.split() == ["vi", "short", "240", "4.17", "3.75", "1.20", "41.7", "%", "0"]
    assert second.split()[:3] == ["a", "longer", "name"] and second.endswith("3")


def test_a_row_shows_where_the_text_is_cut_and_what_is_new() -> None:
    """Columns stay in line under wide characters; a text whose ids are the same says so."""
    old, new = letters("old"), blocks(2, "new")
    rows = show(old, new, ["ab cd ef", "你好"])
    assert (rows[0].before, rows[0].after, rows[0].bytes) == (8, 4, 8)
    assert rows[0].pieces == (Piece("ab", True), Piece(" c", True), Piece("d ", True), Piece("ef", True))
    head, first, second = table(rows)
    assert first.plain.endswith("     8       8      4   ab| c|d |ef") and second.plain.startswith("你好")
    assert cell_len(second.plain[: second.plain.index("   你")]) == cell_len(head.plain)
    same = show(old, old, ["ab", "abc"])
    assert all(r.same for r in same) and all(line.plain.endswith("   ids unchanged") for line in table(same)[1:])
    assert not show(old, blocks(1), ["ab"])[0].same, "as many tokens, but others"


def test_only_new_tokens_are_coloured() -> None:
    mixed = Cutter("mixed", "test", Path(__file__), lambda texts: [[0, 1] for _ in texts], [b"a", b"bc"], None)
    line = table(show(letters(), mixed, ["abc"]))[1]
    assert [line.plain[s.start : s.end] for s in line.spans if "green" in str(s.style)] == ["bc"]


def test_bytes_and_controls_are_readable() -> None:
    """Half a character has no letter, and a line end in a cell would break the table."""
    assert readable(b"\xe1\xbb") == "<E1 BB>" and readable(b" \xe1") == "<20 E1>" and readable(b" xin") == " xin"
    assert readable(b"\n\n") == r"\n\n" and escaped("a\tb\u200bc\u00a0d") == r"a\tb\u200bc\xa0d"

"""The rules for new tokens: the smallest surface that each one refuses, and its neighbour that it lets pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm.vocab.recipe import Rules
from rewarm.vocab.rules import refusal_of

refusal = refusal_of(Rules(), ["<|im_start|>", "<repo>"])
HAN = "中".encode()


@pytest.mark.parametrize(
    ("surface", "reason"),
    [
        ("đường".encode(), None),
        (b" 5", "digits"),
        ("٣".encode(), "digits"),
        (b"  ", "white space"),
        ("\u3000".encode(), "white space"),
        (b"<repo>", "added token"),
        (b"im_st", "added token"),
        (b"abcdefghijklmnop", None),
        (b"abcdefghijklmnopq", "max_chars"),
        (("中" * 17).encode(), "max_bytes"),
        (HAN[:2], None),
        (b" " + HAN[:2], None),
        (HAN[1:], None),
        (b" " + HAN[1:], "character"),
        (b"  " + HAN[:2], "character"),
        (HAN + HAN[:1], "character"),
        (HAN[2:] + HAN[:2], "character"),
        (b"a" + HAN[:2], "character"),
        (b"\xf0\x9f\x98", None),
        (b"\xc0\x80", "character"),
    ],
)
def test_each_rule_has_its_edge(surface: bytes, reason: str | None) -> None:
    """One line a rule: what it refuses, and what is just within."""
    assert refusal(surface) == reason


@given(st.text(st.characters(min_codepoint=0x80, exclude_categories=["Cs"]), min_size=1, max_size=1), st.data())
def test_any_part_of_any_character_may_be_a_token(character: str, data: st.DataObject) -> None:
    """Rare characters are reached through their parts."""
    raw = character.encode()
    start = data.draw(st.integers(0, len(raw) - 1))
    part = raw[start : data.draw(st.integers(start + 1, len(raw)))]
    assert refusal(part) != "character"


def test_each_field_of_the_rules_has_its_effect() -> None:
    """A field that changes nothing would be a promise that nobody keeps."""
    assert refusal_of(Rules(digits="allow"), [])(b" 5") is None
    assert refusal_of(Rules(character=False), [])(HAN + HAN[:1]) is None
    assert refusal_of(Rules(max_chars=3), [])(b"abcd") == "max_chars"
    assert refusal_of(Rules(max_bytes=3), [])(b"abcd") == "max_bytes"

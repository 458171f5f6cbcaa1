"""What a base cannot tell apart, found by cutting probes: its normalizer and pre-tokenizer come before any vocabulary.

A token that holds what they remove, or crosses where they cut, can be in the vocabulary, but no text leads to it. Candidates are taken
from what they leave, so none is wasted; but whoever extends such a base should know that no new token can bring back what is lost.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rewarm.vocab.base import Base

TONES = ("ma", "má", "mà", "mả", "mã", "mạ")
MARKS = {
    "Vietnamese tones": ("má", "mà", "mạ"), "Latin letters with marks": ("ö", "ñ", "ş"), "Japanese voiced sounds": ("が", "ぱ"),
    "Devanagari vowels": ("कि", "के"), "Thai vowels and tones": ("กี่", "ก้"), "Arabic vowels": ("كَ", "كُ"),
}  # fmt: skip
"""Writing whose meaning hangs on combining marks: texts that a tokenizer which strips marks maps to their letter alone."""
HAN = "人工智能"


def blind_spots(base: Base) -> list[str]:
    """Sentences for people; empty for a base that loses nothing of these."""
    out = []
    if len({tuple(base.pretokens(word)) for word in TONES}) == 1:
        lost = [name for name, texts in MARKS.items() if all(base.pretokens(t) == base.pretokens(_letters(t)) for t in texts)]
        out.append(
            f"this tokenizer strips accents and tone marks: {', '.join(TONES)} are one word to it, and no new token can tell them apart "
            f"(lost: {', '.join(lost)}); for a language that is written with such marks choose a cased base, or one that keeps accents"
        )
    if len(base.pretokens(HAN)) == len(HAN):
        out.append(
            "this tokenizer cuts Han characters one by one before it looks words up: for Chinese, and for the Han characters of Japanese "
            "and Korean text, only single characters can help"
        )
    if base.pretokens("AB") == base.pretokens("ab"):
        out.append("this tokenizer makes all letters small: new tokens are small too, and decoded text has no capitals")
    return out


def _letters(text: str) -> str:
    """The text without combining marks (as an uncased BERT strips them: non-spacing marks of the decomposed text)."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")

"""Cutting lines into pre-tokens with the `regex` package: three times the speed of the library, which also keeps offsets for every letter.

Only for byte-level pre-tokenizers made of regular expressions, and only if it cuts a sample of the very text, and some unkind strings, as
the library does; counts need no more than that, since the tokenizer itself is never replaced. A line that the patterns do not cover
wholly, that a normalizer would change, or that holds letters newer than this Python, is left to the library. What comes out is text; only
different words are then spelt in letters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import regex  # type: ignore[import-untyped]

from rewarm.vocab.base import Base
from rewarm.vocab.letters import to_letters

Cut = Callable[[str], list[str] | None]
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What `ByteLevel` cuts by where it has no pattern of its own, as in tokenizers/src/pre_tokenizers/byte_level.rs."""
_DIGIT = r"\p{N}|[^\p{N}]+"
_DIGITS = r"\p{N}+|[^\p{N}]+"
UNKIND = [
    " ", "  a  b ", "\n\n\n", "a\n b\r\n\tc", "1234 5.6%", "I'm, you'LL don't 'Sam", "\u017ftra 'ſ", "½Ⅳ²٣", "e\u0301a\u0323",
    "한국어 中文です。", "\u00a0x\u2003y\u3000z", "a\u200bb\u200d", "😀👩‍👩‍👧!?", "\x00\x1f\x85", "𝟙𝟚 𐍈𐍉", "Iİıi ẞß", "x" * 300,
    "\u2028a\u2029b", "İ'S", "ญี่ปุ่น हिन्दी",
]  # fmt: skip


def newer_letters(words: Iterable[str]) -> set[str]:
    """Code points in these words without a meaning in this Python's version of Unicode: another version may call them letters."""
    return {letter for letter in set().union(*words) if unicodedata.category(letter) == "Cn"}


def quick_cut(base: Base) -> Cut | None:
    """A function from a line to its words as text, or None where it cannot say; None altogether for a pre-tokenizer of another make."""
    if base.kind != "byte_bpe":
        return None
    normalizer = (base.spec.get("normalizer") or {}).get("type")
    patterns = _patterns(base.spec.get("pre_tokenizer") or {})
    if patterns is None or normalizer not in (None, "NFC"):
        return None
    finders = [regex.compile(pattern).findall for pattern in patterns]
    added = base.added_texts

    def cut(line: str) -> list[str] | None:
        if (normalizer and not unicodedata.is_normalized("NFC", line)) or (added and added.search(line)):
            return None
        words: list[str] = [line]
        for find in finders:
            words = list(chain.from_iterable(map(find, words)))
        return words if sum(map(len, words)) == len(line) else None

    return cut


def _patterns(spec: dict[str, Any]) -> list[str] | None:
    """The patterns by which a pre-tokenizer cuts, one after another; None if it is made of anything else."""
    kind = spec.get("type")
    if kind == "Sequence":
        parts = [_patterns(part) for part in spec["pretokenizers"]]
        last = spec["pretokenizers"][-1:] and spec["pretokenizers"][-1].get("type") == "ByteLevel"
        return [p for part in parts if part is not None for p in part] if last and None not in parts else None
    if kind == "ByteLevel" and not spec.get("add_prefix_space"):
        return [GPT2] if spec.get("use_regex", True) else []
    if kind == "Digits":
        return [_DIGIT if spec.get("individual_digits") else _DIGITS]
    if kind == "Split" and spec.get("behavior") == "Isolated" and not spec.get("invert") and "Regex" in spec["pattern"]:
        pattern: str = spec["pattern"]["Regex"]
        try:
            return [pattern] if not regex.compile(pattern).groups else None
        except regex.error:
            return None
    return None


def agrees(cut: Cut, base: Base, lines: Sequence[str]) -> bool:
    """Whether it cuts these lines and the unkind ones as the library does."""
    for line in [*UNKIND, *lines]:
        words = cut(line)
        if words is not None and not newer_letters(words) and [spelt(word) for word in words] != base.pretokens(line):
            return False
    return True


def spelt(word: str) -> str:
    """A word as a byte-level vocabulary writes it."""
    return to_letters(word.encode())


def checked_cut(base: Base, texts: Iterable[Iterable[str]], sample: int = 2_000) -> Cut | None:
    """`quick_cut`, if it agrees with the library on about `sample` lines of these texts."""
    cut = quick_cut(base)
    tables = [list(text) for text in texts]
    some = [table[:: max(1, len(table) * len(tables) // sample)] for table in tables]
    return cut if cut and agrees(cut, base, [line[:2_000] for lines in some for line in lines]) else None

"""Which script a character belongs to, as far as the cut between words needs it: told by its Unicode name, without tables of our own."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

COMMON = "COMMON"
_HAN = ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC")
_FORMS = ("HALFWIDTH", "FULLWIDTH", "MODIFIER", "MATHEMATICAL")


@lru_cache(maxsize=1 << 16)
def script_of(character: str) -> str | None:
    """The script of a letter (Han and kana count as one), COMMON for whatever is no letter, None for marks, which take their letter's."""
    category = unicodedata.category(character)
    if category[0] == "M":
        return None
    name = unicodedata.name(character, "").split(" ")
    if category[0] != "L":
        return "CJK" if character == "ー" else COMMON
    first = name[1] if name[0] in _FORMS and len(name) > 1 else name[0]
    return "CJK" if first in _HAN else first or COMMON


def one_script(text: str) -> bool:
    """Whether all characters are of one script; punctuation and signs are one of their own."""
    return len({script for c in text if (script := script_of(c)) is not None}) <= 1

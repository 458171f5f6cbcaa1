"""Characters made equal before anything is counted, hashed or learned.

Line ends become \\n, no-break spaces become spaces, control characters and invisible ones (zero width space, word joiner, soft hyphen,
direction marks, byte order mark) go, trailing spaces go, three or more line breaks become two, and accents are composed (NFC). The joiners
U+200C and U+200D stay where Persian, Indic scripts and emoji need them, and go beside Latin, Han, kana and Hangul letters; the ideographic
space U+3000 stays. Most documents need nothing: a few fast searches say so, and only the others are rewritten.
"""

from __future__ import annotations

import re
from collections import Counter
from unicodedata import is_normalized, normalize

from rewarm.corpus.recipe import Normalise

_LINE_END = re.compile("\r\n?|[\x0b\x0c\u2028\u2029]")
_NO_BREAK = re.compile("[\u00a0\u202f]")
_LETTERS = "A-Za-z\u00c0-\u024f\u0300-\u036f\u1100-\u11ff\u1e00-\u1eff\u3041-\u30ff\u3400-\u9fff\uac00-\ud7a3 "
"""Letters of scripts that never join, and the space: a joiner beside one of them is damage."""
_ZERO_WIDTH = "\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff"
_JOINERS = "\u200c\u200d"
_INVISIBLE = re.compile(f"(?<=[{_LETTERS}])[{_ZERO_WIDTH}{_JOINERS}]+|[{_ZERO_WIDTH}{_JOINERS}]+(?=[{_LETTERS}])|[{_ZERO_WIDTH}]+")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_TRAILING = re.compile(r"[ \t\u3000]+(?=\n)|[ \t\u3000]+\Z")
_BREAKS = re.compile(r"\n{3,}")
_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\xa0\xad\u200b-\u200f\u2028-\u202f\u2060\u2066-\u2069\ufeff]")
_SPACES = (" \n", "\t\n", "\u3000\n", "\n\n\n")
_STEPS = [
    ("line_ends", _LINE_END, "\n"),
    ("no_break_spaces", _NO_BREAK, " "),
    ("control", _CONTROL, ""),
    ("invisible", _INVISIBLE, ""),
    ("trailing_spaces", _TRAILING, ""),
    ("blank_lines", _BREAKS, "\n\n"),
]


def normalise(text: str, cfg: Normalise, counts: Counter[str]) -> str:
    """The clean text, blank lines at both ends off. `counts` gets replacements of each kind, and documents that NFC changed as `nfc`."""
    if _UNWANTED.search(text) or any(mark in text for mark in _SPACES) or text.endswith((" ", "\t", "\u3000")):
        for kind, pattern, new in _STEPS:
            text, count = pattern.subn(new, text)
            if count:
                counts[kind] += count
    if cfg.unicode == "NFC" and not is_normalized("NFC", text):
        text = normalize("NFC", text)
        counts["nfc"] += 1
    return text.strip("\n")

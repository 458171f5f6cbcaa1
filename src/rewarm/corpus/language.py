"""Does a text look like the language it is said to be? Scripts and Vietnamese marks only: cheap, and enough to see a wrong file.

Counts of characters by script come with the scan of the units. A document is judged if it has 30 letters; it passes if one of the declared
languages accepts its shares. Languages of one script are not told apart, but Vietnamese against the other Latin ones is: hardly any other
language writes đ, ơ, ư, ă or two marks on a vowel, and about every eighth letter of running Vietnamese is one of these. Nothing is dropped
here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rewarm.corpus.units import SCRIPTS

MIN_LETTERS = 30
_MAIN_SHARE = 0.5
_VIETNAMESE_SHARE = 0.02
_KANA_SHARE = 0.05
_LETTERS = [i for i, name in enumerate(SCRIPTS) if name not in ("none", "digit", "mark")]
_SCRIPT_OF = {
    "cyrillic": {"be", "bg", "kk", "ky", "mk", "mn", "ru", "sr", "tg", "uk"},
    "arabic": {"ar", "ckb", "fa", "ps", "ug", "ur"},
    "thai": {"th"},
    "devanagari": {"hi", "mr", "ne", "sa"},
    "hangul": {"ko"},
}
_LATIN = {
    "af", "ca", "cs", "cy", "da", "de", "en", "eo", "es", "et", "eu", "fi", "fr", "ga", "gl", "hr", "hu", "id", "is", "it", "jv", "la",
    "lt", "lv", "ms", "mt", "nb", "nl", "nn", "no", "pl", "pt", "ro", "sk", "sl", "so", "sq", "su", "sv", "sw", "tl", "tr",
}  # fmt: skip


def accepts(language: str, shares: NDArray[np.float64]) -> NDArray[np.bool_] | None:
    """bool[documents]: could it be this language, by shares [documents, scripts] of its letters; None for a language not known here."""
    share = {name: shares[:, i] for i, name in enumerate(SCRIPTS)}
    latin = share["latin"] + share["vietnamese"]
    code = language.lower().split("-")[0].split("_")[0]
    if code == "vi":
        return (latin >= _MAIN_SHARE) & (share["vietnamese"] >= _VIETNAMESE_SHARE)
    if code == "ja":
        return (share["han"] + share["kana"] >= _MAIN_SHARE) & (share["kana"] >= _KANA_SHARE)
    if code == "zh":
        return (share["han"] >= _MAIN_SHARE) & (share["kana"] < _KANA_SHARE)
    if code in _LATIN:
        return (latin >= _MAIN_SHARE) & (share["vietnamese"] < _VIETNAMESE_SHARE)
    for script, codes in _SCRIPT_OF.items():
        if code in codes:
            return share[script] >= _MAIN_SHARE
    return None


def judge(scripts: NDArray[np.int64], languages: Sequence[str]) -> tuple[int, int]:
    """(documents judged, those that look like none of `languages`), from `Units.scripts`. Nothing to judge by: (0, 0)."""
    letters = scripts[:, _LETTERS].sum(axis=1)
    rows = letters >= MIN_LETTERS
    shares = scripts[rows] / letters[rows, None]
    answers = [accepts(language, shares) for language in languages]
    if not answers or any(answer is None for answer in answers):
        return 0, 0
    passed = np.logical_or.reduce([answer for answer in answers if answer is not None])
    return int(rows.sum()), int((~passed).sum())

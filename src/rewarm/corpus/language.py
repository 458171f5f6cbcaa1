"""Does a text look like the language it is said to be? Scripts and Vietnamese marks only: cheap, and enough to see a wrong file.

Judged are blocks of whole lines of about BLOCK_CHARS characters, each with MIN_LETTERS letters or more, so that English paragraphs between
Vietnamese ones show, not only whole documents; shares are of letters. (On Wikipedia with every third paragraph replaced by English,
blocks of 200 characters find 32 of 33 %, blocks of 1,000 find 5, whole documents none; on clean text they blame 0 to 5 %, mostly code in
manuals.) A block passes if one of the declared languages accepts its shares of scripts. Languages of one script are not told apart, but
Vietnamese against the other Latin ones is: hardly any other language writes đ, ơ, ư, ă or two marks on a vowel, and about every eighth
letter of running Vietnamese is one of these. Nothing is dropped here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rewarm.corpus.units import SCRIPTS, scan

BLOCK_CHARS = 200
MIN_LETTERS = 30
TOLERATED = 0.1
"""Above this share of letters in text of another language somebody should look: clean text of the declared language stays under 0.05."""
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
KINDS = {
    "latin": "Latin letters", "han": "Chinese characters", "kana": "Japanese kana", "hangul": "Korean letters",
    "cyrillic": "Cyrillic letters", "arabic": "Arabic letters", "thai": "Thai letters", "devanagari": "Devanagari letters",
    "letter": "letters of other scripts",
}  # fmt: skip
"""Scripts of `units.SCRIPTS` in words."""
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


@dataclass(frozen=True, slots=True)
class Looks:
    """Letters that were judged, those of them in blocks that look like none of the declared languages, and these by script (see KINDS)."""

    letters: int = 0
    other: int = 0
    kinds: tuple[int, ...] = (0,) * len(SCRIPTS)

    def __add__(self, more: Looks) -> Looks:
        return Looks(self.letters + more.letters, self.other + more.other, tuple(a + b for a, b in zip(self.kinds, more.kinds)))

    @property
    def share(self) -> float:
        """Of the judged letters, 0..1, those in text of another language."""
        return self.other / self.letters if self.letters else 0.0


def blocks(text: str) -> list[str]:
    """The text's lines put together to blocks of BLOCK_CHARS or a little more; the rest goes to the last block. Joined by line ends they
    are the text again."""
    out: list[str] = []
    begin = 0
    while (end := text.find("\n", begin + BLOCK_CHARS)) >= 0:
        out.append(text[begin:end])
        begin = end + 1
    if out and len(text) - begin < BLOCK_CHARS:
        out[-1] += "\n" + text[begin:]
    else:
        out.append(text[begin:])
    return out


def judge(scripts: NDArray[np.int64], languages: Sequence[str]) -> tuple[Looks, NDArray[np.bool_]]:
    """(what was found, bool[blocks]: looks like none of `languages`), from `Units.scripts` of blocks. Nothing to judge by: no letters."""
    letters = scripts[:, _LETTERS].sum(axis=1)
    rows = letters >= MIN_LETTERS
    shares = scripts[rows] / letters[rows, None]
    answers = [accepts(language, shares) for language in languages]
    other = np.zeros(len(letters), np.bool_)
    if not answers or any(answer is None for answer in answers):
        return Looks(), other
    other[rows] = ~np.logical_or.reduce([answer for answer in answers if answer is not None])
    kinds = scripts[other].sum(axis=0)
    return Looks(int(letters[rows].sum()), int(letters[other].sum()), tuple(kinds.tolist())), other


def look(texts: Sequence[str], languages: Sequence[str]) -> Looks:
    """`judge` for the blocks of some texts."""
    return judge(scan([block for text in texts for block in blocks(text)]).scripts, languages)[0]


def told(looks: Looks, languages: Sequence[str]) -> str | None:
    """`34 % of its text does not look like vi: mostly ...`, where that is more than TOLERATED; else None."""
    if looks.share <= TOLERATED:
        return None
    return f"{looks.share:.0%} of its text does not look like {' or '.join(languages)}: mostly {_written_in(looks, languages)}"


def _written_in(looks: Looks, languages: Sequence[str]) -> str:
    """What text of another language is written in, by its most frequent script."""
    count = dict(zip(SCRIPTS, looks.kinds))
    name = max(KINDS, key=lambda kind: count[kind])
    if name == "latin" and count["vietnamese"] >= _VIETNAMESE_SHARE * (count["latin"] + count["vietnamese"]):
        return "Vietnamese"
    if name in ("han", "kana") and count["kana"] >= _KANA_SHARE * (count["han"] + count["kana"]):
        return "Japanese"
    return KINDS[name] + (" without Vietnamese marks, as in English" if name == "latin" and "vi" in languages else "")

"""The guard of words that the protected text does not hold: names, above all.

The pair guard knows only pairs that stand in the protected text. But a Vietnamese encyclopaedia writes of rugby, Gauss and Sonic, and no
20 MB of English hold all such words; tokens made of them change English lines that nobody counted. What does stand in the protected text
are their letters: ` gau` of ` gauge` is rare in Vietnamese and at home in English. So a new token is refused if one of its runs of four
letters looks more like old text than like the target: with rates (per byte) a in the target and p in the protected text, if p > a * a /
`name_guard`. The square makes it strict with rare runs, which cost little, and mild with common ones: `tron` of the Vietnamese `trong`
stands in the English `strong` too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from rewarm.vocab.rules import Refusal

RUN = 4
_BREAK = "\ud800"
"""Stands in no text that has an encoding."""
_AT_ONCE = 100_000


def old_runs_reference(
    words: Sequence[str], targets: Sequence[tuple[Sequence[int], int]], protected: tuple[Sequence[int], int], limit: float
) -> frozenset[str]:
    """The runs of RUN letters, in lower case, that no new token may hold; by definition.

    words: their texts. targets: of each target language the occurrences of each word and the bytes of its text; a run counts as the
    language in which it is commonest has it, so that a small language is not drowned. protected: the same of the protected text.
    """
    seen: list[Counter[str]] = []
    for counts, _ in [*targets, protected]:
        runs: Counter[str] = Counter()
        for word, n in zip(words, counts):
            for run in runs_of(word):
                runs[run] += int(n)
        seen.append(runs)
    exact = Fraction(str(limit))
    out = set()
    for run, n in seen[-1].items():
        rate = max(Fraction(runs[run], size) for runs, (_, size) in zip(seen, targets))
        if n and Fraction(n, protected[1]) * exact > rate * rate:
            out.add(run)
    return frozenset(out)


def runs_of(text: str) -> Iterable[str]:
    """All runs of RUN letters of a text in lower case, a blank counting as a letter."""
    text = text.lower()
    return (text[i : i + RUN] for i in range(len(text) - RUN + 1))


def old_runs(
    words: Sequence[str], targets: Sequence[tuple[NDArray[np.int64], int]], protected: tuple[NDArray[np.int64], int], limit: float
) -> frozenset[str]:
    """The same as `old_runs_reference`, up to rounding where both sides are equal to 15 digits, a hundred times as fast.

    Letters of the protected text get numbers below 2^16, so that a run is one 64-bit number; runs with any other letter need no counting.
    """
    counts, size = protected
    number = np.zeros(0x110000, dtype=np.uint64)
    held = np.flatnonzero(counts)
    letters = sorted(
        {letter for start in range(0, len(held), _AT_ONCE) for letter in _text(words, held[start : start + _AT_ONCE])} - {_BREAK}
    )
    letters = letters[: (1 << 16) - 1]
    number[[ord(letter) for letter in letters]] = np.arange(1, len(letters) + 1, dtype=np.uint64)
    runs, n = _count(words, counts, number, None)
    old = n / size
    best = np.zeros(len(runs))
    for target, target_size in targets:
        _, found = _count(words, target, number, runs)
        best = np.maximum(best, found / target_size)
    refused = runs[old * limit > best * best]
    shifts = np.arange(RUN - 1, -1, -1, dtype=np.uint64) * np.uint64(16)
    places = ((refused[:, None] >> shifts) & np.uint64(0xFFFF)).astype(np.int64) - 1
    return frozenset("".join(letters[i] for i in row) for row in places.tolist())


def _text(words: Sequence[str], some: NDArray[np.int64]) -> str:
    """These words in lower case, one after another, a break behind each."""
    return "".join(words[i] + _BREAK for i in some).lower()


def _count(
    words: Sequence[str], counts: NDArray[np.int64], number: NDArray[np.uint64], wanted: NDArray[np.uint64] | None
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """(runs as numbers, occurrences): all runs of numbered letters, or those `wanted` (sorted), in their order."""
    keys, sums = np.zeros(0, dtype=np.uint64) if wanted is None else wanted, np.zeros(0 if wanted is None else len(wanted), dtype=np.int64)
    held = np.flatnonzero(counts)
    for start in range(0, len(held), _AT_ONCE):
        some = held[start : start + _AT_ONCE]
        points = np.frombuffer(_text(words, some).encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
        codes = number[points]
        word = np.cumsum(points == ord(_BREAK)) - (points == ord(_BREAK))
        if len(codes) < RUN:
            continue
        parts = [codes[i : len(codes) - RUN + 1 + i] for i in range(RUN)]
        whole = np.logical_and.reduce([part > 0 for part in parts])
        run = np.zeros(int(whole.sum()), dtype=np.uint64)
        for part in parts:
            run = run << np.uint64(16) | part[whole]
        n = counts[some][word[: len(whole)][whole]]
        if wanted is None:
            found, inverse = np.unique(np.concatenate([keys, run]), return_inverse=True)
            total = np.zeros(len(found), dtype=np.int64)
            np.add.at(total, inverse, np.concatenate([sums, n]))
            keys, sums = found, total
        elif len(wanted):
            at = np.minimum(np.searchsorted(wanted, run), len(wanted) - 1)
            hit = wanted[at] == run
            np.add.at(sums, at[hit], n[hit])
    return keys, sums


def guarded(refusal: Refusal, runs: Callable[[], frozenset[str]]) -> Refusal:
    """These rules, and that no token holds one of these runs (asked for when the first token is judged); the reason is then `names`."""

    def refuse(surface: bytes) -> str | None:
        reason = refusal(surface)
        if reason is not None or len(surface) < RUN:
            return reason
        return "names" if any(run in runs() for run in runs_of(surface.decode(errors="replace"))) else None

    return refuse

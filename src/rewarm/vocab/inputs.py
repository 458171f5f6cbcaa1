"""What can be wrong with texts, said before hours are spent on them; each with a figure from the texts themselves."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from rewarm.errors import UserError
from rewarm.vocab.base import Base, encode_ids
from rewarm.vocab.count import Counts, Split
from rewarm.vocab.text import lines_of

NFD_SHARE = 0.01
SHARED = 0.01
OLD_WORDS = 0.5
_LONG = 40
"""Characters from which on a line that two texts share is no accident."""
_PROBE_BYTES = 200_000


def decomposed(language: str, pieces: Sequence[str], base: Base) -> str | None:
    """A warning if more than NFD_SHARE of the lines have letters and marks apart and the base does not compose them by itself."""
    suspects = [piece for piece in pieces if not unicodedata.is_normalized("NFC", piece)]
    if not suspects:
        return None
    lines = sum(1 for _ in lines_of(pieces))
    odd = size = 0
    probe: list[str] = []
    for line in lines_of(suspects):
        if not unicodedata.is_normalized("NFC", line):
            odd += 1
            if size < _PROBE_BYTES:
                probe.append(line)
                size += len(line.encode(errors="surrogatepass"))
    if odd <= NFD_SHARE * lines:
        return None
    apart, composed = (sum(map(len, encode_ids(base.tokenizer, t))) for t in (probe, [unicodedata.normalize("NFC", p) for p in probe]))
    if apart <= composed:
        return None
    return (
        f"{100 * odd / lines:.1f} % of the lines of `{language}` are not NFC (letters and marks apart): the base cuts them into "
        f"{apart / max(1, composed):.2f} times the tokens of the same lines composed, and their words count apart from composed ones; "
        "normalise the text (corpus.normalise.unicode: NFC)"
    )


def shared_lines(targets: Mapping[str, Sequence[str]], protected: Sequence[str]) -> list[str]:
    """A warning for each target text in which more than SHARED of the protected text stands, line by line, with an example."""
    old = {line for line in lines_of(protected) if len(line) >= _LONG}
    total = sum(map(len, protected))
    out = []
    for name, pieces in targets.items():
        both = old & {line for line in lines_of(pieces) if len(line) >= _LONG}
        share = sum(map(len, both)) / max(1, total)
        if share > SHARED:
            out.append(
                f"{100 * share:.1f} % of the protected text stands in the text of `{name}` too, as {min(both).strip()[:60]!r}: "
                "tokens of these lines count as old ones and are kept out"
            )
    return out


def old_words(counts: Counts, languages: Sequence[str], protected: str) -> list[str]:
    """A warning for each target text most of which is words that the protected text has at least a third as often."""
    length = np.fromiter(map(len, counts.words), dtype=np.int64, count=len(counts.words))
    old = counts.column(protected) / max(1, counts.bytes_of(protected))
    out = []
    for name in languages:
        target = counts.column(f"target:{name}")
        known = old * 3 >= target / max(1, counts.bytes_of(f"target:{name}"))
        share = float((target * length)[known].sum() / max(1, (target * length).sum()))
        if share > OLD_WORDS:
            out.append(
                f"{100 * share:.0f} % of the text of `{name}` is words that the protected text has as often: is it text in the base's own "
                "language? Such words keep their old tokens"
            )
    return out


def must_be_joinable(counts: Counts, split: Split, languages: Sequence[str], base: Base) -> None:
    """UserError for a language in which every word is one token already: the pre-tokenizer cuts so finely that none can grow."""
    for name in languages:
        target = counts.column(f"target:{name}")
        if target.any() and not target[split.lengths > 1].any():
            some = [base.surface_of(counts.words[i]).decode(errors="replace") for i in np.argsort(-target, kind="stable")[:5]]
            raise UserError(
                f"no new token can ever come out for `{name}`: the base first cuts its text into words that are one token each, "
                f"as {', '.join(map(repr, some))}",
                where="vocab",
                fix="choose a base whose pre-tokenizer leaves words whole, or set vocab.extend: false",
            )

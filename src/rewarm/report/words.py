"""How a tokenizer cuts a sentence, for people: pieces of text with the number of tokens in each.

A token need not be a whole character: a byte-level tokenizer may spend three on one. Such tokens are joined into the piece that holds the
character, with their number, since half a character cannot be shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that one token stands for, or several tokens that share a character."""

    text: str
    tokens: int


def pieces(text: str, spans: Sequence[tuple[int, int]]) -> list[Piece]:
    """The text cut where tokens meet. spans: each token's first and end character; sizes sum to len(spans).

    Tokens that overlap are one piece; a token without characters (a begin mark) counts to the piece after it, or to the last.
    Characters that no token covers (dropped by a normaliser) stay with the piece before them.
    """
    out: list[list[int]] = []  # begin, end, tokens
    empty = 0
    for begin, end in spans:
        if begin >= end:
            empty += 1
        elif out and begin < out[-1][1]:
            out[-1][1], out[-1][2] = max(out[-1][1], end), out[-1][2] + 1 + empty
            empty = 0
        else:
            out.append([begin if out else 0, end, 1 + empty])
            empty = 0
    if not out:
        return [Piece(text, empty)] if text else []
    out[-1][2] += empty
    ends = [*(row[0] for row in out[1:]), len(text)]
    return [Piece(text[row[0] : end], row[2]) for row, end in zip(out, ends)]


@dataclass(frozen=True, slots=True)
class Cut:
    """One sentence under the base's tokenizer and, where that cuts it otherwise, under the new one (else None)."""

    label: str
    language: str | None
    text: str
    before: list[Piece]
    after: list[Piece] | None


def tokens_of(cut: Sequence[Piece]) -> int:
    return sum(piece.tokens for piece in cut)


def sentences() -> list[dict[str, str]]:
    """The same five sentences (Article 1 of the Universal Declaration of Human Rights) in every report: language, name, text."""
    found: list[dict[str, str]] = json.loads((files("rewarm.report") / "sentences.json").read_text(encoding="utf-8"))
    return found


def cut_sentences(base: Path | None, new: Path | None, wanted: Sequence[dict[str, Any]]) -> list[Cut]:
    """Each sentence (name, language, text) under both tokenizer.json files; nothing where the base's is not there or not readable."""
    before, after = _open(base), _open(new)
    if before is None:
        return []
    out = []
    for one in wanted:
        old = _cut(before, one["text"])
        new_cut = old if after is None else _cut(after, one["text"])
        out.append(Cut(one["name"], one["language"], one["text"], old, None if new_cut == old else new_cut))
    return out


def _open(path: Path | None) -> Any:
    """The tokenizer of a file; None if there is none or it is broken: the report of a run must not fail on a moved base."""
    if path is None or not path.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception:  # what tokenizers raises for a broken file is a bare Exception
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _cut(tokenizer: Any, text: str) -> list[Piece]:
    return pieces(text, tokenizer.encode(text, add_special_tokens=False).offsets)

"""What the gate asks of WordPiece tokenizers: old pieces, the reach of each new one through the whole tokenizer, and vocab.txt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rewarm.vocab import gate_pieces
from rewarm.vocab.base import encode_ids
from rewarm.vocab.gate import Finding, new_pieces

if TYPE_CHECKING:
    from rewarm.vocab.wordpiece import WordPieceBase


def findings_of(base: WordPieceBase) -> list[str]:
    """What is odd about the base itself."""
    finding = vocab_txt_agrees(base)
    return [] if finding.ok else [f"{finding.example}: tokenizer.json is the one that counts"]


def old_pieces(base: WordPieceBase, new: WordPieceBase) -> Finding:
    """2: every old piece is there under its id."""
    moved = [(p, i, new.vocab.get(p)) for p, i in base.vocab.items() if new.vocab.get(p) != i]
    return Finding(2, "old pieces keep their ids", not moved, len(moved), 0, "".join(f"`{p}` had id {i}, now {n}" for p, i, n in moved[:1]))


def old_text(base: WordPieceBase, new: WordPieceBase, lines: Sequence[str]) -> Finding:
    """3: see `gate_pieces`; and no word that the base could write has become [UNK]."""
    fresh = new_pieces(base, new).keys()
    longest = max((len(p.removeprefix(base.prefix)) for p in fresh), default=0)

    def holds(word: str) -> bool:
        return any(word.startswith(p) for p in first) or any(
            base.prefix + part in fresh for part in gate_pieces.substrings(word[1:], longest)
        )

    first = [p for p in fresh if not p.startswith(base.prefix)]
    finding = gate_pieces.old_text(base, new, lines, holds)
    if not finding.ok or base.unknown is None:
        return finding
    lines = list(lines)
    for line, before, after in zip(lines, encode_ids(base.tokenizer, lines), encode_ids(new.tokenizer, lines)):
        if after.count(base.unknown) > before.count(base.unknown):
            return Finding(3, "no word has become [UNK]", False, 1, 0, line[:200])
    return finding


def reachable(base: WordPieceBase, new: WordPieceBase) -> Finding:
    """5: some text gives each new piece: its own, or, for what continues a word, a letter and then its own, through the whole tokenizer."""
    fresh = new_pieces(base, new)
    letters = [p for p in new.vocab if len(p) == 1 and p.isalpha()][:400]
    left = dict(fresh)
    for lead in ["", *letters]:
        some = [p for p in left if p.startswith(base.prefix) == bool(lead)]
        texts = [lead + p.removeprefix(base.prefix) for p in some]
        for piece, ids in zip(some, encode_ids(new.tokenizer, texts)):
            if ids[-1:] == [fresh[piece]] and len(ids) == (2 if lead else 1):
                del left[piece]
        if not left:
            break
    return Finding(5, f"new tokens are reachable ({len(fresh):,})", not left, len(left), 0, ", ".join(list(left)[:5]))


def vocab_txt_agrees(new: WordPieceBase) -> Finding:
    """8: vocab.txt, where it is, gives each token its id by its line."""
    name = "old file formats agree"
    if new.vocab_txt is None:
        return Finding(8, name, True, "none")
    lines = new.vocab_txt.read_text(encoding="utf-8").splitlines()
    there = {piece: i for i, piece in enumerate(lines)}
    known = new.vocab | {t["content"]: t["id"] for t in new.added}
    wrong = [(p, i, there.get(p)) for p, i in new.vocab.items() if there.get(p) != i]
    wrong += [(p, known.get(p, -1), i) for p, i in there.items() if known.get(p) != i and not p.startswith("[gap-")]
    example = "".join(
        f"`{p}` has id {i} in tokenizer.json, and {'no line' if n is None else f'line {n + 1}'} in vocab.txt" for p, i, n in wrong[:1]
    )
    return Finding(8, name, not wrong, "vocab.txt", None, example)

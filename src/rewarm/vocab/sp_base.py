"""A SentencePiece BPE tokenizer as a base: Llama-2, Mistral, Gemma. Read from tokenizer.json, or from the `.model` alone.

SentencePiece knows no merges: it joins the neighbours whose whole has the best score. tokenizer.json says the same by a list of merges
that holds every split of every piece, best piece first. Words begin with `▁`, which stands for a blank; characters without a piece are
written as bytes `<0xXX>`.
"""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from rewarm.errors import UserError
from rewarm.vocab.bpe import BpeBase, extended_model
from rewarm.vocab.merge import Grammar
from rewarm.vocab.pairs import pair_key
from rewarm.vocab.sp_model import BPE, BYTE, CONTROL, MODEL_FILES, NORMAL, UNKNOWN, USER_DEFINED, read_sp_model
from rewarm.vocab.sp_pieces import MARK, PieceBase


@dataclass(frozen=True)
class SpBase(PieceBase, BpeBase):
    """A SentencePiece BPE tokenizer and where it came from."""

    kind: ClassVar[str] = "sp_bpe"

    def grammar(self) -> Grammar:
        apart = self.special_ids | {self.vocab[p] for p in self.byte_pieces}
        surfaces = [None if i in apart else s for i, s in enumerate(self.surfaces)]
        known = {pair_key(self.vocab[a], self.vocab[b]): rank for rank, (a, b) in enumerate(self.merges)}
        return Grammar(surfaces, self.next_id, known, every_split=True)

    @cached_property
    def _apart(self) -> frozenset[str]:
        """Pieces that are no half of any other: control tokens and bytes."""
        return frozenset(t["content"] for t in self.added) | self.byte_pieces.keys()

    def merges_for(self, new: list[str]) -> list[tuple[str, str]]:
        """The merges by which tokenizer.json joins as the `.model` does, once these pieces stand behind the old ones, in this order.

        First those of old pieces that a new piece is a half of: whatever a new piece completes is joined at once, as it has a better
        score. Then every split of each new piece.
        """
        known = (self.vocab.keys() | set(new)) - self._apart
        fresh = set(new)
        by_rank = dict.fromkeys(a + b for a, b in self.merges)
        old = [*by_rank, *(p for p in self.vocab if len(p) > 1 and p not in by_rank and p not in self._apart)]
        out = [pair for piece in old for pair in splits(piece, known) if not fresh.isdisjoint(pair)]
        return out + [pair for piece in new for pair in splits(piece, known)]

    def spec_with(self, new: dict[str, int]) -> dict[str, Any]:
        """tokenizer.json with these pieces behind the old ones."""
        return extended_model(self, new, self.merges_for(list(new)))


def splits(piece: str, known: Container[str]) -> list[tuple[str, str]]:
    """All ways to cut a piece into two known ones, the shortest front first."""
    return [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in known and piece[i:] in known]


def spec_of_model(folder: Path) -> dict[str, Any] | None:
    """A tokenizer.json for a folder that has only a `.model` of type BPE; None if it has none.

    Merges stand in the order of their piece's score, those of one piece in the order of their halves' ids, as transformers converts them.
    """
    file = next((folder / name for name in MODEL_FILES if (folder / name).is_file()), None)
    model = read_sp_model(file) if file else None
    if model is None or model.type != BPE:
        return None
    if model.charsmap or model.remove_blanks:
        raise UserError(
            "this SentencePiece model rewrites text before it cuts it, and there is no tokenizer.json that says how",
            where=str(file),
            fix="save the tokenizer in the fast format first: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )
    settings = json.loads(p.read_text(encoding="utf-8")) if (p := folder / "tokenizer_config.json").is_file() else {}
    vocab = {piece.text: i for i, piece in enumerate(model.pieces)}
    joinable = {piece.text: piece.score for piece in model.pieces if piece.type == NORMAL}
    halves = joinable.keys() | {piece.text for piece in model.pieces if piece.type == USER_DEFINED}
    ranked = sorted((-score, vocab[a], vocab[b], a, b) for text, score in joinable.items() for a, b in splits(text, halves))
    unk = next((piece.text for piece in model.pieces if piece.type == UNKNOWN), None)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    listed = {int(i): {**flags, "special": True, **t} for i, t in (settings.get("added_tokens_decoder") or {}).items()}
    for i, piece in enumerate(model.pieces):
        if piece.type in (UNKNOWN, CONTROL, USER_DEFINED):
            listed.setdefault(i, {**flags, "content": piece.text, "special": piece.type != USER_DEFINED})
    to_mark = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    prefix = [{"type": "Prepend", "prepend": MARK}] if model.dummy_prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if model.dummy_prefix else []
    back = [{"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, **token} for i, token in sorted(listed.items())],
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, to_mark]}, "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": back},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": unk, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": True, "byte_fallback": model.byte_fallback and any(p.type == BYTE for p in model.pieces), "ignore_merges": False,
            "vocab": vocab, "merges": [[a, b] for *_, a, b in ranked],
        },
    }  # fmt: skip

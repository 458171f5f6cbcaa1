"""What the kinds that come from SentencePiece share: pieces in which `▁` stands for a blank, bytes as `<0xXX>`, and a `.model` file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rewarm.vocab.base import Base, encode_ids
from rewarm.vocab.recipe import Rules
from rewarm.vocab.rules import Refusal
from rewarm.vocab.scripts import one_script
from rewarm.vocab.sp_model import MODEL_FILES, SpModel, read_sp_model

MARK = "▁"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_WORD = re.compile(f"{MARK}+[^{MARK}]*|[^{MARK}]+")


@dataclass(frozen=True)
class PieceBase(Base):
    """A tokenizer of SentencePiece pieces, whatever decides between them."""

    @cached_property
    def byte_pieces(self) -> dict[str, int]:
        """`<0xXX>` pieces -> their byte; empty without byte fallback."""
        fallback = self.spec["model"].get("byte_fallback")
        return {p: int(m[1], 16) for p in self.vocab if (m := _BYTE.fullmatch(p))} if fallback else {}

    @cached_property
    def model_file(self) -> Path | None:
        """The `.model` beside the tokenizer.json, if there is one."""
        return next((self.folder / name for name in MODEL_FILES if (self.folder / name).is_file()), None)

    @cached_property
    def sp_model(self) -> SpModel | None:
        return read_sp_model(self.model_file) if self.model_file else None

    def surface_of(self, piece: str) -> bytes:
        byte = self.byte_pieces.get(piece)
        return piece.replace(MARK, " ").encode() if byte is None else bytes([byte])

    def written(self, surface: bytes) -> str:
        return surface.decode().replace(" ", MARK)

    def _words(self, text: str) -> list[str]:
        """Runs of `▁` with what follows them: no piece of these tokenizers has a `▁` behind another character."""
        return [word for part in super()._words(text) for word in _WORD.findall(part)]

    def decompose(self, surfaces: Iterable[bytes]) -> list[list[int]]:
        return encode_ids(self.bare, [self.written(s) for s in surfaces])

    def refusal(self, rules: Rules) -> Refusal:
        """The rules of all kinds, and what a pre-tokenizer does elsewhere: a blank only in front, one script, no line ends."""
        plain = super().refusal(rules)

        def refusal(surface: bytes) -> str | None:
            reason = plain(surface)
            if reason is not None:
                return reason
            body = surface.decode().removeprefix(" ")
            if MARK in body or any(c.isspace() for c in body):
                return "white space"
            return None if one_script(body) else "two scripts"

        return refusal

"""A text before and after: how many tokens it was and is, and where it is cut now."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from rewarm.vocab.readers import Cutter

GREETINGS = (
    "你好很高兴见到你",
    "こんにちは、初めまして！",
    "안녕하세요, 만나서 반갑습니다!",
    "Xin chào, rất vui được gặp bạn!",
    "Nice to meet you, my friend.",
)
"""Shown where no text is given: how this project began."""


@dataclass(frozen=True)
class Piece:
    """A token of the new tokenizer as it is shown."""

    text: str
    new: bool
    """Whether the old tokenizer has no such token."""


@dataclass(frozen=True)
class Shown:
    """One text with two tokenizers."""

    text: str
    bytes: int
    before: int
    after: int
    pieces: tuple[Piece, ...]
    same: bool
    """Whether both give the same ids."""


def show(base: Cutter, new: Cutter, texts: list[str]) -> list[Shown]:
    """Tokens of each text before and after."""
    old = {surface for surface in base.surfaces if surface is not None}
    out = []
    for text, before, after in zip(texts, base.encode(texts), new.encode(texts)):
        surfaces = [new.surfaces[i] or b"" for i in after]
        pieces = tuple(Piece(readable(s), s not in old) for s in surfaces)
        out.append(Shown(text, len(text.encode()), len(before), len(after), pieces, before == after))
    return out


def readable(surface: bytes) -> str:
    """A token's text; bytes that are no whole characters as `<E1 BB>`, line ends and other controls as escapes."""
    try:
        text = surface.decode()
    except UnicodeDecodeError:
        return f"<{surface.hex(' ').upper()}>"
    return escaped(text)


def escaped(text: str) -> str:
    """Line ends, tabs and other characters that would disturb a table, as Python writes them."""
    return "".join(c if c == " " or unicodedata.category(c)[0] not in "CZ" else c.encode("unicode_escape").decode() for c in text)


def table(rows: list[Shown]) -> list[Text]:
    """A head and a line a text: tokens apart by `|`, new ones coloured; where nothing changed it says so."""
    texts = [escaped(row.text) for row in rows]
    width = max(4, *(cell_len(text) for text in texts)) + 2
    out = [Text(f"{'text':<{width}}{'bytes':>6}{'before':>8}{'after':>7}", style="bold")]
    for text, row in zip(texts, rows):
        line = Text(f"{text}{' ' * (width - cell_len(text))}{row.bytes:>6}{row.before:>8}{row.after:>7}   ")
        if row.same:
            line.append("ids unchanged", style="dim")
        else:
            for n, piece in enumerate(row.pieces):
                line.append("|" if n else "", style="dim")
                line.append(piece.text, style="bold green" if piece.new else "")
        out.append(line)
    return out

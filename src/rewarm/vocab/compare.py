"""What texts cost with any number of tokenizers, side by side: in tokens, since tokens are what training, context and answers are paid in.

Bytes a token compares tokenizers on one text, not one text with another: Chinese takes three bytes a character, Vietnamese 1.3.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rewarm.vocab.readers import Cutter

LONGEST_WORD = 16
"""Characters between blanks, on average, above which a text has no words to count (Chinese, Japanese, Thai)."""
ALIKE = 0.005
"""Share by which two counts of tokens may differ and still be called the same."""


@dataclass(frozen=True)
class Fertility:
    """What one text costs with one tokenizer."""

    text: str
    tokenizer: str
    bytes: int
    """UTF-8."""
    characters: int
    words: int | None
    """Between blanks; None where the language does not write words apart."""
    tokens: int
    lone_bytes: int
    """Tokens that are one byte of a longer character: the tokenizer spells instead of reading."""
    unknown: int
    """Tokens that stand for characters the tokenizer does not know: that text is lost."""

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens

    @property
    def characters_per_token(self) -> float:
        return self.characters / self.tokens

    @property
    def tokens_per_word(self) -> float | None:
        return self.tokens / self.words if self.words else None

    def record(self) -> dict[str, Any]:
        """For JSON: the counts and the ratios."""
        per_word = self.tokens_per_word
        return {
            **asdict(self),
            "bytes_per_token": round(self.bytes_per_token, 4),
            "characters_per_token": round(self.characters_per_token, 4),
            "tokens_per_word": None if per_word is None else round(per_word, 4),
            "lone_byte_share": round(self.lone_bytes / self.tokens, 4),
        }


def compare(cutters: list[Cutter], texts: dict[str, list[str]]) -> list[Fertility]:
    """Every text with every tokenizer, text by text. texts: name -> pieces, at least one of them with a character in it."""
    lone = [np.array([s is not None and len(s) == 1 and s[0] > 0x7F for s in c.surfaces], dtype=bool) for c in cutters]
    out = []
    for name, pieces in texts.items():
        size, characters = sum(len(p.encode(errors="surrogatepass")) for p in pieces), sum(map(len, pieces))
        words = sum(len(p.split()) for p in pieces)
        spaced = words > 0 and characters / words <= LONGEST_WORD
        for cutter, table in zip(cutters, lone):
            ids = np.fromiter((i for piece in cutter.encode(pieces) for i in piece), dtype=np.int64)
            unknown = 0 if cutter.unk is None else int((ids == cutter.unk).sum())
            out.append(Fertility(name, cutter.name, size, characters, words if spaced else None, len(ids), int(table[ids].sum()), unknown))
    return out


def cost_lines(rows: list[Fertility]) -> list[str]:
    """`vi costs 2.40 times fewer tokens with B than with A`: each text, the other tokenizers against the first."""
    out = []
    first: dict[str, Fertility] = {}
    for row in rows:
        base = first.setdefault(row.text, row)
        if base is row:
            continue
        ratio = base.tokens / row.tokens
        if abs(ratio - 1.0) <= ALIKE:
            line = f"{row.text} costs the same with {row.tokenizer} as with {base.tokenizer}"
        else:
            how, times = ("fewer", ratio) if ratio > 1.0 else ("more", 1.0 / ratio)
            line = f"{row.text} costs {times:.2f} times {how} tokens with {row.tokenizer} than with {base.tokenizer}"
        lost = [r for r in (row, base) if r.unknown]
        out.append(line + "".join(f"; but {r.tokenizer} does not know {r.unknown:,} pieces of it, which are lost" for r in lost))
    return out


def fertility_lines(rows: list[Fertility]) -> list[str]:
    """The table as lines: a block a text, a row a tokenizer."""
    width = max(len(row.tokenizer) for row in rows)
    names = max(4, *(len(row.text) for row in rows))
    columns = f"{'tokens':>11}  {'bytes/token':>11}  {'chars/token':>11}  {'tokens/word':>11}  {'lone bytes':>10}"
    head = f"{'text':<{names}}  {'tokenizer':<{width}}  {columns}"
    unknown = any(row.unknown for row in rows)
    out = [head + ("  unknown" if unknown else "")]
    shown = ""
    for row in rows:
        label = row.text if row.text != shown else ""
        shown = row.text
        word = "-" if row.tokens_per_word is None else f"{row.tokens_per_word:.2f}"
        line = f"{label:<{names}}  {row.tokenizer:<{width}}  {row.tokens:>11,}  {row.bytes_per_token:>11.2f}"
        line += f"  {row.characters_per_token:>11.2f}  {word:>11}  {100 * row.lone_bytes / row.tokens:>8.1f} %"
        out.append(line + (f"  {row.unknown:>7,}" if unknown else ""))
    return out

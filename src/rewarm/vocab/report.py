"""What an extension brings: tokens before and after, the size curve, and whether it is worth it at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rewarm.vocab.base import encode_ids
from rewarm.vocab.merge import Merges

KNEE = 0.03
"""`size: auto` stops where doubling the new tokens adds less than this to bytes a token."""
STEP = 64


def fertility(tokenizers: dict[str, Tokenizer], texts: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Text -> its bytes, characters and words, and for each tokenizer its tokens and bytes a token (a ratio of sums)."""
    out: dict[str, dict[str, Any]] = {}
    for name, pieces in texts.items():
        size = sum(len(p.encode()) for p in pieces)
        row: dict[str, Any] = {"bytes": size, "characters": sum(map(len, pieces)), "words": sum(len(p.split()) for p in pieces)}
        for label, tokenizer in tokenizers.items():
            tokens = sum(map(len, encode_ids(tokenizer, pieces)))
            row[label] = {"tokens": tokens, "bytes_per_token": round(size / tokens, 4) if tokens else None}
        out[name] = row
    return out


@dataclass(frozen=True)
class Curve:
    """Bytes a token for every size from 0 to all new tokens, of each language's held-out text. It comes out of one run of merging."""

    languages: tuple[str, ...]
    rows: NDArray[np.int64]
    """[K + 1] number of merges that make a size."""
    bytes_per_token: NDArray[np.float64]
    """[K + 1, languages]."""

    @property
    def sizes(self) -> int:
        return len(self.rows) - 1

    def gain(self, size: int) -> float:
        """Bytes a token over the base's, less 1: geometric mean over the languages."""
        ratio = self.bytes_per_token[min(size, self.sizes)] / self.bytes_per_token[0]
        return float(np.exp(np.log(ratio).mean())) - 1.0

    def table(self, chosen: int) -> list[dict[str, Any]]:
        """Points at 250, 500, 1,000 ... tokens, at the chosen size and at the end."""
        points = {0, min(chosen, self.sizes), self.sizes} | {250 << i for i in range(12) if 250 << i < self.sizes}
        return [
            {
                "new_tokens": k,
                "gain": round(self.gain(k), 4),
                **{f"bytes_per_token.{n}": round(float(v), 4) for n, v in zip(self.languages, row)},
            }
            for k, row in ((k, self.bytes_per_token[k]) for k in sorted(points))
        ]


def size_curve(merges: Merges, languages: dict[str, tuple[int, int, int]]) -> Curve:
    """The curve from the tokens that each merge saves.

    languages: name -> (column of `merges.saved`, bytes of the text, its tokens with the base).
    """
    made = np.flatnonzero(_first_made(merges))
    rows = np.concatenate([[0], made + 1]).astype(np.int64)
    saved = np.concatenate([np.zeros((1, merges.saved.shape[1]), dtype=np.int64), np.cumsum(merges.saved, axis=0)])
    columns = [size / np.maximum(1, tokens - saved[rows, column]) for column, size, tokens in languages.values()]
    return Curve(tuple(languages), rows, np.stack(columns, axis=1))


def _first_made(merges: Merges) -> NDArray[np.bool_]:
    """[M] whether the merge makes an id that was not there before it."""
    first = np.zeros(len(merges.id), dtype=bool)
    new = np.flatnonzero(merges.id >= merges.first_id)
    first[new[np.unique(merges.id[new], return_index=True)[1]]] = True
    return first


def knee(curve: Curve, most: int, least: int = 0) -> int:
    """The smallest size (in steps of 64) above `least` whose doubling adds less than 3 %, at most `most`."""
    most = min(most, curve.sizes)
    for size in range(STEP * (least // STEP + 1), most, STEP):
        if (1.0 + curve.gain(min(2 * size, most))) / (1.0 + curve.gain(size)) - 1.0 < KNEE:
            return size
    return most


@dataclass(frozen=True)
class Advice:
    """Whether to extend."""

    extend: bool
    gain: float
    """Largest gain within the bound, 0.15 = 15 % more bytes a token."""
    text: str


def advise(curve: Curve, min_gain: float, most: int) -> Advice:
    """Extend if some size within `most` gains at least `min_gain` on held-out text."""
    gain = curve.gain(most)
    percent = f"{100 * gain:,.0f} %"
    if gain >= min_gain:
        return Advice(True, gain, f"new tokens gain up to {percent} bytes a token on held-out text")
    return Advice(
        False, gain, f"do not extend: even {min(most, curve.sizes):,} new tokens gain only {percent} bytes a token on held-out text"
    )


def min_uses_size(
    merges: Merges, curve: Curve, weighted_tokens: NDArray[np.float64], planned_tokens: int | None, unit: float, uses: int
) -> int:
    """The largest size whose last token is expected at least `uses` times in the planned training.

    weighted_tokens: [M] weighted tokens of the counted target text after each merge. unit: weight of one occurrence. Without a plan, uses
    are counted in the text itself.
    """
    if not len(merges.count):
        return 0
    expected = merges.count / unit if planned_tokens is None else merges.count * (planned_tokens / np.maximum(1.0, weighted_tokens))
    enough = np.flatnonzero(expected[curve.rows[1:] - 1] >= uses)
    return int(enough[-1]) + 1 if len(enough) else 0


def auto_uses(planned_tokens: int | None) -> int:
    """`min_uses: auto`: one in 100,000 planned tokens, at least 2, at most 200."""
    return max(2, min(200, math.ceil((planned_tokens or 0) / 100_000)))

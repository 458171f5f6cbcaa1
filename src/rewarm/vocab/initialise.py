"""What a new row starts as: a mix of old rows, decided once, then applied to every matrix that has vocabulary rows.

All methods but `mean` are such mixes, so they differ only in ids and weights: no matrix is needed to decide them, and the same mix gives
the rows of input and output, of a bias, and of embeddings in every layer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rewarm.errors import UserError
from rewarm.vocab.base import Base
from rewarm.vocab.extension import Extension
from rewarm.vocab.focus import focus_mix
from rewarm.vocab.recipe import VocabRecipe

GATHERED_BYTES = 1 << 24
"""Old rows that are mixed at a time, in float32."""
Texts = Mapping[str, Sequence[str]]
"""Language -> pieces of its text."""
_RESERVED = re.compile(rb"^[<\[](\|)?(unused|reserved|extra|pad|dummy|placeholder|special)[^\s]*(\|)?[>\]]$", re.IGNORECASE)


@dataclass(frozen=True)
class Mix:
    """Rows of K new tokens as weighted sums of old rows. Token k is made of entries ptr[k] .. ptr[k+1]-1; none: the mean row."""

    ids: NDArray[np.int64]
    weights: NDArray[np.float32]
    """Of a token's entries they sum to 1."""
    ptr: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def of(self, k: int) -> tuple[list[int], list[float]]:
        """(old ids, weights) of new token k."""
        some = slice(int(self.ptr[k]), int(self.ptr[k + 1]))
        return self.ids[some].tolist(), self.weights[some].tolist()


def mix_of(parts: Sequence[Sequence[int]], weights: Sequence[Sequence[float]]) -> Mix:
    """A mix from lists; each token's weights are scaled to sum to 1."""
    ptr = np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64)
    flat = np.fromiter((w for some in weights for w in some), dtype=np.float64, count=int(ptr[-1]))
    total = np.add.reduceat(np.concatenate([flat, [0.0]]), ptr[:-1]) if len(parts) else np.zeros(0)
    scaled = flat / np.repeat(total, np.diff(ptr))
    return Mix(np.fromiter((i for p in parts for i in p), dtype=np.int64, count=int(ptr[-1])), scaled.astype(np.float32), ptr)


@dataclass(frozen=True)
class Start:
    """The mixes of an extension. Tied models use `input` alone."""

    input: Mix
    output: Mix


def plan_start(base: Base, extension: Extension, cfg: VocabRecipe, tokenizer: Tokenizer, texts: Texts) -> Start:
    """Decides the rows of all new tokens by `vocab.init` and `vocab.init_output`.

    tokenizer: the extended one; texts: counted target text of each language. Both are only looked at by `focus`.
    """
    made: dict[str, Mix] = {}

    def mix(method: str) -> Mix:
        if method not in made:
            made[method] = METHODS[method](base, extension, tokenizer, texts)
        return made[method]

    return Start(mix(cfg.init), mix(cfg.init if cfg.init_output == "same" else cfg.init_output))


def token_parts(base: Base, extension: Extension) -> list[tuple[int, ...]]:
    """Old ids each new token is made of, without unknown ones.

    A character that the base cannot write starts as its letter without marks (ậ as a), if the base has that; a byte or a control token
    has no parts.
    """
    model = base.spec["model"]
    named = (base.vocab.get(model.get("unk_token") or ""), model.get("unk_id"))
    unknown = base.special_ids | {i for i in named if i is not None}
    parts = [tuple(p for p in token.parts if p not in unknown) for token in extension.tokens]
    bare = {k: letters for k, t in enumerate(extension.tokens) if not (parts[k] or t.special) and (letters := _without_marks(t.surface))}
    for k, found in zip(bare, base.decompose(bare.values())):
        parts[k] = tuple(p for p in found if p not in unknown)
    return parts


def _without_marks(surface: bytes) -> bytes:
    """The first characters of the decomposed text, or nothing if it is no text or has no marks."""
    try:
        text = surface.decode()
    except UnicodeDecodeError:
        return b""
    bare = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return b"" if bare == text else bare.encode()


def surface_lengths(base: Base) -> NDArray[np.int64]:
    """[V] bytes of each old id's text, 0 where no token has the id."""
    return np.array([len(s) if s is not None else 0 for s in base.surfaces], dtype=np.int64)


def _length_mean(base: Base, extension: Extension, tokenizer: Tokenizer, texts: Texts) -> Mix:
    """Parts weighted by their bytes: a part that spells most of the word says most about it."""
    lengths = surface_lengths(base)
    parts = token_parts(base, extension)
    return mix_of(parts, [[float(max(1, lengths[i])) for i in p] for p in parts])


def _fvt(base: Base, extension: Extension, tokenizer: Tokenizer, texts: Texts) -> Mix:
    """Plain mean of the parts (Fast Vocabulary Transfer, 2022.emnlp-industry.41)."""
    parts = token_parts(base, extension)
    return mix_of(parts, [[1.0] * len(p) for p in parts])


def _mean(base: Base, extension: Extension, tokenizer: Tokenizer, texts: Texts) -> Mix:
    return mix_of([()] * len(extension.tokens), [()] * len(extension.tokens))


def _focus(base: Base, extension: Extension, tokenizer: Tokenizer, texts: Texts) -> Mix:
    """By likeness of use (FOCUS, arXiv 2305.14481, without fastText); a token that no text shows starts as with `length_mean`."""
    found = focus_mix(tokenizer, texts, extension.first_new_id, len(extension.tokens), base.special_ids)
    plain = _length_mean(base, extension, tokenizer, texts)
    chosen = [found[k] if found[k][0] else plain.of(k) for k in range(len(extension.tokens))]
    return mix_of([ids for ids, _ in chosen], [weights for _, weights in chosen])


METHODS: dict[str, Callable[[Base, Extension, Tokenizer, Texts], Mix]] = {
    "length_mean": _length_mean,
    "fvt": _fvt,
    "mean": _mean,
    "focus": _focus,
}


def mix_rows_reference(E: NDArray[np.float32], mix: Mix, mean: NDArray[np.float32]) -> NDArray[np.float64]:
    """[K, D] rows of all new tokens, token by token in float64: the definition, kept to test the fast one."""
    out = []
    for k in range(len(mix)):
        ids, weights = mix.of(k)
        rows = [w * E[i].astype(np.float64) for i, w in zip(ids, weights)]
        out.append(sum(rows[1:], rows[0]) if rows else mean.astype(np.float64))
    return np.array(out)


def mix_rows(
    take: Callable[[NDArray[np.int64]], NDArray[np.float32]], mix: Mix, mean: NDArray[np.float32], start: int, stop: int
) -> NDArray[np.float32]:
    """First rows of new tokens start .. stop - 1: [stop - start, D], or [stop - start] for a bias, in float32.

    take(ids): old rows [n, D]. mean: [D], the row of tokens without parts.
    """
    out = np.broadcast_to(mean, (stop - start, *mean.shape)).astype(np.float32)
    filled = start + np.flatnonzero(np.diff(mix.ptr[start : stop + 1]))
    at = 0
    most = max(1, GATHERED_BYTES // (4 * max(1, mean.size)))
    while at < len(filled):
        past = max(at + 1, int(np.searchsorted(mix.ptr[filled + 1], mix.ptr[filled[at]] + most, side="right")))
        some = filled[at:past]
        entries = slice(int(mix.ptr[some[0]]), int(mix.ptr[some[-1] + 1]))
        rows = take(mix.ids[entries])
        rows *= mix.weights[entries].reshape(-1, *[1] * (rows.ndim - 1))
        out[some - start] = np.add.reduceat(rows, mix.ptr[some] - entries.start, axis=0)
        at = past
    return out


def is_reserved(surface: bytes) -> bool:
    """Whether a token only keeps a place: `<unused42>`, `[unused3]`, `<|reserved_7|>`."""
    return _RESERVED.match(surface) is not None


def refuse_split_start(cfg: VocabRecipe, tied: bool, where: str) -> None:
    """UserError where the recipe asks for output rows of their own, and the model has none."""
    if tied and cfg.init_output not in ("same", cfg.init):
        raise UserError(
            f"vocab.init_output is {cfg.init_output}, but this model shares its output rows with its input rows",
            where=where,
            fix="leave out vocab.init_output, or set it to `same`",
        )

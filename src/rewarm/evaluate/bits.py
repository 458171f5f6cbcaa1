"""Bits per byte: how well a model predicts a text, comparable across tokenizers as perplexity is not.

All tokens of a document count, the first included; the prefix and an end token never. Bytes are those of the very string that was
tokenised. A document that a tokenizer cannot represent would get its lost bytes for free: it leaves the sums of every model compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol as Shape

import numpy as np
import numpy.typing as npt

from rewarm.errors import UserError
from rewarm.evaluate.documents import Documents
from rewarm.evaluate.encode import Encoder
from rewarm.evaluate.protocol import Protocol, prefix_for
from rewarm.evaluate.windows import cut_windows

MOST_LOSSY_BYTES, MOST_BAD_DOCUMENTS = 0.01, 0.001
"""Shares that may be left out: of bytes, because a tokenizer loses them; of documents, because a model gives no finite number."""


class Nll(Shape):
    """What a scorer does; see `rewarm.model.score.Scorer`."""

    def nll(
        self, ids: Sequence[npt.NDArray[np.int32]], first: Sequence[int], progress: Callable[[int], None] | None = None
    ) -> list[npt.NDArray[np.float64]]: ...


@dataclass(frozen=True, slots=True)
class DocScores:
    """One model on one text; arrays of one entry a document, in the documents' order.

    nll: nats, NaN where the document is lossy. lossy: the tokens do not decode to the text. bad_at: the first token without a finite
    number, -1 if there is none (then nll is finite or the document lossy).
    """

    ids: tuple[str, ...]
    nll: npt.NDArray[np.float64]
    bytes: npt.NDArray[np.int64]
    chars: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    lossy: npt.NDArray[np.bool_]
    bad_at: npt.NDArray[np.int64]

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        return ~self.lossy & (self.bad_at < 0)


@dataclass(frozen=True, slots=True)
class Rows:
    """What a scorer is given for some documents. rows: prefix, context and scored tokens of every window; first: where its scored tokens
    begin; owner: the document each belongs to. tokens and lossy: by document; a lossy one has no rows."""

    ids: list[npt.NDArray[np.int32]]
    first: list[int]
    owner: list[int]
    tokens: npt.NDArray[np.int64]
    lossy: npt.NDArray[np.bool_]

    @property
    def computed(self) -> int:
        """Tokens that go through the model."""
        return sum(len(row) for row in self.ids)


def rows_of(encoder: Encoder, documents: Documents, protocol: Protocol) -> Rows:
    """Windows of all documents under one model's tokenizer; pure, so they can be made once and scored many times."""
    _, prefix = prefix_for(protocol.prefix, encoder)
    front = np.asarray([] if prefix is None else [prefix], dtype=np.int32)
    encoded = encoder.encode(documents.texts)
    ids, first, owner = [], [], []
    for number, document in enumerate(encoded):
        if not document.lossless:
            continue
        for window in cut_windows(document.starts, protocol.window, protocol.stride):
            ids.append(np.concatenate([front, document.ids[window.begin : window.end]]))
            first.append(len(front) + window.score - window.begin)
            owner.append(number)
    tokens = np.asarray([len(document.ids) for document in encoded], dtype=np.int64)
    return Rows(ids, first, owner, tokens, np.asarray([not document.lossless for document in encoded], dtype=bool))


def score_rows(scorer: Nll, documents: Documents, rows: Rows, progress: Callable[[int], None] | None = None) -> DocScores:
    """Scores of the documents that `rows` was made of."""
    n = len(documents.ids)
    parts: list[list[float]] = [[] for _ in range(n)]
    bad_at = np.full(n, -1, dtype=np.int64)
    done = np.zeros(n, dtype=np.int64)
    for number, values in zip(rows.owner, scorer.nll(rows.ids, rows.first, progress)):
        if bad_at[number] < 0 and not np.isfinite(values).all():
            bad_at[number] = done[number] + int(np.argmin(np.isfinite(values)))
        done[number] += len(values)
        parts[number].append(math.fsum(values.tolist()) if bad_at[number] < 0 else math.nan)
    nll = np.asarray([math.nan if rows.lossy[i] else math.fsum(part) for i, part in enumerate(parts)], dtype=np.float64)
    return DocScores(
        documents.ids,
        nll,
        np.asarray([len(text.encode()) for text in documents.texts], dtype=np.int64),
        np.asarray([len(text) for text in documents.texts], dtype=np.int64),
        rows.tokens,
        rows.lossy,
        bad_at,
    )


def score_documents(
    scorer: Nll, encoder: Encoder, documents: Documents, protocol: Protocol, progress: Callable[[int], None] | None = None
) -> DocScores:
    """Tokens, windows and scores of these documents under one model."""
    return score_rows(scorer, documents, rows_of(encoder, documents, protocol), progress)


def bits_per_byte(scores: DocScores, keep: npt.NDArray[np.bool_] | None = None) -> float:
    """Bits the model needs for one UTF-8 byte of these documents: sum(nll) / (ln 2 * sum(bytes)), a ratio of sums.

    keep: only these documents, by default all that are usable. UserError if they hold no byte. Source: arXiv 2101.00027.
    """
    keep = scores.usable if keep is None else keep
    total = int(scores.bytes[keep].sum())
    if total == 0:
        raise UserError("no document can be scored: there is nothing to divide by", where="bits per byte", fix="give more text")
    return float(scores.nll[keep].sum() / (math.log(2) * total))


def shared(scores: Iterable[DocScores]) -> npt.NDArray[np.bool_]:
    """Documents that every one of these models represents and gives a finite number: only they are compared."""
    return np.logical_and.reduce([one.usable for one in scores])


def check_scores(text: str, scores: Mapping[str, DocScores]) -> list[str]:
    """Warnings about documents that are left out. UserError where they are too many for the rest to speak for the text."""
    told = [check_lossless(text, model, one.ids, one.bytes, one.lossy) for model, one in scores.items()]
    told += [check_finite(text, model, one) for model, one in scores.items()]
    return [warning for warning in told if warning is not None]


def check_lossless(text: str, model: str, ids: Sequence[str], sizes: npt.NDArray[np.int64], lossy: npt.NDArray[np.bool_]) -> str | None:
    """A warning where a tokenizer loses characters. UserError if that takes more than 1 % of the bytes, and more than one document."""
    count, lost, total = int(lossy.sum()), int(sizes[lossy].sum()), int(sizes.sum())
    if not count:
        return None
    told = (
        f"{count} of {len(ids)} documents ({lost:,} of {total:,} bytes), first `{ids[int(np.argmax(lossy))]}`,"
        f" cannot be represented by the tokenizer of {model}"
    )
    if lost > MOST_LOSSY_BYTES * total and count > 1:
        raise UserError(
            told,
            where=f"text `{text}`",
            fix="measure on text that all the models can read: a tokenizer that loses characters would get them for free",
        )
    return f"{text}: {told}; they are left out for all models"


def check_finite(text: str, model: str, scores: DocScores) -> str | None:
    """A warning where a model gives NaN or infinity. UserError if it does for more than 0.1 % of the documents."""
    bad = np.flatnonzero(scores.bad_at >= 0).tolist()
    if not bad:
        return None
    told = f"{model} gives no finite number on {len(bad)} documents, first `{scores.ids[bad[0]]}`, token {int(scores.bad_at[bad[0]])}"
    if len(bad) > MOST_BAD_DOCUMENTS * len(scores.ids):
        raise UserError(told, where=f"text `{text}`", fix="its weights are damaged or overflow in this type: try evaluate.dtype: fp32")
    return f"{text}: {told}; they are left out for all models"

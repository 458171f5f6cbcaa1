"""Bits per byte of a model in the middle of its training, on a little text that is prepared once.

Nothing of the training is touched: not the mode, not a gradient, not a random number; a run with probes has the weights of one without.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from rewarm.evaluate.bits import DocScores, bits_per_byte, check_finite, rows_of, score_rows
from rewarm.evaluate.documents import TextRef
from rewarm.evaluate.forgetting import compare
from rewarm.evaluate.measure import Measurement
from rewarm.evaluate.protocol import max_bytes
from rewarm.evaluate.recipe import EvaluateRecipe
from rewarm.model.files import find_folder
from rewarm.model.release import release_memory
from rewarm.model.score import Scorer
from rewarm.progress import Reporter

PROBE_BYTES = {"cpu": 4_096, "cuda": 200_000}
"""Of each text; a CPU scores one to two kilobytes a second of a model of 135M parameters."""


class Probe:
    """`probe(model)` gives, by text, `bits_per_byte` and `documents`; and for old text, if `paired`, `delta`, `low` and `high` against the
    base, the last two None where there are too few documents for an interval.

    base: the model before everything, on which the protocol is chosen and old text is scored once, now. model: the folder whose tokenizer
    the model in training reads with. bytes: of each text, by default 4 KB on a CPU and 200 KB on a GPU. out: where scores of the base are
    kept.
    """

    def __init__(
        self,
        cfg: EvaluateRecipe,
        base: Path,
        model: Path,
        texts: Sequence[TextRef],
        out: Path,
        reporter: Reporter,
        *,
        bytes: int | None = None,
        paired: bool = True,
        device: str | torch.device | None = None,
        cache: Path | None = None,
    ) -> None:
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        limit = PROBE_BYTES.get(where.type, PROBE_BYTES["cuda"]) if bytes is None else bytes
        measure = Measurement(cfg, base, [model], texts, out, reporter, limit=limit, device=where, cache=cache)
        self.protocol, self.documents = measure.protocol, measure.documents
        measure.check_lossless(max(limit, max_bytes(cfg, where)))
        encoder = measure.encoder(find_folder(model))
        self._rows = {name: rows_of(encoder, documents, self.protocol) for name, documents in self.documents.items()}
        self._base: dict[str, DocScores] = {}
        olds = [text.name for text in texts if text.role == "old"]
        if paired and olds:
            with measure.model(measure.base) as lazy:
                self._base = measure.score("base", measure.base, lazy, olds)

    @property
    def tokens(self) -> int:
        """Tokens that one probe computes."""
        return sum(rows.computed for rows in self._rows.values())

    def __call__(self, model: PreTrainedModel) -> dict[str, dict[str, Any]]:
        scorer = Scorer(model, dtype=self.protocol.torch_dtype)
        found: dict[str, dict[str, Any]] = {}
        for name, rows in self._rows.items():
            scores = score_rows(scorer, self.documents[name], rows)
            check_finite(name, "the model in training", scores)
            if name in self._base:
                delta = compare(self._base[name], scores)
                found[name] = {
                    "bits_per_byte": delta.after,
                    "documents": delta.n,
                    "delta": delta.delta,
                    "low": delta.low,
                    "high": delta.high,
                }
            else:
                found[name] = {"bits_per_byte": bits_per_byte(scores), "documents": int(scores.usable.sum())}
        release_memory()  # scoring threads have heaps of their own, which the training cannot use
        return found

"""What two measurements must share to be compared: window, prefix and type. Decided once, on the base, then kept.

The prefix alone moves bits per byte by more than a usual budget (36 English paragraphs: 1.075 after `<|endoftext|>`, 1.101 after the
tokenizer's declared begin token), so it is chosen once and is the same token for every model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from rewarm.errors import UserError
from rewarm.evaluate.documents import Documents
from rewarm.evaluate.encode import Encoder
from rewarm.evaluate.recipe import EvaluateRecipe
from rewarm.evaluate.windows import Starts, fit
from rewarm.model.precision import cpu_has_bf16

TRIED_DOCUMENTS, TRIED_CHARACTERS = 32, 128
"""Openings on which prefixes are tried: about 4 KB, since a prefix speaks to the first tokens after it, and a CPU scores 1 KB a second."""
MAX_MB = {"cpu": 0.2, "cuda": 1.0}
AROUND = 1
"""Tokens beside a window's own: the prefix."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Protocol:
    """window and stride in characters; prefix: the text of the token before every window, None for none; dtype of the products: weights
    and sums are fp32 in either."""

    window: int
    stride: int
    prefix: str | None
    dtype: Literal["fp32", "bf16"]
    unit: str = "characters"
    specials: str = "plain"

    @property
    def hash(self) -> str:
        """12 hex digits. Figures of unequal protocols are not comparable."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]


def choose_dtype(want: Literal["auto", "fp32", "bf16"], device: torch.device) -> Literal["fp32", "bf16"]:
    if want != "auto":
        return want
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if cpu_has_bf16()[0] else "fp32"


def max_bytes(cfg: EvaluateRecipe, device: torch.device) -> int:
    megabytes = MAX_MB.get(device.type, MAX_MB["cuda"]) if cfg.max_mb == "auto" else cfg.max_mb
    return int(megabytes * 1e6)


def fit_windows(
    cfg: EvaluateRecipe, encoders: Sequence[Encoder], limits: Sequence[int | None], texts: Mapping[str, Documents]
) -> tuple[int, int]:
    """(window, stride) for these models and texts: the recipe's, or smaller ones if a model has too few positions."""
    by_model: list[tuple[list[Starts], int | None]] = []
    for encoder, limit in zip(encoders, limits):
        if limit is not None:
            by_model.append(([e.starts for documents in texts.values() for e in encoder.encode(documents.texts)], limit))
    return fit(cfg.window, cfg.stride, by_model, AROUND)


Trial = Callable[[str | None, Sequence[str]], float]
"""(prefix, openings) to the base's bits per byte."""


def choose_prefix(want: str, encoder: Encoder, first: Documents, trial: Trial) -> tuple[str | None, dict[str, float]]:
    """(token or None, bits per byte of every candidate that was tried). `encoder` is the base's, `first` the first text."""
    if want == "none":
        return None, {}
    if want in ("bos", "eos"):
        token = encoder.named(f"{want}_token")
        if token is None:
            raise UserError(
                f"the base's tokenizer has no {want} token", where="evaluate.prefix", fix="set it to none, or to a token's text"
            )
        return token, {}
    if want != "auto":
        if encoder.id_of(want) is None:
            known = ", ".join(encoder.separators()) or "none"
            raise UserError(
                f"the base's vocabulary has no token `{want}`", where="evaluate.prefix", fix=f"its begin and end tokens: {known}"
            )
        return want, {}
    if encoder.prepended is not None:
        return encoder.prepended, {}
    candidates: list[str | None] = [*encoder.separators(), None]
    if len(candidates) == 1:
        return None, {}
    openings = [text[:TRIED_CHARACTERS] for text in first.texts[:TRIED_DOCUMENTS]]
    tried = [trial(candidate, openings) for candidate in candidates]
    best = min(range(len(candidates)), key=lambda i: tried[i])
    return candidates[best], {candidate or "none": value for candidate, value in zip(candidates, tried)}


def prefix_for(prefix: str | None, encoder: Encoder) -> tuple[str | None, int | None]:
    """(text, id) of the protocol's prefix in another model's vocabulary; where it lacks the token, the one that model itself begins with.

    UserError if it has none either.
    """
    if prefix is None:
        return None, None
    if (found := encoder.id_of(prefix)) is not None:
        return prefix, found
    for token in (encoder.prepended, *encoder.separators()):
        if token is not None and (found := encoder.id_of(token)) is not None:
            return token, found
    raise UserError(f"it has no token `{prefix}` and no begin or end token", where=str(encoder.folder), fix="set evaluate.prefix: none")


def as_json(protocol: Protocol, tried: Mapping[str, float], prefixes: Mapping[str, str | None]) -> dict[str, Any]:
    """The `protocol` of results.json. prefixes: by model, where `null` is none."""
    return {"hash": protocol.hash, **asdict(protocol), "prefix": {**prefixes, "tried": dict(tried)}}

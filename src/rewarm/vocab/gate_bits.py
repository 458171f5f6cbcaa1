"""Invariants 13 and 14 by running both models: old logits are the base's own, and old text costs hardly more before any training.

The second is no matter of course. New rows take part in every softmax: rows that are too long, or all alike and close to what the model
says most, cost old text half a bit a byte, though no old row moved.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rewarm.errors import UserError
from rewarm.vocab.base import Base
from rewarm.vocab.gate import Finding
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.weights import open_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGITS_LIMIT, BITS_LIMIT = 1e-5, 0.05
"""Of old ids in fp32, as a share of the largest logit; bits a byte that protected text may cost more."""
SMALL_MODEL = 500_000_000
"""Parameters up to which `auto` measures."""
WORK = 1e11
"""Parameters times tokens that one model reads: some seconds on two cores."""
MOST_TOKENS, LEAST_TOKENS = 16_384, 64
UNTRAINED = 0.85
"""Share of log2(rows) bits a token from which a base counts as untrained: it spreads its guesses over all rows, so over new ones too."""
_LOGIT_TOKENS = 64
_LINE_CHARACTERS = 800
_NAME = "bits a byte of protected text before training, new minus base"
Ids = NDArray[np.int32]


def check_bits(base: Base, new_folder: Path, lines: list[str], first_new_id: int, cfg: VocabRecipe) -> list[Finding]:
    """Both invariants on `lines` of protected text; none where the recipe or the model's size says so, or where there is no such text."""
    other = _not_causal(base.folder)
    if other and lines and cfg.check_bits:
        return [Finding(14, _NAME, True, f"not judged: {other} is no causal language model")]
    parameters = sum(math.prod(entry.shape) for entry in open_weights(base.folder).entries.values())
    if other or not lines or cfg.check_bits is False or (cfg.check_bits == "auto" and parameters > SMALL_MODEL):
        return []
    some = sample_lines(lines, int(4 * min(MOST_TOKENS, max(LEAST_TOKENS, WORK / parameters))))
    prefix = _prefix(base.folder)
    try:
        before, logits, row = _measured(base.folder, base.tokenizer, some, prefix, None)
    except UserError as error:
        return [Finding(14, _NAME, True, f"not judged: the base does not run as a causal model ({error.what})")]
    try:
        after, now, _ = _measured(new_folder, Tokenizer.from_file(str(new_folder / "tokenizer.json")), some, prefix, row)
    except UserError as error:
        return [Finding(14, _NAME, False, example=error.render())]
    off = float(np.abs(now[:, :first_new_id] - logits[:, :first_new_id]).max() / max(1.0, float(np.abs(logits).max())))
    same = Finding(13, "logits of old ids on old text are the base's", off <= LOGITS_LIMIT, off, LOGITS_LIMIT)
    bits_a_token = before.bits / before.tokens
    if bits_a_token > UNTRAINED * math.log2(logits.shape[1]):
        return [same, Finding(14, _NAME, True, f"not judged: the base is hardly trained ({bits_a_token:.1f} bits a token)")]
    cost = (after.bits - before.bits) / before.bytes
    example = f"{before.bits / before.bytes:.4f} with the base, {after.bits / after.bytes:.4f} with the new rows, on {before.bytes:,} bytes"
    fix = "choose another vocab.init or fewer new tokens, or set vocab.check_bits: false"
    return [same, Finding(14, _NAME, cost <= BITS_LIMIT, round(cost, 5), BITS_LIMIT, example, fix)]


def _not_causal(folder: Path) -> str:
    """The architecture's name, if it is an encoder, or an encoder with a decoder; empty for models that predict from left to right."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = str((config.get("architectures") or [""])[0])
    causal = name.endswith(("CausalLM", "LMHeadModel")) or not name.endswith(("MaskedLM", "PreTraining", "Model"))
    return "" if causal and not config.get("is_encoder_decoder") else name


@dataclass(frozen=True)
class Cost:
    """What a text costs a model."""

    bits: float
    tokens: int
    bytes: int


def sample_lines(lines: list[str], size: int) -> list[str]:
    """Lines spread evenly over the list, about `size` bytes in all, long ones cut."""
    wanted = max(1, size // max(1, min(_LINE_CHARACTERS, sum(map(len, lines)) // len(lines))))
    chosen = [lines[i][:_LINE_CHARACTERS] for i in sorted({int(i) for i in np.linspace(0, len(lines) - 1, min(wanted, len(lines)))})]
    out: list[str] = []
    total = 0
    for line in chosen:
        total += len(line.encode())
        if out and total > size:
            break
        out.append(line)
    return out


def _prefix(folder: Path) -> int | None:
    """The begin token's id, or else the end token's, of both models."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = {**config, **(config.get("text_config") or {})}
    for name in ("bos_token_id", "eos_token_id"):
        value = config.get(name)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int):
            return value
    return None


def _measured(
    folder: Path, tokenizer: Tokenizer, lines: list[str], prefix: int | None, row: Ids | None
) -> tuple[Cost, NDArray[np.float32], Ids]:
    """(cost of the lines, logits [T, rows] of `row`, that row). row: None takes the first line's first tokens."""
    from rewarm.model.score import Scorer, open_model

    begin = [] if prefix is None else [prefix]
    ids = [np.array(begin + e.ids, dtype=np.int32) for e in tokenizer.encode_batch_fast(lines, add_special_tokens=False)]
    if row is None:
        row = ids[0][:_LOGIT_TOKENS]
    with open_model(folder) as model:
        nats = Scorer(model).nll(ids, [min(1, len(i)) for i in ids])
        logits = _logits(model, row)
    bits = float(sum(n.sum() for n in nats)) / math.log(2)
    return Cost(bits, sum(len(n) for n in nats), sum(len(line.encode()) for line in lines)), logits, row


def _logits(model: PreTrainedModel, row: Ids) -> NDArray[np.float32]:
    import torch

    with torch.no_grad():
        out: NDArray[np.float32] = model(input_ids=torch.from_numpy(row.astype(np.int64))[None], use_cache=False).logits[0].float().numpy()
    return out

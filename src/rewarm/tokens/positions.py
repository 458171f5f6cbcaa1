"""How many positions a model has, and whether a row may be longer.

The limit is the model's, never the tokenizer's `model_max_length`: that is often 10^30, the stand-in for "not set", or a number that
nobody kept up to date. Learned positions are rows of a table: beyond it there is nothing to look up. Rotary positions and ALiBi can be
computed for any length; longer rows than in pretraining are then a choice, which we only name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rewarm.errors import UserError

_LEARNED = frozenset({"gpt2", "openai-gpt", "gpt_neo", "gpt_bigcode", "opt", "biogpt", "xglm", "ctrl", "bert", "roberta", "xlm-roberta"})
"""`model_type`s of decoders whose positions are a table of fixed length (xglm's and ctrl's is computed once, at this length)."""


@dataclass(frozen=True, slots=True)
class Positions:
    """limit: positions of the model, None if the config names none. learned: nothing exists beyond the limit."""

    model_type: str
    limit: int | None
    learned: bool


def positions_of(config: dict[str, Any]) -> Positions:
    """The positions that a model's config.json names; of a model with a text part, that part's."""
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else None
    kind = str((text or config).get("model_type") or config.get("model_type") or "unknown")
    for part in (text or {}, config):
        for name in ("max_position_embeddings", "n_positions", "n_ctx"):
            if isinstance(part.get(name), int):
                return Positions(kind, part[name], kind in _LEARNED)
    return Positions(kind, None, kind in _LEARNED)


def check_row_tokens(positions: Positions, row_tokens: int) -> str | None:
    """None if rows of this length fit, a warning where the model was trained on shorter ones. UserError where it has no such position."""
    if positions.limit is None or row_tokens <= positions.limit:
        return None
    if positions.learned:
        raise UserError(
            f"{row_tokens:,} > {positions.limit:,} positions of {positions.model_type}: its positions are learned, there are no more",
            where="tokens.row_tokens",
            fix=f"set tokens.row_tokens: {positions.limit}",
        )
    return (
        f"tokens.row_tokens: rows of {row_tokens:,} are longer than the {positions.limit:,} positions that {positions.model_type} was made "
        "for; it can compute them, but what it does there is not known"
    )

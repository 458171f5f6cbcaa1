"""Is there enough text for one step? Asked before training, never found out by a run of no steps.

A trainer that drops the last, not full step turns a small file into zero steps: a division by zero, an endless wait, or a "finished" model
that is the base. So a text that fills no row or no step is an error that names the settings to change, unless the length was set by hand:
whoever asks for 10,000 tokens of a 268-token text wants it repeated, and is told how often.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rewarm.errors import UserError


def check_enough(
    sources: Iterable[Mapping[str, Any]], batch_rows: int, row_tokens: int, steps: int, *, replay: float = 0.0, length_is_set: bool = False
) -> str | None:
    """None if the new text fills a row and its part of a step; else a sentence that says how often it is read, if the length was set by
    hand.

    sources: `sources` of rows.json (name, role, tokens, rows); replay: share of the tokens that replay gives; length_is_set:
    `train.tokens` or `train.max_minutes` is not left to us. Raises UserError with tokens, row and step size where there is no new text, no
    step, or too little text for one and the length is automatic.
    """
    new = [source for source in sources if source["role"] != "replay"]
    tokens, rows = sum(source["tokens"] for source in new), sum(source["rows"] for source in new)
    step_tokens = batch_rows * row_tokens
    if not rows:
        raise UserError("there is no new text to train on: every source with `role: new` is empty", where="corpus.sources")
    part = max(1, round(batch_rows * (1.0 - replay)))
    short = tokens < row_tokens or rows < part
    size = f"{tokens:,} tokens of new text; a row holds {row_tokens:,}, a step reads {step_tokens:,}"
    if steps < 1 or (short and not length_is_set):
        smaller_row = f"tokens.row_tokens to {_row_for(tokens, row_tokens)} and " if tokens < row_tokens else ""
        raise UserError(
            f"not enough text for one step: {size}",
            where="tokens.row_tokens, train.step_tokens",
            fix=f"lower {smaller_row}train.step_tokens to {max(16, min(tokens, step_tokens))} or less, add text, or set train.tokens to "
            "read the same text several times",
        )
    if not short:
        return None
    return f"{size}; {steps:,} step{'s' if steps > 1 else ''} read it {steps * part / rows:,.1f} times"


def _row_for(tokens: int, row_tokens: int) -> int:
    """The largest power of two that this text fills at least four times, at least 16, at most what is set."""
    return max(16, min(row_tokens, 1 << max(4, (tokens // 4).bit_length() - 1)))

"""Attention that keeps documents apart, for any Hugging Face decoder: registered in transformers' own tables, nothing is patched.

Transformers calls the function that a model's `attn_implementation` names and hands it whatever keyword arguments the decoder was called
with. So the bounds of the pieces travel through an unchanged model, and a family that drops them on the way is caught: without bounds the
function raises, it never falls back to plain causal attention, which would leak one document into the next in silence.

Two forms. `rows`: SDPA with a mask [B, 1, T, T] made once a micro-batch. `flat`: all pieces end to end through a ragged kernel
(`varlen.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from rewarm.errors import UserError
from rewarm.model.batch import DeviceBatch
from rewarm.model.varlen import varlen_attention

NAME = "rewarm"
"""The `attn_implementation` of every model that rewarm trains."""


# Axes: B rows, T positions, H query heads, G key/value heads, C channels of a head.
class RowBounds:
    """Which positions of a row may see each other, as additive masks made once for each window and type that a layer asks for.

    piece: int [B, T], the piece of each position; None = a row is one piece. Padding at the right end needs no piece of its own: nothing
    before it looks ahead.
    """

    def __init__(self, piece: Tensor | None) -> None:
        self.piece = piece
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def allowed(self, length: int, window: int | None, device: torch.device) -> Tensor:
        """bool [B or 1, 1, T, T]: causal, inside one piece, and at most `window` tokens back, the token itself included."""
        position = torch.arange(length, device=device)
        back = position[:, None] - position[None, :]
        seen = back >= 0 if window is None else (back >= 0) & (back < window)
        if self.piece is None:
            return seen[None, None]
        return (seen & (self.piece[:, :, None] == self.piece[:, None, :]))[:, None]

    def mask(self, query: Tensor, window: int | None) -> Tensor:
        """0 where allowed, -inf elsewhere, in the query's type: SDPA would turn a boolean mask into this in every layer."""
        length = query.shape[-2]
        if window is not None and window >= length:
            window = None
        key = (window, query.dtype)
        if key not in self._masks:
            allowed = self.allowed(length, window, query.device)
            self._masks[key] = torch.zeros(allowed.shape, dtype=query.dtype, device=query.device).masked_fill_(~allowed, float("-inf"))
        return self._masks[key]


def bounds_of(batch: DeviceBatch) -> dict[str, Any]:
    """The keyword arguments that take a micro-batch's pieces through the decoder to `attend`."""
    if batch.cu is not None:
        return {"rw_cu": batch.cu, "rw_meta": batch.meta}
    return {"rw_bounds": RowBounds(batch.piece)}


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    rw_bounds: RowBounds | None = None,
    rw_cu: Tensor | None = None,
    rw_meta: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [B, H, T, C], key and value [B, G, T, C] -> [B, T, H, C]: the function behind `attn_implementation="rewarm"`.

    A window of w means w tokens, the token itself included. Raises where bounds are missing or a family asks for what is not done here.
    """
    if rw_bounds is None and rw_cu is None:
        raise UserError(
            "this model does not hand the bounds of the documents on to its attention: documents in one row would see each other",
            where=f"{type(module).__name__}",
            fix="use another model family; for generation call the model inside `stock_attention(model)`",
        )
    for name in ("s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise UserError(
                f"attention with `{name}` is not supported yet", where=f"{type(module).__name__}", fix="use another model family"
            )
    if not (getattr(module, "is_causal", True) and kwargs.get("is_causal") is not False):
        raise UserError("this attention looks ahead: only causal decoders can be trained", where=f"{type(module).__name__}")
    assert dropout == 0.0, "dropout is set to 0 when a model is loaded"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if rw_cu is not None:
        assert rw_meta is not None
        if softcap is not None:
            raise UserError(
                "capped attention logits need the `rows` form", where=f"{type(module).__name__}", fix="set train.precision: fp32"
            )
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        return varlen_attention(q, k, v, rw_cu, rw_meta, scale, sliding_window)[None], None
    assert rw_bounds is not None
    mask = rw_bounds.mask(query, sliding_window)
    heads_a_key = query.shape[1] // key.shape[1]
    if softcap is not None:
        out = _capped(query, key, value, mask, scale, softcap, heads_a_key)
    else:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=heads_a_key > 1)
    return out.transpose(1, 2), None


def _capped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, softcap: float, heads_a_key: int) -> Tensor:
    """Attention with softcap * tanh(logits / softcap) before the mask (gemma2): no SDPA kernel has it, so it is written out."""
    key, value = (tensor.repeat_interleave(heads_a_key, dim=1) for tensor in (key, value))
    logits = query @ key.transpose(-1, -2) * scale
    logits = softcap * torch.tanh(logits / softcap) + mask
    return logits.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)


@contextmanager
def stock_attention(model: PreTrainedModel, name: str = "sdpa") -> Iterator[None]:
    """Inside, the model runs with transformers' own attention and masks, for generation and as the oracle of the gates."""
    before = model.config._attn_implementation
    name = "eager" if _caps(model) else name
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _caps(model: PreTrainedModel) -> bool:
    return getattr(model.config, "attn_logit_softcapping", None) is not None

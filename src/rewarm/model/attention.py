"""Attention that keeps documents apart, for any Hugging Face decoder: registered in transformers' own tables, nothing is patched.

Transformers calls the function that a model's `attn_implementation` names and hands it whatever keyword arguments the decoder was called
with. So the bounds of the pieces travel through an unchanged model, and a family that drops them on the way is caught: without bounds the
function raises, it never falls back to plain causal attention, which would leak one document into the next in silence.

Two forms of the bounds. `rw_lengths`, Python numbers: attention runs piece by piece (a CPU). `rw_cu` and `rw_meta`, tensors of a fixed
size: one operator for all pieces (a GPU, and whatever is compiled).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from rewarm.errors import UserError
from rewarm.model.batch import DeviceBatch
from rewarm.model.varlen import seen, varlen_attention

NAME = "rewarm"
"""The `attn_implementation` of every model that rewarm trains."""
SHORT, STEP = 512, 64
"""A CPU computes attention of 16-bit pieces below SHORT tokens in fp32, and fills longer ones up to a multiple of STEP.

Else every length would be new shapes of 16-bit products, for each of which oneDNN keeps 0.6 MB of code, scattered between large buffers
(docs/log.md). fp32 has none, and is faster where pieces are short: forward and backward of 512 tokens of SmolLM2-135M took 10 ms
of a core by the demo's pieces, 13 in bf16; one piece of 512 the same, 24 and 21; 2,048 tokens 228 and 171.
"""


def bounds_of(batch: DeviceBatch) -> dict[str, Any]:
    """The keyword arguments that take a micro-batch's pieces through the decoder to `attend`."""
    return {"rw_lengths": batch.lengths} if batch.cu is None else {"rw_cu": batch.cu, "rw_meta": batch.meta}


# Axes: B rows, T positions, N = B*T tokens, n of one piece, H query heads, G key/value heads, C channels of a head.
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
    rw_lengths: Sequence[int] | None = None,
    rw_cu: Tensor | None = None,
    rw_meta: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [B, H, T, C], key and value [B, G, T, C] -> [B, T, H, C]: the function behind `attn_implementation="rewarm"`.

    rw_lengths: of the pieces in order, row after row, summing to N. A window of w means w tokens, the token itself included; softcap bends
    the scaled logits. UserError where bounds are missing or a family asks for what is not done here.
    """
    if rw_lengths is None and rw_cu is None:
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
    shape = query.transpose(1, 2).shape
    # under autocast the rotary turns query and key back to fp32
    q, k, v = (tensor.to(value.dtype).transpose(1, 2).flatten(0, 1) for tensor in (query, key, value))
    if rw_lengths is not None:
        out = _by_piece(q, k, v, rw_lengths, scale, sliding_window, softcap)
    else:
        assert rw_cu is not None and rw_meta is not None
        out = varlen_attention(q, k, v, rw_cu, rw_meta, scale, sliding_window, softcap)
    return out.view(shape), None


def _by_piece(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], scale: float, window: int | None, softcap: float | None) -> Tensor:
    """q [N, H, C], k and v [N, G, C] -> [N, H, C], one SDPA a piece.

    Beside one SDPA over whole rows under a mask it leaves out what the mask would hide: forward and backward of 4 rows of 256 took 26 ms
    of a core under a mask, 17 by two pieces a row, 7 by eight, 11 by thirty-two; the longer the rows, the more. `varlen_reference` is its
    definition.

    In 16 bits the shapes of products must be few, as oneDNN compiles and keeps a program for each (`SHORT` and `STEP` say how). The zeros
    behind a long piece change nothing: no token looks ahead.
    """
    with torch.autocast(q.device.type, enabled=False):  # it would cast short pieces back
        return torch.cat(
            [_one_piece(*piece, scale, window, softcap) for piece in zip(q.split(lengths), k.split(lengths), v.split(lengths))]
        )


def _one_piece(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, softcap: float | None) -> Tensor:
    """q [n, H, C], k and v [n, G, C] -> [n, H, C]."""
    length, dtype = len(q), q.dtype
    few_bits = dtype.itemsize == 2 and q.device.type == "cpu"
    if few_bits and length < SHORT:
        q, k, v = q.float(), k.float(), v.float()
    elif few_bits and length % STEP:
        q, k, v = (F.pad(tensor, (0, 0, 0, 0, 0, -length % STEP)) for tensor in (q, k, v))
    a, b, c = (tensor.transpose(0, 1)[None] for tensor in (q, k, v))
    n = a.shape[2]
    if softcap is not None:
        made = _capped(a, b, c, scale, window, softcap)
    elif window is None or window >= n:
        made = F.scaled_dot_product_attention(a, b, c, is_causal=True, scale=scale, enable_gqa=a.shape[1] > b.shape[1])
    else:
        mask = seen(n, window, a.device)
        made = F.scaled_dot_product_attention(a, b, c, attn_mask=mask, scale=scale, enable_gqa=a.shape[1] > b.shape[1])
    return made[0].transpose(0, 1)[:length].to(dtype)


def _capped(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, softcap: float) -> Tensor:
    """softcap * tanh(logits / softcap) before the mask (gemma2), written out: no SDPA kernel has it. [1, H, n, C]."""
    k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    logits = softcap * torch.tanh(q @ k.transpose(-1, -2) * scale / softcap)
    logits = logits.masked_fill(~seen(q.shape[2], window, q.device), float("-inf"))
    return logits.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(v.dtype) @ v


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

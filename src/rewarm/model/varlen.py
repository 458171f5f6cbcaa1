"""Ragged attention as one opaque operator: pieces end to end, each one attends to itself only.

An operator, so that a compiled layer neither looks inside nor recompiles when the bounds change: `cu` has a fixed length, and the number
of pieces and the longest one come in a tensor on the CPU, which costs no wait for the device and no guard. Its backward is written out,
because autograd inside an operator's body records nothing. On CUDA it is the FlashAttention 2 that torch ships, called by the arguments
that torch 2.11 and 2.13 share; on a CPU it is the definition, which the tests compare everything with.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


# Axes: N tokens of all pieces, H query heads, G key/value heads (H a multiple of G), C channels of a head.
def varlen_reference(
    q: Tensor, k: Tensor, v: Tensor, cu: Tensor, meta: Tensor, scale: float, window: int | None = None, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """(out [N, H, C], logsumexp of the logits [H, N]), piece by piece with whole matrices: the definition, differentiable."""
    outs, sums = [], []
    for first, last in _pieces(cu, meta):
        logits, _ = _logits(q[first:last], k[first:last], scale, window, softcap)
        outs.append((logits.softmax(-1) @ _heads(v[first:last], q.shape[1])).transpose(0, 1))
        sums.append(logits.logsumexp(-1))
    return torch.cat(outs), torch.cat(sums, dim=1)


def varlen_attention(
    q: Tensor, k: Tensor, v: Tensor, cu: Tensor, meta: Tensor, scale: float, window: int | None = None, softcap: float | None = None
) -> Tensor:
    """Causal attention [N, H, C] inside each piece, at most `window` tokens back, the token itself included.

    cu int32 [pieces + 1 or longer, the tail N]; meta int64 [2] on the CPU: (pieces, longest). FlashAttention on CUDA in 16 bits with C a
    multiple of 8, at most 256, and no softcap; else the definition with its backward, slow.
    """
    return _attention(q, k, v, cu, meta, scale, window or 0, softcap or 0.0)[0]


@torch.library.custom_op("rewarm::attention", mutates_args=())
def _attention(
    q: Tensor, k: Tensor, v: Tensor, cu: Tensor, meta: Tensor, scale: float, window: int, softcap: float
) -> tuple[Tensor, Tensor]:
    """window 0: none; softcap 0: none. Both outputs contiguous, as the fake says: compiled backward trusts it."""
    if _has_kernel(q, softcap):
        count, longest = meta.tolist()
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            q, k, v, cu[: count + 1], cu[: count + 1], longest, longest, 0.0, True, False,
            scale=scale, window_size_left=window - 1, window_size_right=0,
        )  # fmt: skip
    else:
        out, lse = varlen_reference(q, k, v, cu, meta, scale, window or None, softcap or None)
    return out.contiguous(), lse.to(_sums(q)).contiguous()


@_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, cu: Tensor, meta: Tensor, scale: float, window: int, softcap: float) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty((q.shape[1], q.shape[0]), dtype=_sums(q))


@torch.library.custom_op("rewarm::attention_backward", mutates_args=())
def _attention_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    cu: Tensor,
    meta: Tensor,
    scale: float,
    window: int,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """From the saved logsumexp: p = exp(logits - lse), d_logits = p (d_out v - sum(d_out * out)), as in the FlashAttention paper."""
    if _has_kernel(q, softcap):
        count, longest = meta.tolist()
        seed = torch.zeros(2, dtype=torch.uint64, device=q.device)  # of the dropout, which is 0
        d_q, d_k, d_v = torch.ops.aten._flash_attention_backward(
            d_out.contiguous(), q, k, v, out, lse, cu[: count + 1], cu[: count + 1], longest, longest, 0.0, True, seed, seed[:0],
            scale=scale, window_size_left=window - 1, window_size_right=0,
        )  # fmt: skip
        return d_q.contiguous(), d_k.contiguous(), d_v.contiguous()
    heads = q.shape[1] // k.shape[1]
    d_q, d_k, d_v = (tensor.new_zeros(tensor.shape) for tensor in (q, k, v))
    for first, last in _pieces(cu, meta):
        cut = slice(first, last)
        logits, slope = _logits(q[cut], k[cut], scale, window or None, softcap or None)
        piece_q, piece_d, piece_out = (tensor[cut].transpose(0, 1) for tensor in (q, d_out, out))
        p = (logits - lse[:, cut, None].to(logits.dtype)).exp()
        d_logits = p * (piece_d @ _heads(v[cut], q.shape[1]).transpose(1, 2) - (piece_d * piece_out).sum(-1, keepdim=True)) * scale
        if slope is not None:
            d_logits = d_logits * slope
        d_q[cut] = (d_logits @ _heads(k[cut], q.shape[1])).transpose(0, 1)
        d_k[cut] = (d_logits.transpose(1, 2) @ piece_q).unflatten(0, (-1, heads)).sum(1).transpose(0, 1)
        d_v[cut] = (p.transpose(1, 2) @ piece_d).unflatten(0, (-1, heads)).sum(1).transpose(0, 1)
    return d_q, d_k, d_v


@_attention_backward.register_fake
def _(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    cu: Tensor,
    meta: Tensor,
    scale: float,
    window: int,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, cu, meta, ctx.scale, ctx.window, ctx.softcap = inputs
    ctx.save_for_backward(q, k, v, *output, cu, meta)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, d_out: Tensor, _d_lse: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, cu, meta = ctx.saved_tensors
    return *_attention_backward(d_out, q, k, v, out, lse, cu, meta, ctx.scale, ctx.window, ctx.softcap), *([None] * 5)


_attention.register_autograd(_backward, setup_context=_keep)


def _has_kernel(q: Tensor, softcap: float) -> bool:
    channels = q.shape[-1]
    return q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and channels % 8 == 0 and channels <= 256 and not softcap


def _sums(q: Tensor) -> torch.dtype:
    return torch.promote_types(q.dtype, torch.float32)


def _pieces(cu: Tensor, meta: Tensor) -> list[tuple[int, int]]:
    bounds = cu[: int(meta[0]) + 1].tolist()
    return list(pairwise(bounds))


def _heads(x: Tensor, heads: int) -> Tensor:
    """[n, G, C] -> [H, n, C]"""
    return x.transpose(0, 1).repeat_interleave(heads // x.shape[1], dim=0)


def _logits(q: Tensor, k: Tensor, scale: float, window: int | None, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Of one piece, [H, n, n], -inf where nothing may be seen; and the slope of the cap, if there is one."""
    logits = q.transpose(0, 1) @ _heads(k, q.shape[1]).transpose(1, 2) * scale
    slope = None
    if softcap is not None:
        bent = torch.tanh(logits / softcap)
        logits, slope = softcap * bent, 1 - bent * bent
    return logits.masked_fill(~seen(len(q), window, q.device), float("-inf")), slope


def seen(length: int, window: int | None, device: torch.device) -> Tensor:
    """bool [length, length]: a position sees itself and what is before it, `window` tokens in all."""
    position = torch.arange(length, device=device)
    back = position[:, None] - position[None, :]
    return back >= 0 if window is None else (back >= 0) & (back < window)

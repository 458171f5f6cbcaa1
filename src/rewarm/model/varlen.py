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
def varlen_reference(q: Tensor, k: Tensor, v: Tensor, cu: Tensor, meta: Tensor, scale: float, window: int | None) -> tuple[Tensor, Tensor]:
    """(out [N, H, C], logsumexp of the scaled logits [H, N]), piece by piece with whole matrices: the definition, differentiable."""
    heads = q.shape[1] // k.shape[1]
    outs, sums = [], []
    for first, last in _pieces(cu, meta):
        piece_q = q[first:last].transpose(0, 1)
        piece_k, piece_v = (tensor[first:last].transpose(0, 1).repeat_interleave(heads, dim=0) for tensor in (k, v))
        logits = piece_q @ piece_k.transpose(1, 2) * scale
        logits = logits.masked_fill(~_seen(last - first, window, q.device), float("-inf"))
        outs.append((logits.softmax(-1) @ piece_v).transpose(0, 1))
        sums.append(logits.logsumexp(-1))
    return torch.cat(outs), torch.cat(sums, dim=1)


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, cu: Tensor, meta: Tensor, scale: float, window: int | None) -> Tensor:
    """Causal attention [N, H, C] inside each piece, at most `window` tokens back, the token itself included.

    cu int32 [pieces + 1 or longer, the tail N]; meta int64 [2] on the CPU: (pieces, longest). On CUDA 16-bit types, C a multiple of 8, at
    most 256.
    """
    return _attention(q, k, v, cu, meta, scale, -1 if window is None else window)[0]


@torch.library.custom_op("rewarm::attention", mutates_args=())
def _attention(q: Tensor, k: Tensor, v: Tensor, cu: Tensor, meta: Tensor, scale: float, window: int) -> tuple[Tensor, Tensor]:
    out, lse = varlen_reference(q, k, v, cu, meta, scale, None if window < 0 else window)
    return out.contiguous(), lse.float().contiguous()


@_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, cu: Tensor, meta: Tensor, scale: float, window: int) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty((q.shape[1], q.shape[0]), dtype=torch.float32)


@_attention.register_kernel("cuda")
def _(q: Tensor, k: Tensor, v: Tensor, cu: Tensor, meta: Tensor, scale: float, window: int) -> tuple[Tensor, Tensor]:
    pieces, longest = meta.tolist()
    cu = cu[: pieces + 1]
    left = -1 if window < 0 else window - 1
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, cu, cu, longest, longest, 0.0, True, False, scale=scale, window_size_left=left, window_size_right=0
    )
    return out.contiguous(), lse.contiguous()


@torch.library.custom_op("rewarm::attention_backward", mutates_args=())
def _attention_backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cu: Tensor, meta: Tensor, scale: float, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """From the saved logsumexp: p = exp(logits - lse), d_logits = p (d_out v - sum(d_out * out)), as in the FlashAttention paper."""
    heads = q.shape[1] // k.shape[1]
    d_q, d_k, d_v = (tensor.new_zeros(tensor.shape) for tensor in (q, k, v))
    for first, last in _pieces(cu, meta):
        cut = slice(first, last)
        piece_q, piece_d, piece_out = (tensor[cut].transpose(0, 1) for tensor in (q, d_out, out))
        piece_k, piece_v = (tensor[cut].transpose(0, 1).repeat_interleave(heads, dim=0) for tensor in (k, v))
        p = (piece_q @ piece_k.transpose(1, 2) * scale - lse[:, cut, None].to(q.dtype)).exp()
        p = p.masked_fill(~_seen(last - first, None if window < 0 else window, q.device), 0)
        d_logits = p * (piece_d @ piece_v.transpose(1, 2) - (piece_d * piece_out).sum(-1, keepdim=True)) * scale
        d_q[cut] = (d_logits @ piece_k).transpose(0, 1)
        d_k[cut] = (d_logits.transpose(1, 2) @ piece_q).unflatten(0, (-1, heads)).sum(1).transpose(0, 1)
        d_v[cut] = (p.transpose(1, 2) @ piece_d).unflatten(0, (-1, heads)).sum(1).transpose(0, 1)
    return d_q, d_k, d_v


@_attention_backward.register_fake
def _(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cu: Tensor, meta: Tensor, scale: float, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


@_attention_backward.register_kernel("cuda")
def _(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cu: Tensor, meta: Tensor, scale: float, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    pieces, longest = meta.tolist()
    cu = cu[: pieces + 1]
    left = -1 if window < 0 else window - 1
    no_dropout = torch.zeros(2, dtype=torch.uint64, device=q.device)
    grads = torch.ops.aten._flash_attention_backward(
        d_out.contiguous(), q, k, v, out, lse, cu, cu, longest, longest, 0.0, True, no_dropout, no_dropout[:0],
        scale=scale, window_size_left=left, window_size_right=0,
    )  # fmt: skip
    d_q, d_k, d_v = (grad.contiguous() for grad in grads)
    return d_q, d_k, d_v


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, cu, meta, ctx.scale, ctx.window = inputs
    ctx.save_for_backward(q, k, v, *output, cu, meta)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, d_out: Tensor, _d_lse: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, cu, meta = ctx.saved_tensors
    return *_attention_backward(d_out, q, k, v, out, lse, cu, meta, ctx.scale, ctx.window), None, None, None, None


_attention.register_autograd(_backward, setup_context=_keep)


def _pieces(cu: Tensor, meta: Tensor) -> list[tuple[int, int]]:
    bounds = cu[: int(meta[0]) + 1].tolist()
    return list(pairwise(bounds))


def _seen(length: int, window: int | None, device: torch.device) -> Tensor:
    position = torch.arange(length, device=device)
    back = position[:, None] - position[None, :]
    return back >= 0 if window is None else (back >= 0) & (back < window)

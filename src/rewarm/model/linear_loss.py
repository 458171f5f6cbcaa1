"""The head's matrix product and the cross-entropy as one step, a chunk of tokens at a time: the [N, V] logits are never there as a whole.

At V = 50,000 the logits of 1,024 tokens take 200 MB, and the usual way keeps them three times over. Here a chunk's logits become its
probabilities and then its gradient in one buffer, inside the forward pass, so that the backward pass only multiplies by a number. Sums
over tokens are fp32, also where the products run in 16 bits. Labels that count nothing cost nothing only if the caller leaves their rows
out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rewarm.model.batch import IGNORE
from rewarm.model.hooks import SoftTargets, Targets, TeacherHead


# Axes: N tokens, D width, V vocabulary rows, k the teacher's kept ids.
def linear_cross_entropy_reference(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    *,
    bias: Tensor | None = None,
    weight: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    valid_rows: int | None = None,
    targets: Targets | None = None,
) -> tuple[Tensor, Tensor]:
    """What `linear_cross_entropy` computes, written as its definition: whole logits, autograd. Small N only."""
    logits_NV = scale * F.linear(hidden_ND, weight_VD, bias)
    if softcap is not None:
        logits_NV = softcap * torch.tanh(logits_NV / softcap)
    if valid_rows is not None:
        logits_NV = logits_NV[:, :valid_rows]
    nll_N = F.cross_entropy(logits_NV, labels_N, ignore_index=IGNORE, reduction="none")
    loss_N = nll_N
    if targets is not None:
        at = torch.arange(len(labels_N)) if targets.at is None else targets.at
        share_N = torch.zeros_like(nll_N).index_copy(0, at, _share(targets) * (labels_N[at] != IGNORE))
        divergence_N = torch.zeros_like(nll_N).index_copy(0, at, _divergence_reference(logits_NV[at].log_softmax(1), targets))
        loss_N = (1 - share_N) * nll_N + share_N * divergence_N
    return (loss_N if weight is None else loss_N * weight).sum(), nll_N.detach()


def _divergence_reference(log_p_NV: Tensor, targets: Targets) -> Tensor:
    """Forward KL of the teacher's distribution from the student's, nats a token. Ids the teacher does not have count as probability 0."""
    if isinstance(targets, TeacherHead):
        teacher = targets.scale * F.linear(targets.hidden, targets.weight, targets.bias)
        if targets.softcap is not None:
            teacher = targets.softcap * torch.tanh(teacher / targets.softcap)
        log_q = teacher.to(log_p_NV.dtype).log_softmax(1)
        return (log_q.exp() * (log_q - log_p_NV[:, : log_q.shape[1]])).sum(1)
    log_p_Nk = log_p_NV.gather(1, targets.ids.long())
    kept = (torch.xlogy(targets.probs, targets.probs) - targets.probs * log_p_Nk).sum(1)
    rest_p = (1 - log_p_Nk.exp().sum(1)).clamp_min(torch.finfo(log_p_NV.dtype).tiny)
    return kept + torch.xlogy(targets.rest, targets.rest) - targets.rest * rest_p.log()


def linear_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    *,
    bias: Tensor | None = None,
    weight: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    valid_rows: int | None = None,
    targets: Targets | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(sum over labels of weight * loss, NLL of every label): nats; loss = NLL, or (1 - share) NLL + share KL(teacher || student).

    labels_N int64, already shifted; IGNORE counts nothing, its NLL is 0. weight [N] fp32 or None for 1. logits = scale * (hidden @
    weight.T + bias), then softcap * tanh(logits / softcap). Rows from `valid_rows` on are padding: probability 0, gradient 0. The NLL
    carries no gradient and no weight. chunk: tokens at once, None chooses; it changes memory and the order of summation, nothing else.
    Under autocast the three products run in its type. Inputs that need no gradient (and all, under no_grad) get none computed.
    """
    order = None if targets is None or targets.at is None else _taught_first(targets.at, len(labels_N), labels_N.device)
    if order is not None:
        hidden_ND, labels_N = hidden_ND.index_select(0, order), labels_N[order]
        weight = None if weight is None else weight[order]
    grad = torch.is_grad_enabled()
    needs = tuple(grad and tensor is not None and tensor.requires_grad for tensor in (hidden_ND, weight_VD, bias))
    loss, nll = _LinearCrossEntropy.apply(hidden_ND, weight_VD, bias, labels_N, weight, scale, softcap, valid_rows, targets, chunk, needs)
    return loss, nll if order is None else torch.empty_like(nll).index_copy_(0, order, nll)


def _taught_first(at: Tensor, tokens: int, device: torch.device) -> Tensor:
    """The tokens that the teacher reads and then all others: made on the CPU, where nothing has to wait for it."""
    others = torch.ones(tokens, dtype=torch.bool)
    others[at] = False
    return torch.cat([at, others.nonzero()[:, 0]]).to(device, non_blocking=True)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        weight: Tensor | None,
        scale: float,
        softcap: float | None,
        valid_rows: int | None,
        targets: Targets | None,
        chunk: int | None,
        needs: tuple[bool, bool, bool],
    ) -> tuple[Tensor, Tensor]:
        kind = hidden.device.type
        compute = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        sums = torch.promote_types(hidden.dtype, torch.float32)
        rows = head.shape[0] if valid_rows is None else valid_rows
        with torch.autocast(kind, enabled=False):
            x, w = hidden.to(compute), head[:rows].to(compute)
            b = None if bias is None else bias[:rows].to(sums)
            d_hidden = torch.empty_like(hidden) if needs[0] else None
            d_head = torch.zeros(head.shape, dtype=sums, device=head.device) if needs[1] else None
            d_bias = torch.zeros(bias.shape, dtype=sums, device=bias.device) if needs[2] and bias is not None else None
            nll = torch.zeros(len(labels), dtype=sums, device=labels.device)
            total = torch.zeros((), dtype=sums, device=labels.device)
            taught = 0 if targets is None else len(_share(targets))
            for cut in (*_chunks(0, taught, rows, hidden.device, chunk), *_chunks(taught, len(labels), rows, hidden.device, chunk)):
                reads = targets if cut.stop <= taught else None
                logits = torch.mm(x[cut], w.t()).to(sums)
                if b is not None:
                    logits += b
                slope = _bend_(logits, scale, softcap, any(needs))
                counts = labels[cut] != IGNORE
                factor = counts.to(sums) if weight is None else counts * weight[cut].to(sums)
                target = torch.where(counts, labels[cut], 0)[:, None]
                picked = logits.gather(1, target)[:, 0]
                teacher = None if reads is None else _teacher(reads, cut, logits)
                share = None if reads is None else _share(reads)[cut].to(sums) * counts
                lse = _softmax_(logits)
                nll[cut] = torch.where(counts, lse - picked, 0)
                loss = nll[cut]
                if teacher is not None and share is not None:
                    loss = (1 - share) * loss + share * teacher.divergence(lse, logits)
                total += (loss * factor).sum()
                if not any(needs):
                    continue
                gradient = logits
                hard = torch.ones_like(factor)
                if teacher is not None and share is not None:
                    hard -= share
                    teacher.gradient_(gradient, share)
                gradient.scatter_add_(1, target, -hard[:, None])
                gradient *= (factor * scale)[:, None]
                if slope is not None:
                    gradient *= slope
                if d_bias is not None:
                    d_bias[:rows] += gradient.sum(0)
                g = gradient.to(compute)
                if d_hidden is not None:
                    d_hidden[cut] = torch.mm(g, w)
                if d_head is not None:
                    _add_product_(d_head[:rows], g, x[cut])
        ctx.gradients = (
            d_hidden,
            None if d_head is None else d_head.to(head.dtype),
            None if d_bias is None or bias is None else d_bias.to(bias.dtype),
        )
        ctx.mark_non_differentiable(nll)
        return total, nll

    @staticmethod
    def backward(ctx: Any, d_total: Tensor, _d_nll: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients were made in the forward pass; they are scaled in place, so one backward only."""
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, "linear_cross_entropy keeps its gradients for one backward pass"
        for gradient in gradients:
            if gradient is not None:
                gradient *= d_total
        return *gradients, *([None] * 8)


def _chunks(first: int, last: int, rows: int, device: torch.device, chunk: int | None) -> Iterator[slice]:
    """Slices of the tokens. On a GPU 2^29 logits at once, on a CPU 2^24 (64 MB): there the size hardly matters."""
    if chunk is None:
        chunk = min(max(2**29 // rows, 1024), 16384) // 256 * 256 if device.type == "cuda" else min(max(2**24 // rows, 64), 4096)
    for begin in range(first, last, chunk):
        yield slice(begin, min(begin + chunk, last))


def _bend_(logits: Tensor, scale: float, softcap: float | None, slope: bool) -> Tensor | None:
    """scale and softcap, in place; returns d(capped)/d(scaled) if a slope is asked for and there is a cap."""
    if scale != 1.0:
        logits *= scale
    if softcap is None:
        return None
    logits /= softcap
    logits.tanh_()
    bent = torch.addcmul(torch.ones((), dtype=logits.dtype, device=logits.device), logits, logits, value=-1) if slope else None
    logits *= softcap
    return bent


def _softmax_(logits: Tensor) -> Tensor:
    """Turns logits into probabilities in place; returns logsumexp [N]. On a CPU half the time of logsumexp, subtract, exp."""
    top = logits.amax(1, keepdim=True)
    logits.sub_(top).exp_()
    total = logits.sum(1, keepdim=True)
    logits /= total
    return (top + total.log())[:, 0]


def _add_product_(out: Tensor, g: Tensor, x: Tensor) -> None:
    """out += g.T @ x, summed in `out`'s type. CUDA's addmm multiplies in 16 bits and adds in fp32; elsewhere a 16-bit product is cast."""
    if g.dtype == out.dtype:
        out.addmm_(g.t(), x)
    elif g.device.type == "cuda":
        torch.addmm(out, g.t(), x, out_dtype=out.dtype, out=out)
    else:
        out += torch.mm(g.t(), x)


class _FullTeacher:
    """All of a teacher's vocabulary over one chunk: KL = sum q (log q - logits) + lse, its gradient p - q."""

    def __init__(self, targets: TeacherHead, cut: slice, logits: Tensor) -> None:
        self.q = torch.mm(targets.hidden[cut], targets.weight.t()).to(logits.dtype)
        if targets.bias is not None:
            self.q += targets.bias
        _bend_(self.q, targets.scale, targets.softcap, slope=False)
        raw = self.q.clone()
        entropy = _softmax_(self.q) - (self.q * raw).sum(1)
        self._without_lse = -entropy - (self.q * logits[:, : self.q.shape[1]]).sum(1)

    def divergence(self, lse: Tensor, p: Tensor) -> Tensor:
        return self._without_lse + lse

    def gradient_(self, p: Tensor, share: Tensor) -> None:
        """(1 - share) p + share (p - q), in place of p; the hard label comes on top."""
        p[:, : self.q.shape[1]].addcmul_(self.q, share[:, None], value=-1)


class _KeptTeacher:
    """k kept probabilities and one bucket for the rest: the student's rest is 1 minus its probability of the kept ids."""

    def __init__(self, targets: SoftTargets, cut: slice, logits: Tensor) -> None:
        self.ids = targets.ids[cut].long()
        self.probs, self.rest = targets.probs[cut].to(logits.dtype), targets.rest[cut].to(logits.dtype)
        entropy = -torch.xlogy(self.probs, self.probs).sum(1) - torch.xlogy(self.rest, self.rest)
        self._without_lse = -entropy - (self.probs * logits.gather(1, self.ids)).sum(1)

    def _student_rest(self, p: Tensor) -> Tensor:
        return (1 - p.gather(1, self.ids).sum(1)).clamp_min(torch.finfo(p.dtype).tiny)

    def divergence(self, lse: Tensor, p: Tensor) -> Tensor:
        return self._without_lse + lse * self.probs.sum(1) - self.rest * self._student_rest(p).log()

    def gradient_(self, p: Tensor, share: Tensor) -> None:
        """Of the KL: p - q at the kept ids, p - (rest of q / rest of p) p elsewhere; with (1 - share) p, in place of p."""
        kept = p.gather(1, self.ids)
        p *= (1 - share * (self.rest / self._student_rest(p)))[:, None]
        p.scatter_(1, self.ids, kept - share[:, None] * self.probs)


def _teacher(targets: Targets, cut: slice, logits: Tensor) -> _FullTeacher | _KeptTeacher:
    return _FullTeacher(targets, cut, logits) if isinstance(targets, TeacherHead) else _KeptTeacher(targets, cut, logits)


def _share(targets: Targets) -> Tensor:
    return targets.share if isinstance(targets, TeacherHead) else targets.weight

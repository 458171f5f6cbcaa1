"""Three questions put to every model at every start, on its real weights, in seconds, before anything is trained.

Does a document see another one in its row? Is our loss the model's own? Does the attention kernel add up? A family that transformers
changed, a head with a scale we do not know, a broken kernel: each would train on and end in a worse model without an error. A failed gate
stops the run with its numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewarm.errors import MachineError, UserError
from rewarm.model.attention import attend, stock_attention
from rewarm.model.batch import Form, one_row
from rewarm.model.loss import CausalLMLoss
from rewarm.model.varlen import varlen_attention, varlen_reference

CHECKED = (1, 17, 494, 530)
"""Tokens of the pieces that attention is proved on: a CPU computes short and long ones in two ways."""


def run_gates(loss: CausalLMLoss, form: Form) -> dict[str, float]:
    """All three, in the precision of the autocast context they are called in; what they measured."""
    return {"isolation": isolation_check(loss, form), "parity": parity_check(loss, form), "attention": attention_check(loss, form)}


def isolation_check(loss: CausalLMLoss, form: Form = "rows", seed: int = 0) -> float:
    """How far one document's hidden states move when another document in its row is changed, in standard deviations.

    Exactly 0 for dense models. A mixture of experts sums in an order that depends on all tokens: up to 0.05.
    """
    first, other, second = (_documents(loss, (length,), seed + i)[0] for i, length in enumerate((13, 13, 24)))
    device = loss.family.head.weight.device
    with torch.no_grad():
        before, after = (loss.hidden(one_row([document, second], device, form))[0, 13:].float() for document in (first, other))
    moved = float((after - before).abs().max() / before.std())
    allowed = 0.05 if loss.family.experts else 0.0
    if not moved <= allowed:
        raise UserError(
            f"its documents see each other in one row: a change moves the next one by {moved:.2e} standard deviations, allowed {allowed}",
            where=f"model family `{loss.family.kind}`",
            fix="nothing was trained; use a family whose layers mix tokens by attention alone, such as llama or qwen3",
        )
    return moved


def parity_check(loss: CausalLMLoss, form: Form = "rows", seed: int = 0) -> float:
    """The relative difference between our loss and the model's own logits under `F.cross_entropy`, on two documents of 64 tokens.

    The documents share a row here and run apart there, with the attention of transformers; so a wrong mask, shift, scale, cap, bias or an
    ignored adapter shows. Allowed: 1e-4 in fp32, 5e-3 in 16 bits.
    """
    device = loss.family.head.weight.device
    vocab = loss.valid_rows or loss.family.rows
    documents = _documents(loss, (64, 64), seed)
    theirs = 0.0
    with torch.no_grad():
        ours = float(loss(one_row(documents, device, form)).loss_sum)
        with stock_attention(loss.hf):
            for document in documents:
                ids = torch.tensor([document], device=device)
                logits = loss.hf(input_ids=ids, use_cache=False).logits[0, :-1, :vocab].float()
                theirs += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
    difference = abs(ours - theirs) / abs(theirs)
    allowed = 1e-4 if _compute_dtype(loss) == torch.float32 else 5e-3
    _stop_unless(
        difference <= allowed,
        loss,
        f"the model's loss is not reproduced: ours {ours:.6f}, its own {theirs:.6f} nats, {difference:.2e} apart, allowed {allowed:.0e}",
    )
    return difference


def attention_check(loss: CausalLMLoss, form: Form = "rows", seed: int = 0) -> float:
    """The largest error of the attention in use, output and gradients, over what is allowed; above 1 it fails.

    Pieces of `CHECKED` tokens with this model's heads. Allowed: twice the error of plain dense attention in the same type, both against
    dense attention in the next wider type.
    """
    config = loss.hf.config
    heads = config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or heads
    channels = getattr(config, "head_dim", None) or config.hidden_size // heads
    device, dtype = loss.family.head.weight.device, _compute_dtype(loss)
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(sum(CHECKED), count, channels, generator=generator).to(device, dtype) for count in (heads, keys, keys, heads)]
    batch = one_row([[0] * length for length in CHECKED], device, "flat")
    assert batch.cu is not None and batch.meta is not None
    cu, meta, scale = batch.cu, batch.meta, channels**-0.5

    def rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (tensor.transpose(0, 1)[None] for tensor in (q, k, v))
        return attend(nn.Module(), q, k, v, None, scaling=scale, rw_lengths=CHECKED)[0][0]

    def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return varlen_reference(q, k, v, cu, meta, scale)[0]

    def flat(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return varlen_attention(q, k, v, cu, meta, scale)

    exact = _with_gradients(dense, [tensor.to(torch.float64 if dtype == torch.float32 else torch.float32) for tensor in tensors])
    plain = _with_gradients(dense, tensors)
    found = _with_gradients(flat if form == "flat" else rows, tensors)
    worst = 0.0
    for want, usual, got in zip(exact, plain, found, strict=True):
        allowed = 2 * (usual - want).abs().max() + 4 * torch.finfo(dtype).eps * want.abs().max()
        worst = max(worst, float((got - want).abs().max() / allowed))
    _stop_unless(worst <= 1, loss, f"the attention kernel is wrong: its error is {worst:.1f} times what is allowed")
    return worst


def _with_gradients(function: Callable[[Tensor, Tensor, Tensor], Tensor], tensors: list[Tensor]) -> list[Tensor]:
    with torch.enable_grad(), torch.autocast(tensors[0].device.type, enabled=False):
        q, k, v = (tensor.detach().requires_grad_() for tensor in tensors[:3])
        out = function(q, k, v)
        out.backward(tensors[3])
    return [tensor.double() for tensor in (out.detach(), q.grad, k.grad, v.grad)]


def _documents(loss: CausalLMLoss, lengths: tuple[int, ...], seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    vocab, longest = loss.valid_rows or loss.family.rows, loss.family.positions or max(lengths)
    return [torch.randint(vocab, (min(length, longest),), generator=generator).tolist() for length in lengths]


def _compute_dtype(loss: CausalLMLoss) -> torch.dtype:
    weight = loss.family.head.weight
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def _stop_unless(passed: bool, loss: CausalLMLoss, what: str) -> None:
    """Not a number compares as False, so it fails too."""
    if not passed:
        raise MachineError(
            what, where=f"model family `{loss.family.kind}`", fix="nothing was trained; use another family, or report this one"
        )

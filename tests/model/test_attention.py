"""Attention by pieces and by the operator against dense matrices; what is refused instead of leaking."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rewarm.errors import UserError
from rewarm.model.attention import attend, stock_attention
from rewarm.model.batch import micro_batches, one_row
from rewarm.model.loss import CausalLMLoss
from rewarm.model.varlen import varlen_attention, varlen_reference

LENGTHS = (1, 7, 16, 8)


def tensors(heads: int = 4, keys: int = 2, channels: int = 8, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(sum(LENGTHS), count, channels, generator=generator, dtype=dtype) for count in (heads, keys, keys, heads)]


def bounds(room: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    cu = torch.full((room + 1,), sum(LENGTHS), dtype=torch.int32)
    cu[:4] = torch.tensor([0, 1, 8, 24])
    return cu, torch.tensor([4, 16])


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None, softcap: float | None) -> torch.Tensor:
    """One matrix for all tokens, a mask for pieces, order and window: written here apart from the code that it judges."""
    n = len(q)
    piece = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
    hidden = (piece[:, None] != piece[None, :]) | (j > i)
    if window is not None:
        hidden |= j <= i - window
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    logits = torch.einsum("ihc,jhc->hij", q, k) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return torch.einsum("hij,jhc->ihc", logits.masked_fill(hidden, -torch.inf).softmax(-1), v)


def by_rows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None, softcap: float | None) -> torch.Tensor:
    q, k, v = (x.view(2, 16, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    lengths = (1, 7, 8, 8, 8)  # the piece of 16 ends with the first row: the rows are those of another packing
    return attend(nn.Module(), q, k, v, None, scaling=scale, sliding_window=window, softcap=softcap, rw_lengths=lengths)[0].flatten(0, 1)


def one_long_row(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None, softcap: float | None
) -> torch.Tensor:
    q, k, v = (x[None].transpose(1, 2) for x in (q, k, v))
    return attend(nn.Module(), q, k, v, None, scaling=scale, sliding_window=window, softcap=softcap, rw_lengths=LENGTHS)[0][0]


def operator(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None, softcap: float | None) -> torch.Tensor:
    return varlen_attention(q, k, v, *bounds(), scale, window, softcap)


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None, softcap: float | None) -> torch.Tensor:
    return varlen_reference(q, k, v, *bounds(), scale, window, softcap)[0]


def with_gradients(function, inputs: list[torch.Tensor], *settings: object) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
    q, k, v = (x.clone().requires_grad_() for x in inputs[:3])
    out = function(q, k, v, *settings)
    out.backward(inputs[3])
    return [out.detach(), q.grad, k.grad, v.grad]


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 1, 3, 16, 100])
@pytest.mark.parametrize("keys", [1, 2, 4])
@pytest.mark.parametrize("function", [one_long_row, operator, reference])
def test_every_form_equals_dense_attention_with_gradients(function, keys, window, softcap):
    """Windows one off, heads in the wrong group, a piece of one token: each is a wrong model that still learns something."""
    inputs = tensors(keys=keys)
    wanted = with_gradients(dense, inputs, 0.3, window, softcap)
    found = with_gradients(function, inputs, 0.3, window, softcap)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_a_row_ends_a_piece():
    """The same tokens as rows of 16: the long piece is cut where the row ends, the others are not."""
    inputs = tensors()
    rows, flat = by_rows(*inputs[:3], 0.3, None, None), one_long_row(*inputs[:3], 0.3, None, None)
    torch.testing.assert_close(rows[:16], flat[:16], rtol=1e-10, atol=1e-10)
    assert (rows[16:24] - flat[16:24]).abs().max() > 0.01


def test_the_operator_keeps_what_it_promises_to_the_compiler():
    """Shapes and strides of the fake and the real result agree, the backward is registered: torch's own check of custom operators."""
    q, k, v = (x.float().requires_grad_() for x in tensors()[:3])
    strided = q.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    for query in (q, strided):
        torch.library.opcheck(torch.ops.rewarm.attention.default, (query, k, v, *bounds(), 0.3, 0, 0.0))


def test_compiled_layers_do_not_compile_again_for_another_packing(tiny, row_batch):
    """25 seconds an iteration were lost elsewhere to bounds that were numbers."""
    from torch._dynamo.testing import CompileCounterWithBackend

    loss = tiny("qwen3")
    plain = tiny("qwen3")
    counter = CompileCounterWithBackend("aot_eager")
    for layer in loss.family.layers:
        layer.compile(fullgraph=True, dynamic=False, backend=counter)
    frames = []
    for seed, cuts in enumerate(([[16], [3, 13]], [[4, 4, 8], [16]], [[1, 15], [5, 5, 6]])):
        batch = micro_batches(row_batch(cuts, seed), 2, "cpu", "flat", row_pieces=3)[0]
        out, wanted = loss(batch), plain(batch)
        out.total.backward()
        torch.testing.assert_close(out.nll, wanted.nll)
        frames.append(counter.frame_count)
    assert frames[0] > 0 and len(set(frames)) == 1


def test_without_bounds_attention_raises(tiny):
    """Plain causal attention in their place would leak one document into the next, and nobody would see it."""
    with pytest.raises(UserError, match="does not hand the bounds"):
        tiny("llama").hf(input_ids=torch.ones(1, 4, dtype=torch.long))


def test_a_family_that_drops_its_keyword_arguments_raises(tiny):
    """stablelm does: its documents would see each other."""
    with pytest.raises(UserError, match="does not hand the bounds"):
        tiny("stablelm")(one_row([[1, 2, 3], [4, 5]]))


def test_attention_that_is_not_done_here_is_refused(tiny):
    q, k, v = (x[None].transpose(1, 2) for x in tensors()[:3])
    with pytest.raises(UserError, match="s_aux"):
        attend(nn.Module(), q, k, v, None, s_aux=torch.zeros(4), rw_lengths=LENGTHS)
    with pytest.raises(UserError, match="looks ahead"):
        attend(nn.Module(), q, k, v, None, is_causal=False, rw_lengths=LENGTHS)
    with pytest.raises(UserError, match="s_aux"):
        tiny("gpt_oss")(one_row([[1, 2, 3], [4, 5]]))


def test_inside_stock_attention_the_model_is_that_of_transformers(tiny):
    loss: CausalLMLoss = tiny("llama")
    ids = torch.tensor([[5, 6, 7]])
    with stock_attention(loss.hf):
        stock = loss.hf(input_ids=ids, use_cache=False).logits
        assert loss.hf.generate(ids, max_new_tokens=2, do_sample=False).shape == (1, 5)
    ours = loss.hidden(one_row([[5, 6, 7]])) @ loss.family.head.weight.T
    torch.testing.assert_close(ours, stock)
    assert loss.hf.config._attn_implementation == "rewarm"

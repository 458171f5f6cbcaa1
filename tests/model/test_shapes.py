"""On a CPU the products in 16 bits have few shapes, whatever the text: oneDNN keeps a program for each, and memory grows with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from rewarm.model.attention import SHORT, STEP, attend
from rewarm.model.batch import micro_batches
from rewarm.model.gates import attention_check
from rewarm.model.loss import HEAD_ROWS, CausalLMLoss
from rewarm.model.precision import choose_precision
from rewarm.model.score import Scorer
from rewarm.model.varlen import varlen_reference

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_scaled_dot_product")


class Shapes(TorchDispatchMode):
    """Collects what oneDNN would compile: (operator, shapes) of every product of 16-bit tensors inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[str, tuple[torch.Size, ...]]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        if func.name().startswith(PRODUCTS) and any(tensor.dtype.itemsize == 2 for tensor in tensors):
            self.found.add((func.name(), tuple(tensor.shape for tensor in tensors)))
        return func(*args, **(kwargs or {}))


def random_cuts(rng: np.random.Generator, width: int, shortest: int, longest: int) -> list[int]:
    """Lengths of pieces that fill a row; only the last one may be longer than `longest`."""
    lengths: list[int] = []
    while (left := width - sum(lengths)) > 0:
        length = int(rng.integers(shortest, longest + 1))
        lengths.append(left if left - length < shortest else length)
    return lengths


def train_on(loss: CausalLMLoss, rows: Any) -> None:
    batch = micro_batches(rows, len(rows.ids), "cpu", "rows")[0]
    with choose_precision("mixed", "cpu").context("cpu"):
        out = loss(batch)
    out.total.backward()


def test_training_on_any_packing_adds_only_shapes_of_the_head(tiny: Callable[..., CausalLMLoss], row_batch: Callable[..., Any]):
    """Each document's length and each number of labels had shapes of its own, 14 a step: SmolLM2-135M grew by 2 GiB in 500 steps."""
    loss, rng = tiny("llama"), np.random.default_rng(0)
    with Shapes() as first:
        train_on(loss, row_batch([[64], [64]]))
    with Shapes() as later:
        for seed in range(30):
            train_on(loss, row_batch([random_cuts(rng, 64, 1, int(rng.integers(2, 65))) for _ in range(2)], seed))
    added = later.found - first.found
    assert first.found, "nothing was computed in 16 bits: this test sees nothing"
    assert {name for name, _ in added} == {"aten::mm"}
    assert len(added) <= 3 * 2 * 64 // HEAD_ROWS  # forward, hidden states, weight


def test_long_pieces_are_computed_in_16_bits_at_few_lengths(tiny: Callable[..., CausalLMLoss], row_batch: Callable[..., Any]):
    """They are faster so; their attention's shapes are multiples of STEP."""
    loss, rng = tiny("llama", max_position_embeddings=2048), np.random.default_rng(1)
    with Shapes() as shapes:
        for seed in range(4):
            train_on(loss, row_batch([random_cuts(rng, 1300, SHORT, 700)], seed))
    lengths = {tensors[0][2] for name, tensors in shapes.found if "scaled_dot_product" in name}
    assert lengths and all(length % STEP == 0 for length in lengths)


@pytest.mark.parametrize("window", [None, 100, 600])
@pytest.mark.parametrize("softcap", [None, 20.0])
def test_filling_a_long_piece_changes_nothing(window: int | None, softcap: float | None):
    """Output and gradients at most twice as far from fp32 as plain dense attention in bf16, which fills nothing up."""
    generator = torch.Generator().manual_seed(0)
    lengths = (SHORT + 1, 3, SHORT + STEP)
    cu, meta = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32), torch.tensor([3, max(lengths)])
    inputs = [torch.randn(sum(lengths), heads, 8, generator=generator).bfloat16() for heads in (4, 2, 2, 4)]

    def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (tensor.transpose(0, 1)[None] for tensor in (q, k, v))
        return attend(torch.nn.Module(), q, k, v, None, scaling=0.3, sliding_window=window, softcap=softcap, rw_lengths=lengths)[0][0]

    def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return varlen_reference(q, k, v, cu, meta, 0.3, window, softcap)[0]

    def run(function: Callable[..., torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
        q, k, v = (tensor.to(dtype, copy=True).requires_grad_() for tensor in inputs[:3])
        out = function(q, k, v)
        assert out.dtype == dtype
        out.backward(inputs[3].to(dtype))
        return [tensor.float() for tensor in (out.detach(), q.grad, k.grad, v.grad)]  # type: ignore[union-attr]

    found, plain, exact = run(ours, torch.bfloat16), run(dense, torch.bfloat16), run(dense, torch.float32)
    for one, usual, right in zip(found, plain, exact, strict=True):
        assert float((one - right).norm()) <= 2 * float((usual - right).norm())


def test_the_gate_sees_a_wrong_long_piece(tiny: Callable[..., CausalLMLoss], monkeypatch: pytest.MonkeyPatch):
    """Short and long pieces take different ways; a gate that looked at short ones only would pass this."""
    from rewarm.errors import MachineError
    from rewarm.model import attention

    plain = torch.nn.functional.pad
    monkeypatch.setattr(attention.F, "pad", lambda tensor, sizes: plain(tensor, sizes).roll(1, 0))
    with choose_precision("mixed", "cpu").context("cpu"), pytest.raises(MachineError, match="attention"):
        attention_check(tiny("llama"))


def test_the_head_runs_on_labels_and_few_others(tiny: Callable[..., CausalLMLoss], row_batch: Callable[..., Any]):
    """The places that fill up a multiple of HEAD_ROWS count nothing: loss and NLL are those of the whole head."""
    loss = tiny("llama", true_vocab=120)
    batch = micro_batches(row_batch([[9, 5, 50], [64]], vocab=120), 2, "cpu", "rows")[0]
    batch.labels[1, 20:50] = -100
    some = loss(batch)
    hidden = loss.hidden(batch).flatten(0, 1)
    logits = torch.nn.functional.linear(hidden, loss.family.head.weight[:120])
    nll = torch.nn.functional.cross_entropy(logits, batch.labels.flatten(), ignore_index=-100, reduction="none")
    torch.testing.assert_close(some.nll.flatten(), nll.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(some.loss_sum, nll.sum(), rtol=1e-5, atol=1e-4)


def test_scoring_in_16_bits_has_few_shapes_and_the_same_numbers(tiny_model: Callable[..., PreTrainedModel]):
    """Rows of 100 different lengths; and no row is filled beyond the model's positions."""
    model = tiny_model("gpt2", n_positions=118).requires_grad_(False)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 128, length).astype(np.int32) for length in range(18, 118)]
    with Shapes() as shapes:
        found = Scorer(model, dtype=torch.bfloat16, batch_tokens=1, threads=1).nll(rows, [1] * len(rows))
    exact = Scorer(model, batch_tokens=1, threads=1).nll(rows, [1] * len(rows))
    assert len({tensors for name, tensors in shapes.found if name == "aten::addmm"}) < 4 * 30
    assert max(abs(a.mean() - b.mean()) for a, b in zip(found, exact)) < 0.02

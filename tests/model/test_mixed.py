"""The whole module under bf16 autocast on a CPU: gates, gradients in fp32, a loss near the fp32 one."""

from __future__ import annotations

import pytest
import torch

from rewarm.model.batch import micro_batches
from rewarm.model.gates import run_gates
from rewarm.model.precision import choose_precision


@pytest.mark.parametrize("form", ["rows", "flat"])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_mixed_precision_passes_its_gates_and_trains(tiny, row_batch, kind, form):
    loss = tiny(kind)
    batch = micro_batches(row_batch([[5, 11], [16]]), 2, "cpu", form)[0]
    exact = loss(batch).loss_sum.item()
    with choose_precision("mixed", "cpu").context("cpu"):
        found = run_gates(loss, form)
        out = loss(batch)
    out.total.backward()
    assert found["isolation"] == 0 and found["parity"] < 5e-3
    assert out.loss_sum.item() == pytest.approx(exact, rel=5e-3)
    assert {parameter.grad.dtype for parameter in loss.parameters()} == {torch.float32}

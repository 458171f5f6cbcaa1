"""Distillation from the frozen base: what it teaches, where it keeps silent, and that off it leaves no trace."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from rewarm.errors import UserError
from rewarm.keep.distill import Distill, _before_first_unknown
from rewarm.keep.recipe import DistillRecipe
from rewarm.model.batch import micro_batches
from rewarm.model.hooks import Param
from rewarm.model.load import load_base
from rewarm.model.loss import CausalLMLoss


class Rows:
    """Four rows of two pieces each, sources 0 (new) and 1 (replay) in turn."""

    def __init__(self, vocab: int, seed: int = 0) -> None:
        import numpy as np

        rng = np.random.default_rng(seed)
        self.ids = rng.integers(0, vocab, (4, 16), dtype=np.int32)
        self.piece = np.repeat(np.array([[0] * 10 + [1] * 6], dtype=np.int32), 4, 0)
        self.position_ids = np.concatenate([np.arange(10), np.arange(6)])[None].repeat(4, 0).astype(np.int32)
        self.labels = np.concatenate([self.ids[:, 1:], np.full((4, 1), -100)], 1).astype(np.int64)
        self.labels[:, 9] = -100
        self.source = np.array([0, 1, 0, 1], dtype=np.int32)
        self.bytes = np.zeros(4, dtype=np.int64)
        self.weight = None


@pytest.fixture
def folder(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=True, max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def context(model):
    params = [Param(name, p, 0, "matrix", None) for name, p in model.named_parameters()]
    return SimpleNamespace(params=params)


def taught(folder, weight: float, rows: Rows, form: str = "rows"):
    base = load_base(folder)
    loss = CausalLMLoss(base.model, base.family)
    method = Distill(DistillRecipe(weight=weight), folder, [1])
    method.prepare(context(base.model))
    batch = micro_batches(rows, 4, "cpu", form)[0]
    return loss, batch, method.targets(context(base.model), batch)


@pytest.mark.parametrize("form", ["rows", "flat"])
def test_the_base_teaches_itself_nothing(folder, form):
    """KL of a model to itself is 0 and so is its gradient: with the whole share, replayed tokens give no loss."""
    rows = Rows(64)
    rows.source[:] = 1
    loss, batch, targets = taught(folder, 1.0, rows, form)
    out = loss(batch, targets)
    out.loss_sum.backward()
    assert abs(out.loss_sum.item()) < 1e-4
    assert max(float(p.grad.abs().max()) for p in loss.hf.parameters() if p.grad is not None) < 1e-5


def test_only_replay_rows_are_taught_and_their_loss_is_the_mixture(folder):
    """(1 - w) nll + w KL on replay, plain nll elsewhere; KL is 0 here, so replay counts half."""
    loss, batch, targets = taught(folder, 0.5, Rows(64))
    out = loss(batch, targets)
    nll = out.nll
    expected = nll[[0, 2]].sum() + 0.5 * nll[[1, 3]].sum()
    assert torch.allclose(out.loss_sum, expected, atol=1e-4)


def test_a_micro_batch_without_replay_has_no_teacher(folder):
    rows = Rows(64)
    rows.source[:] = 0
    assert taught(folder, 0.5, rows)[2] is None


def test_the_teacher_is_silent_from_the_first_token_that_it_does_not_have(folder):
    """It cannot read a new token, nor say one; the piece after it is read again."""
    rows = Rows(64)
    rows.ids[1, 4] = 70
    rows.labels[1, 3] = 70
    _, _, targets = taught(folder, 0.5, rows)
    share = targets.share.view(2, 16)
    assert share[0, :3].eq(0.5).all() and share[0, 3:10].eq(0).all() and share[0, 10:].eq(0.5).all() and share[1].eq(0.5).all()


def test_before_first_unknown_against_a_plain_loop():
    generator = torch.Generator().manual_seed(1)
    known = torch.rand(200, generator=generator) > 0.1
    lengths = [7, 1, 30, 62, 100]
    position = torch.cat([torch.arange(n) for n in lengths])
    expected, clean = [], True
    for ok, at in zip(known.tolist(), position.tolist()):
        clean = ok and (clean or at == 0)
        expected.append(clean)
    assert _before_first_unknown(known, position).tolist() == expected


def test_without_old_text_there_is_nobody_to_teach(folder):
    with pytest.raises(UserError, match="old text"):
        Distill(DistillRecipe(), folder, [])


def test_the_teacher_does_not_train(folder):
    loss, batch, targets = taught(folder, 0.5, Rows(64))
    loss(batch, targets).loss_sum.backward()
    assert not targets.weight.requires_grad and not targets.hidden.requires_grad

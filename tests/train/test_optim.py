"""The update: plain AdamW where nothing is asked, and rows at rates of their own where something is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rewarm.model.hooks import Param
from rewarm.model.load import load_base
from rewarm.train.optim import build_optimizer, clipped_step, param_groups, parameters_by_kind, row_scales, scaled_step
from rewarm.train.recipe import TrainRecipe

CFG = TrainRecipe(lr=1e-2)


def two_tensors(seed=0):
    """An embedding of 10 rows (7 and 8 new, 9 padding) and a matrix."""
    g = torch.Generator().manual_seed(seed)
    embedding = nn.Parameter(torch.randn(10, 4, generator=g))
    matrix = nn.Parameter(torch.randn(4, 4, generator=g))
    return [Param("embedding", embedding, 0, "embedding", (7, 9)), Param("matrix", matrix, 0, "matrix", None)]


def train(params, factor, true_vocab=9, steps=5, methods=None, optimizer=None, clip=1e9):
    optimizer = optimizer or build_optimizer(params, CFG, 1e-2)
    scales = row_scales(params, factor, true_vocab, methods)
    g = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in params:
            p.local.grad = torch.randn(p.local.shape, generator=g)
        clipped_step(optimizer, scales, params, torch.ones(()), clip)
    return [p.local.detach().clone() for p in params]


def plain(params, steps=5, clip=1e9):
    optimizer = torch.optim.AdamW(param_groups(params, 0.1), lr=1e-2, betas=CFG.betas, eps=CFG.eps, fused=False, foreach=False)
    g = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in params:
            p.local.grad = torch.randn(p.local.shape, generator=g)
        torch.nn.utils.clip_grad_norm_([p.local for p in params], clip)
        optimizer.step()
    return [p.local.detach().clone() for p in params]


@pytest.mark.parametrize("clip", [1e9, 0.5])
def test_scale_one_is_adamw(clip):
    """The oracle is torch's plain loop with torch's own clipping."""
    for a, b in zip(train(two_tensors(), 1.0, true_vocab=None, clip=clip), plain(two_tensors(), clip=clip), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-6)


def test_scale_one_everywhere_has_the_bits_of_the_plain_optimiser():
    """No scale, no arithmetic: the fast path is the absence of the slow one."""
    params = two_tensors()
    assert row_scales(params, 1.0, None) == []
    ours = train(params, 1.0, true_vocab=None)
    theirs = two_tensors()
    optimizer = build_optimizer(theirs, CFG, 1e-2)
    g = torch.Generator().manual_seed(1)
    for _ in range(5):
        for p in theirs:
            p.local.grad = torch.randn(p.local.shape, generator=g)
        optimizer.step()
    assert all(torch.equal(a, p.local) for a, p in zip(ours, theirs, strict=True))


def test_new_rows_move_eight_times_and_old_rows_as_before():
    """One step: the update of rows 7 and 8 is 8 times AdamW's, of rows 0 to 6 bit for bit AdamW's, of padding row 9 nothing."""
    start = two_tensors()[0].local.detach().clone()
    once, eight = train(two_tensors(), 1.0, true_vocab=None, steps=1)[0], train(two_tensors(), 8.0, steps=1)[0]
    assert torch.allclose(eight[7:9] - start[7:9], 8 * (once[7:9] - start[7:9]), rtol=1e-4, atol=1e-7)
    assert torch.equal(eight[:7], once[:7])
    assert torch.equal(eight[9], start[9]) and not torch.equal(once[9], start[9])


def test_scale_zero_keeps_the_bits_under_momentum_and_minus_zero():
    """Frozen means frozen: after five steps not even the sign of a zero has changed."""
    params = two_tensors()
    params[0].local.data[7, 0] = -0.0
    start = params[0].local.detach().clone()
    end = train(params, 0.0)[0]
    assert torch.equal(end[7:].view(torch.int32), start[7:].view(torch.int32))
    assert not torch.equal(end[:7], start[:7])


def test_a_methods_scale_of_a_half_moves_half_and_multiplies_the_row_rate():
    """On the update, not the gradient: under Adam half a gradient moves as far as a whole one."""
    start = two_tensors()
    half = {"matrix": torch.full((4, 4), 0.5), "embedding": torch.full((10, 4), 0.5)}
    once, halved = train(two_tensors(), 1.0, None, steps=1), train(two_tensors(), 8.0, None, steps=1, methods=half)
    assert torch.allclose(halved[1] - start[1].local, 0.5 * (once[1] - start[1].local), rtol=1e-3, atol=1e-7)
    assert torch.allclose(halved[0][7] - start[0].local[7], 4 * (once[0][7] - start[0].local[7]), rtol=1e-3, atol=1e-7)


def test_a_step_with_a_nan_moves_neither_weights_nor_moments_nor_the_count():
    """The next good step is then the step it would have been."""
    params, clean = two_tensors(), two_tensors()
    optimizer, other = build_optimizer(params, CFG, 1e-2), build_optimizer(clean, CFG, 1e-2)
    train(params, 8.0, steps=2, optimizer=optimizer)
    scales = row_scales(params, 8.0, 9)
    params[1].local.grad = torch.full((4, 4), float("nan"))
    norm, bad = clipped_step(optimizer, scales, params, torch.ones(()), 1.0)
    assert bad == 1 and not torch.isfinite(norm)
    for p in params:
        p.local.grad = torch.ones_like(p.local)
    _, bad = clipped_step(optimizer, scales, params, torch.tensor(float("inf")), 1.0)
    assert bad == 1
    train(clean, 8.0, steps=2, optimizer=other)
    for a, b in zip(params, clean, strict=True):
        assert torch.equal(a.local, b.local)
        for key, value in optimizer.state[a.local].items():
            assert torch.equal(value, other.state[b.local][key]), key


@pytest.mark.parametrize("tied", [True, False])
def test_groups_and_kinds_of_a_real_model(start_model, untied_model, tied):
    """Weight decay on the matrices of layers only; a tied head is one tensor, an untied one has new rows of its own."""
    base = load_base(start_model if tied else untied_model)
    params = parameters_by_kind(base.family, base.model, (180, 200))
    kinds = {p.name: p.kind for p in params}
    assert kinds["model.embed_tokens.weight"] == "embedding" and kinds["model.norm.weight"] == "vector"
    assert kinds["model.layers.0.self_attn.q_proj.weight"] == "matrix" and ("lm_head.weight" in kinds) is not tied
    assert sum(p.local.numel() for p in params) == sum(p.numel() for p in base.model.parameters())
    decayed, free = param_groups(params, 0.1)
    assert decayed["weight_decay"] == 0.1 and len(decayed["params"]) == 2 * 7 and free["weight_decay"] == 0.0
    scaled = row_scales(params, 8.0, 200)
    assert len(scaled) == (1 if tied else 2)
    for scale in scaled:
        assert scale.first == 180 and scale.factors[:, 0].tolist() == [8.0] * 20 + [0.0] * 56


def test_padding_rows_stand_still_without_any_new_rows():
    """A base whose embedding has more rows than its tokenizer has ids: those rows keep their bits although AdamW would drift them."""
    params = [Param("embedding", nn.Parameter(torch.randn(6, 2)), 0, "embedding", None)]
    scales = row_scales(params, 8.0, 4)
    assert [s.first for s in scales] == [4]
    start = params[0].local.detach().clone()
    optimizer = build_optimizer(params, CFG, 1e-2)
    params[0].local.grad = torch.ones(6, 2)
    scaled_step(optimizer, scales)
    assert torch.equal(params[0].local[4:], start[4:]) and not torch.equal(params[0].local[:4], start[:4])

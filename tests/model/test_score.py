"""The scorer against a plain forward pass: same numbers whatever shares a batch, and a model that does not notice."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import PreTrainedModel

from rewarm import signals
from rewarm.errors import Stopped
from rewarm.model.attention import stock_attention
from rewarm.model.score import Scorer, position_limit

LENGTHS = (1, 2, 3, 17, 40, 33, 8, 8, 64, 5)


def rows_of(lengths=LENGTHS, seed: int = 0, vocab: int = 128) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, n).astype(np.int32) for n in lengths]


def plain_nll(model: PreTrainedModel, row: np.ndarray, first: int) -> np.ndarray:
    """The definition: one row, transformers' own attention, the model's own logits, fp64 softmax."""
    with torch.no_grad(), stock_attention(model):
        logits = model(torch.tensor(row[None].astype(np.int64)), use_cache=False).logits[0].double()
    log_p = logits.log_softmax(1).numpy()
    return np.asarray([-log_p[t - 1, row[t]] if t else math.log(logits.shape[1]) for t in range(first, len(row))])


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3", "gemma2", "gpt2", "cohere", "granite", "mixtral", "stablelm"])
@pytest.mark.parametrize("attention", ["rewarm", "stock"])
def test_padded_rows_score_as_one_by_one(tiny_model: Callable[..., PreTrainedModel], kind: str, attention: str):
    """Scales, caps and windows of a family live in its forward pass; whatever shares a batch may not show."""
    if (kind, attention) == ("stablelm", "rewarm"):
        pytest.skip("it does not hand on the bounds of documents, so it is scored with transformers' attention, not trained")
    model = tiny_model(kind)
    rows = rows_of()
    first = [i % len(row) for i, row in enumerate(rows)]
    with stock_attention(model) if attention == "stock" else nullcontext():
        found = Scorer(model, batch_tokens=96).nll(rows, first)
    for row, begin, values in zip(rows, first, found):
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, plain_nll(model, row, begin), atol=1e-4)


def test_batch_size_and_threads_change_nothing(tiny_model: Callable[..., PreTrainedModel]):
    """Threads take whole batches, so their number cannot move a bit; the batch size moves the last ones only."""
    model = tiny_model("llama").requires_grad_(False)
    rows, first = rows_of(), [1] * len(LENGTHS)
    one = Scorer(model, batch_tokens=64, threads=1).nll(rows, first)
    three = Scorer(model, batch_tokens=64, threads=3).nll(rows, first)
    large = Scorer(model, batch_tokens=100_000, threads=1).nll(rows, first)
    for a, b, c in zip(one, three, large):
        assert a.tobytes() == b.tobytes()
        np.testing.assert_allclose(a, c, atol=1e-5)
    assert torch.get_num_threads() == 1


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12), room=st.integers(1, 100), data=st.data())
def test_every_row_is_in_one_batch_and_no_batch_is_too_large(lengths, room, data):
    """What is left out would be a hole in a sum; what is too large would not fit."""
    scorer = Scorer.__new__(Scorer)
    scorer.batch_tokens = room
    first = [data.draw(st.integers(0, n)) for n in lengths]
    batches = scorer._batches(rows_of(lengths), first)
    wanted = [i for i, n in enumerate(lengths) if n > max(first[i], 1)]
    assert sorted(i for batch in batches for i in batch) == wanted
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= room


def test_without_anything_before_it_a_token_costs_the_log_of_the_rows(tiny_model: Callable[..., PreTrainedModel]):
    """Without a prefix the first token has no prediction: the uniform one over all rows is charged."""
    model = tiny_model("llama")
    [values] = Scorer(model).nll([np.asarray([5, 6, 7], dtype=np.int32)], [0])
    assert values[0] == pytest.approx(math.log(128)) and len(values) == 3
    [alone] = Scorer(model).nll([np.asarray([5], dtype=np.int32)], [0])
    assert alone.tolist() == [pytest.approx(math.log(128))]


def test_a_model_in_training_is_left_as_it_was(tiny_model: Callable[..., PreTrainedModel]):
    """A probe in the middle of a run may leave no trace: mode, gradients, weights, random numbers and the next step's bits."""

    def step(model: PreTrainedModel, probe: bool) -> list[torch.Tensor]:
        torch.manual_seed(7)
        model.train()
        model.base_model.layers[0].eval()
        ids = torch.tensor(rows_of((24,))[0][None].astype(np.int64))
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(2):
            with stock_attention(model):
                model(ids, labels=ids).loss.backward()
            if probe:
                Scorer(model, threads=2).nll(rows_of(), [1] * len(LENGTHS))
                Scorer(model, dtype=torch.bfloat16, threads=2).nll(rows_of(), [1] * len(LENGTHS))
            optimizer.step()
            optimizer.zero_grad()
        assert model.training and not model.base_model.layers[0].training and model.base_model.layers[1].training
        return [*(p.detach().clone() for p in model.parameters()), torch.rand(4)]

    for a, b in zip(step(tiny_model("llama"), False), step(tiny_model("llama"), True), strict=True):
        assert torch.equal(a, b)


def test_dropout_is_off_while_scoring(tiny_model: Callable[..., PreTrainedModel]):
    """A score with dropout would be another one at every call."""
    model = tiny_model("gpt2")
    clean = Scorer(model).nll(rows_of(), [1] * len(LENGTHS))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    model.train()
    dropped = Scorer(model).nll(rows_of(), [1] * len(LENGTHS))
    assert model.training
    for a, b in zip(clean, dropped):
        np.testing.assert_array_equal(a, b)


def test_a_number_hidden_in_the_forward_pass_is_found(tiny_model: Callable[..., PreTrainedModel]):
    """A family that scales its logits in a way we do not know must be scored by its own logits, not by ours."""
    model = tiny_model("llama")

    class Hidden(type(model)):  # type: ignore[misc]
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * 3
            return out

    model.__class__ = Hidden
    scorer = Scorer(model)
    rows = rows_of()
    found = scorer.nll(rows, [1] * len(rows))
    assert scorer._split is False
    for row, values in zip(rows, found):
        np.testing.assert_allclose(values, plain_nll(model, row, 1), atol=1e-4)


def test_bf16_stays_near_fp32(tiny_model: Callable[..., PreTrainedModel]):
    """Autocast over fp32 weights is what a probe of a mixed run computes; its mean may not drift."""
    model = tiny_model("llama")
    rows, first = rows_of(), [1] * len(LENGTHS)
    full = np.concatenate(Scorer(model).nll(rows, first))
    half = np.concatenate(Scorer(model, dtype=torch.bfloat16).nll(rows, first))
    assert 0 < abs(half - full).max() < 0.1
    assert abs(half.mean() - full.mean()) < 1e-3 * full.mean()


def test_a_stop_ends_it_between_batches(tiny_model: Callable[..., PreTrainedModel]):
    """Ctrl-C in a long scoring must not wait for its end."""
    done: list[int] = []

    def progress(tokens: int) -> None:
        done.append(tokens)
        signals.request_stop("test")

    try:
        with pytest.raises(Stopped):
            Scorer(tiny_model("llama"), batch_tokens=8, threads=2).nll(rows_of(), [1] * len(LENGTHS), progress)
    finally:
        signals.clear_stop()
    assert 1 <= len(done) < 9
    assert torch.get_num_threads() == 1


def test_progress_counts_every_token(tiny_model: Callable[..., PreTrainedModel]):
    """The bar's total is the tokens computed: rows with nothing to score cost nothing and are not told."""
    done: list[int] = []
    Scorer(tiny_model("llama"), batch_tokens=32).nll(rows_of(), [1] * len(LENGTHS), done.append)
    assert sum(done) == sum(n for n in LENGTHS if n > 1)


def test_the_position_limit_is_the_models(tiny_model: Callable[..., PreTrainedModel]):
    """GPT-2 calls it n_positions; a tokenizer's idea of it is not asked."""
    assert position_limit(tiny_model("gpt2", n_positions=96)) == 96
    assert position_limit(tiny_model("llama").config) == 512
    assert position_limit(tiny_model("mamba").config) is None

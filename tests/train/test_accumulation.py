"""One step is one mean over its tokens, however it is cut: short answers must not weigh more because they came in a batch of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from rewarm.progress import Silent
from rewarm.train.recipe import TrainRecipe
from rewarm.train.stage import train_stage

T, ANSWERS = 256, [1, 1, 22, 31, 83, 126, 167, 218]
"""Tokens of a row, and how many of each row's tokens are learned."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Weights so large that every answer has another loss."""
    torch.manual_seed(19)
    config = LlamaConfig(
        vocab_size=340, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=T, initializer_range=0.2, bos_token_id=None, eos_token_id=0, pad_token_id=3,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("wide")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def answers(weighted: bool = False) -> SimpleNamespace:
    """Rows of a question that is not learned and an answer that is, then padding."""
    rng, count = np.random.default_rng(0), len(ANSWERS)
    ids = rng.integers(4, 340, (count, T)).astype(np.int32)
    labels, piece = np.full((count, T), -100, np.int64), np.zeros((count, T), np.int32)
    positions = np.tile(np.arange(T, dtype=np.int32), (count, 1))
    for row, length in enumerate(ANSWERS):
        first, end = 20, 20 + length
        labels[row, first:end] = ids[row, first + 1 : end + 1]
        piece[row, end + 1 :] = 1
        positions[row, end + 1 :] -= end + 1
    weight = rng.uniform(0.2, 2.0, (count, T)).astype(np.float32) if weighted else None
    source = (np.arange(count) % 2).astype(np.int32)
    return SimpleNamespace(
        ids=ids, position_ids=positions, labels=labels, piece=piece, source=source, bytes=2 * (labels >= 0).sum(1), weight=weight
    )


@pytest.fixture
def one_step(model, tmp_path) -> Callable[..., Any]:
    """First line of the metrics, and the weights after one step."""

    def run(name: str, micro_rows: int, order: list[int] | None = None, weighted: bool = False, **fields: Any) -> Any:
        batch = answers(weighted)
        if order:
            batch = SimpleNamespace(**{key: None if value is None else value[order] for key, value in vars(batch).items()})
        cfg = TrainRecipe(lr=1e-3, warmup_share=0, device="cpu", micro_rows=micro_rows, **{"precision": "fp32", **fields})
        mixture = SimpleNamespace(names=("short", "long"), row_pieces=2)
        train_stage(cfg, model, mixture, lambda step: batch, None, None, None, [], tmp_path / name, Silent(), steps=1)
        line = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])
        return line, load_file(tmp_path / name / "model" / "model.safetensors")

    return run


def plain_loss(model: Path, weighted: bool = False) -> tuple[float, float]:
    """(sum over the tokens / their number, mean of the rows' own means), from transformers' logits."""
    network, batch = AutoModelForCausalLM.from_pretrained(model), answers(weighted)
    total, means = 0.0, []
    with torch.no_grad():
        for row, length in enumerate(ANSWERS):
            logits = network(input_ids=torch.from_numpy(batch.ids[row : row + 1, : 21 + length]).long()).logits[0]
            nll = F.cross_entropy(logits, torch.from_numpy(batch.labels[row, : 21 + length]), reduction="none")
            if batch.weight is not None:
                nll = nll * torch.from_numpy(batch.weight[row, : 21 + length])
            total += float(nll.sum())
            means.append(float(nll.sum()) / length)
    return total / sum(ANSWERS), sum(means) / len(means)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("micro_rows", [8, 4, 3, 2, 1])
def test_loss_norm_and_update_do_not_depend_on_how_a_step_is_cut(one_step, model, micro_rows, weighted):
    """1 to 218 tokens a row; the loss is their sum by their number, as transformers' own logits give it."""
    whole, expected = one_step("whole", 8, weighted=weighted)
    line, found = one_step("cut", micro_rows, weighted=weighted)
    per_token, per_row = plain_loss(model, weighted)
    assert abs(per_token - per_row) > 1e-3, "rows of one loss would hide the fault"
    assert line["loss"] == pytest.approx(per_token, rel=1e-6)
    assert line["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert line["norm"] == pytest.approx(whole["norm"], rel=1e-5)
    assert all((found[name] - expected[name]).abs().max() < 1e-6 for name in found)


def test_the_order_of_the_rows_changes_nothing(one_step):
    """Short answers together in one micro-batch or spread over all."""
    line, found = one_step("sorted", 2)
    other, mixed = one_step("mixed", 2, order=[0, 7, 1, 6, 2, 5, 3, 4])
    assert other["loss"] == pytest.approx(line["loss"], rel=1e-6) and other["norm"] == pytest.approx(line["norm"], rel=1e-5)
    assert all((found[name] - mixed[name]).abs().max() < 1e-6 for name in found)


def test_mixed_precision_keeps_the_weights_of_the_rows(one_step, model):
    """Sums stay fp32, so cutting costs rounding of 16-bit products and no more."""
    whole, _ = one_step("whole", 8, precision="mixed")
    cut, _ = one_step("cut", 1, precision="mixed")
    assert cut["loss"] == pytest.approx(whole["loss"], rel=2e-4) and cut["norm"] == pytest.approx(whole["norm"], rel=5e-3)
    assert cut["loss"] == pytest.approx(plain_loss(model)[0], rel=2e-3)

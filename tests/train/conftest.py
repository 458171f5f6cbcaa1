"""A model of two layers and rows made of a seed: small enough for hundreds of steps a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB, ROWS, T = 200, 256, 32
"""Ids in use, rows of the embedding, tokens a row. New rows of the tests: 180 to 199."""


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_model(folder: Path, seed: int = 0, tied: bool = True) -> Path:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=ROWS,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def rows_of_seed(step: int, rows: int, seed: int = 0) -> SimpleNamespace:
    """A step's rows: pieces of random lengths over a skewed alphabet, so that there is something to learn; source 0 or 1."""
    rng = np.random.default_rng([seed, step])
    ids = np.zeros((rows, T), np.int32)
    labels = np.full((rows, T), -100, np.int64)
    positions, piece = np.zeros((rows, T), np.int32), np.zeros((rows, T), np.int32)
    for b in range(rows):
        at = number = 0
        while at < T:
            n = min(int(rng.integers(3, 20)), T - at)
            ids[b, at : at + n] = (rng.integers(2, VOCAB) + np.arange(n) * 7 + rng.integers(0, 2, n)) % (VOCAB - 2) + 2
            positions[b, at : at + n] = np.arange(n)
            piece[b, at : at + n] = number
            if T - at > n or n > 5:  # a short rest is padding
                labels[b, at : at + n - 1] = ids[b, at + 1 : at + n]
            at, number = at + n, number + 1
    source = rng.integers(0, 2, rows).astype(np.int32)
    return SimpleNamespace(
        ids=ids, position_ids=positions, labels=labels, piece=piece, source=source, bytes=2 * (labels >= 0).sum(1), weight=None
    )


@pytest.fixture(scope="session")
def start_model(tmp_path_factory) -> Path:
    """Folder of the tied model."""
    return make_model(tmp_path_factory.mktemp("start") / "model")


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("untied") / "model", tied=False)


@pytest.fixture(scope="session")
def rows() -> Callable[..., Any]:
    return rows_of_seed


@pytest.fixture
def stage(start_model, tmp_path):
    """Runs the training stage on the small model; keyword arguments change the recipe or the call."""
    from rewarm.progress import Silent
    from rewarm.train.recipe import TrainRecipe
    from rewarm.train.stage import train_stage

    def run(out: str = "out", *, model=start_model, steps=20, step_rows=4, probes=None, methods=(), seed=0, reporter=None, **fields):
        cfg = TrainRecipe(**{"lr": 1e-2, "precision": "fp32", "device": "cpu", **fields})
        folder = tmp_path / out
        reporter = reporter or Silent()
        mixture = SimpleNamespace(names=("new", "old"), row_pieces=T)
        result = train_stage(
            cfg,
            model,
            mixture,
            lambda step: rows_of_seed(step, step_rows, seed),
            (180, 200),
            VOCAB,
            probes,
            methods,
            folder,
            reporter,
            steps=None if cfg.max_minutes else steps,
        )
        return SimpleNamespace(result=result, out=folder, reporter=reporter)

    return run


@pytest.fixture
def weights():
    """Tensors of a model's folder by name."""
    from safetensors.torch import load_file

    return lambda folder: load_file(folder / "model.safetensors")


@pytest.fixture(autouse=True)
def _no_stop_asked():
    from rewarm import signals

    signals.clear_stop()
    yield
    signals.clear_stop()

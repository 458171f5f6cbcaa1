"""Tiny models with random weights, one for each family: 2 layers, width 64, 128 rows."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rewarm.model import attention
from rewarm.model.family import family_of
from rewarm.model.loss import CausalLMLoss

SMALL = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": None,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "router_aux_loss_coef": 0.01}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "tie_word_embeddings": True},
    "mistral": {**SMALL, "sliding_window": 8},
    "qwen2": SMALL,
    "qwen3": {**SMALL, "head_dim": 16},
    "gemma2": {**SMALL, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "gemma3_text": {**SMALL, "head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {**SMALL, "sliding_window": 8},
    "smollm3": {**SMALL, "no_rope_layers": [1, 0]},
    "gpt2": {"vocab_size": 128, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "bos_token_id": 1, "eos_token_id": 1},
    "gpt_neox": {key: value for key, value in SMALL.items() if key != "num_key_value_heads"},
    "phi": {**SMALL, "num_key_value_heads": 4},
    "cohere": {**SMALL, "logit_scale": 0.25},
    "granite": {**SMALL, "logits_scaling": 4.0},
    "olmo2": SMALL,
    "mixtral": {**SMALL, "num_local_experts": 4},
    "qwen2_moe": {**SMALL, **EXPERTS, "shared_expert_intermediate_size": 48},
    "qwen3_moe": {**SMALL, **EXPERTS, "head_dim": 16, "decoder_sparse_step": 1},
    "olmoe": {**SMALL, **EXPERTS},
    "granitemoe": {**SMALL, "num_local_experts": 4, "router_aux_loss_coef": 0.01},
    "deepseek_v3": {
        **SMALL,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 48,
        "first_k_dense_replace": 1,
        "q_lora_rank": 32,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
    },
    "stablelm": SMALL,
    "gpt_oss": {**SMALL, "head_dim": 16, "num_local_experts": 4},
    "mamba": {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 1},
}


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


def make_model(kind: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    config = AutoConfig.for_model(kind, **{**CONFIGS[kind], **changes})
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME).train()


@pytest.fixture
def tiny_model() -> Callable[..., PreTrainedModel]:
    return make_model


@pytest.fixture
def tiny() -> Callable[..., CausalLMLoss]:
    """tiny("llama", seed=0, true_vocab=None, **config) -> CausalLMLoss."""

    def build(kind: str = "llama", seed: int = 0, true_vocab: int | None = None, **changes: Any) -> CausalLMLoss:
        model = make_model(kind, seed, **changes)
        return CausalLMLoss(model, family_of(model), true_vocab)

    return build


@pytest.fixture
def row_batch() -> Callable[..., SimpleNamespace]:
    """Rows of random tokens cut into pieces: row_batch([[5, 3], [8]]) has two rows of 8, labels shifted inside their piece."""

    def build(lengths: list[list[int]], seed: int = 0, vocab: int = 128) -> SimpleNamespace:
        rng = np.random.default_rng(seed)
        width = sum(lengths[0])
        ids = rng.integers(0, vocab, (len(lengths), width)).astype(np.int32)
        labels = np.full(ids.shape, -100, dtype=np.int64)
        piece, positions = np.zeros_like(ids), np.zeros_like(ids)
        for row, cuts in enumerate(lengths):
            assert sum(cuts) == width
            first = 0
            for number, length in enumerate(cuts):
                last = first + length
                labels[row, first : last - 1] = ids[row, first + 1 : last]
                piece[row, first:last], positions[row, first:last] = number, np.arange(length)
                first = last
        source = np.arange(len(lengths), dtype=np.int32) % 2
        return SimpleNamespace(
            ids=ids,
            position_ids=positions,
            labels=labels,
            piece=piece,
            source=source,
            bytes=rng.integers(1, 50, len(lengths)),
            weight=None,
        )

    return build

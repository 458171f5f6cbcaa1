"""Tiny models with their tokenizers in folders: 2 layers, width 64, byte-level words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM

LINES = [
    "The cat sat on the mat and the dog sat on the cat, which the mat did not like at all.",
    "Điều 1. Phạm vi điều chỉnh. Luật này quy định về quyền và nghĩa vụ của người lao động.",
    "A neutron is a subatomic particle that has no electric charge and a mass greater than a proton.",
]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_tokenizer() -> Callable[..., Tokenizer]:
    def make(vocab: int = 320, specials: Sequence[str] = ("<|endoftext|>",), without: str = "") -> Tokenizer:
        """Byte-level BPE trained on LINES. without: characters of the byte alphabet that it lacks."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = [letter for letter in sorted(pre_tokenizers.ByteLevel.alphabet()) if letter not in without]
        trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(LINES, trainer)
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials])
        return tokenizer

    return make


@pytest.fixture
def make_model(tmp_path: Path, make_tokenizer: Callable[..., Tokenizer]) -> Callable[..., Path]:
    def make(
        name: str = "model",
        seed: int = 0,
        *,
        zero: bool = False,
        tokenizer: Tokenizer | None = None,
        kind: str = "llama",
        settings: dict[str, Any] | None = None,
        rows: int | None = None,
        **config: Any,
    ) -> Path:
        """A model's folder. zero: all weights 0, so every token costs log2 of the rows. settings: tokenizer_config.json."""
        tokenizer = tokenizer or make_tokenizer()
        folder = tmp_path / name
        small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        if kind == "gpt2":
            small = {"n_embd": 32, "n_layer": 2, "n_head": 4}
        rows = rows or tokenizer.get_vocab_size()
        made = AutoConfig.for_model(
            kind, **{**small, "vocab_size": rows, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0, **config}
        )
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(made).float()
        for parameter in model.parameters():
            parameter.data.mul_(0.0 if zero else 2.0 if parameter.dim() > 1 else 1.0)
        model.save_pretrained(folder)
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>", **(settings or {})}))
        return folder

    return make


@pytest.fixture
def write_text(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, documents: Sequence[str]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps({"id": f"d{i}", "text": text}, ensure_ascii=False) + "\n" for i, text in enumerate(documents)))
        return path

    return write


@pytest.fixture
def documents() -> Callable[..., list[str]]:
    def make(count: int, line: int = 0) -> list[str]:
        """Different documents of a few sentences in one language."""
        words = LINES[line].split()
        return [" ".join([*words[i % len(words) :], f"({i})", *words[: 3 + i % 5]]) for i in range(count)]

    return make

"""A tiny model folder as a run writes it: 2 layers, width 64, a byte-level tokenizer, the leftovers that an export must handle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = [("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e"), ("Ä", "ĳ"), ("á", "»")]


def build(folder: Path, dtype: torch.dtype = torch.bfloat16, tied: bool = True, byte_level: bool = True) -> Path:
    folder.mkdir(parents=True)
    letters = SPECIALS + sorted(pre_tokenizers.ByteLevel.alphabet()) + [a + b for a, b in MERGES]
    if not byte_level:
        letters = [x for x in letters if x not in ("á", "á»")]
    vocab = {token: i for i, token in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[m for m in MERGES if m[0] in vocab and m[1] in vocab]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIALS])
    tokenizer.save(str(folder / "tokenizer.json"))
    rope = {"rope_type": "default", "rope_theta": 100_000.0}
    config = LlamaConfig(
        vocab_size=272,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        rope_parameters=rope,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data = parameter.to(dtype)
    model.config.dtype = dtype
    model.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "backend": "tokenizers",
                "tokenizer_class": "TokenizersBackend",
                "bos_token": "<|im_start|>",
                "eos_token": "<|im_end|>",
                "extra_special_tokens": ["<|im_start|>", "<|im_end|>"],
                "model_max_length": 1000000000000000019884624838656,
                "is_local": True,
            }
        )
    )
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}")
    settings = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 0], "max_new_tokens": 64}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    (folder / "merges.txt").write_text("#version: 0.2\nof an older tokenizer\n")
    return folder


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return build(tmp_path_factory.mktemp("run") / "model")


@pytest.fixture(scope="session")
def build_model():
    torch.set_num_threads(1)
    return build

"""The token between documents is the one that pretraining put there."""

from __future__ import annotations

import json

import pytest

from rewarm.errors import UserError
from rewarm.tokens.separators import separators


def test_the_end_token_of_the_tokenizer_ends_documents(make_model, tmp_path):
    found = separators(make_model(tmp_path))
    assert (found.eos, found.eos_token, found.bos) == (0, "<|endoftext|>", None)


def test_a_chat_models_end_of_turn_does_not_end_documents(make_model, tmp_path):
    """SmolLM2-Instruct and Qwen name `<|im_end|>`; their pretraining ended documents with `<|endoftext|>`."""
    found = separators(make_model(tmp_path, tokenizer_config={"eos_token": {"content": "<|im_end|>", "__type": "AddedToken"}}))
    assert found.eos_token == "<|endoftext|>" and "<|im_end|>" in found.reason


def test_an_end_of_turn_is_better_than_nothing(make_model, tmp_path):
    """Where the tokenizer has no token for documents at all."""
    make_model(tmp_path, tokenizer_config={"eos_token": "<|im_end|>"})
    text = (tmp_path / "tokenizer.json").read_text().replace("<|endoftext|>", "<|other|>")
    (tmp_path / "tokenizer.json").write_text(text)
    assert separators(tmp_path).eos_token == "<|im_end|>"


def test_without_a_named_token_the_usual_names_and_then_the_models_config_are_asked(make_model, tmp_path):
    make_model(tmp_path, tokenizer_config={"eos_token": None}, config={"eos_token_id": [2, 1]})
    assert separators(tmp_path).eos_token == "<|endoftext|>"
    text = (tmp_path / "tokenizer.json").read_text().replace("<|endoftext|>", "<|other|>")
    (tmp_path / "tokenizer.json").write_text(text)
    assert separators(tmp_path).eos_token == "<|im_end|>"
    config = json.loads((tmp_path / "config.json").read_text()) | {"eos_token_id": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"set tokens\.eos"):
        separators(tmp_path)


def test_a_token_set_by_hand_must_exist(make_model, tmp_path):
    make_model(tmp_path)
    assert separators(tmp_path, "<code>").eos_token == "<code>"
    with pytest.raises(UserError, match=r"tokens\.eos[\s\S]*did you mean `<\|endoftext\|>`"):
        separators(tmp_path, "<|endoftexte|>")


def test_a_begin_token_comes_where_the_tokenizer_adds_it(make_model, tmp_path):
    """By add_bos_token as in transformers, else by the post-processor; false switches the post-processor's off."""
    make_model(tmp_path)
    tree = json.loads((tmp_path / "tokenizer.json").read_text())
    tree["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    assert separators(tmp_path).bos == 1
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>", "add_bos_token": False}))
    assert separators(tmp_path).bos is None

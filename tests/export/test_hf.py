"""The exported folder: both spellings of everything that was renamed, weights untouched, all ends, nothing stale."""

from __future__ import annotations

import json
import os
import stat

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from rewarm.atomic import sha256_file
from rewarm.errors import UserError
from rewarm.export.hf import config_for_all, generation_config, header, tokenizer_json_for_all, write_hf

LINES = ["the 12 and 345", "Điều 1. người", "你好 안녕하세요 こんにちは", "  a\tb\n<|im_end|>c"]


@pytest.fixture(scope="module")
def exported(model_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "model"
    return out, write_hf(model_dir, out, readme="# card\n")


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_bf16_weights_are_copied_byte_by_byte(exported, model_dir):
    """What was scored is handed over, provably. A link instead would let a save over the export change the run's own folder."""
    out, written = exported
    ours, theirs = out / "model.safetensors", model_dir / "model.safetensors"
    assert sha256_file(ours) == sha256_file(theirs) and ours.stat().st_ino != theirs.stat().st_ino
    assert written == {"dtype": "bf16", "bytes": ours.stat().st_size, "weights": {"model.safetensors": "copied"}}


def test_fp32_weights_are_rounded_once(build_model, tmp_path):
    """Each value is the nearest bf16 of the trained one; names and ties stay."""
    source = build_model(tmp_path / "fp32", dtype=torch.float32)
    written = write_hf(source, tmp_path / "out")
    assert written["weights"] == {"model.safetensors": "cast"}
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor.to(torch.bfloat16)), name
        assert "norm" in name or not torch.equal(after[name].float(), tensor), name  # the norms are ones
    again = write_hf(source, tmp_path / "whole", dtype="fp32")
    assert again["weights"] == {"model.safetensors": "copied"} and read(tmp_path / "whole", "config.json")["dtype"] == "float32"


def test_a_model_in_several_files_keeps_its_index(model_dir, tmp_path):
    """Large models come in parts; the index must name the parts and their new size."""
    source = tmp_path / "parts"
    source.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (source / name).write_bytes((model_dir / name).read_bytes())
    tensors = {name: tensor.float() for name, tensor in load_file(model_dir / "model.safetensors").items()}
    names = sorted(tensors)
    files = {name: f"model-0000{1 + (i > 9)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({n: t for n, t in tensors.items() if files[n] == file}, source / file, metadata={"format": "pt"})
    size = sum(t.numel() * 4 for t in tensors.values())
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": files}))
    write_hf(source, tmp_path / "out")
    index = read(tmp_path / "out", "model.safetensors.index.json")
    assert index["weight_map"] == files and index["metadata"]["total_size"] == size // 2
    state = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(state[name], tensor.to(torch.bfloat16)) for name, tensor in tensors.items())


def test_old_and_new_readers_find_the_rotary_base_and_the_type(exported):
    """transformers 4.x reads a folder that has only `rope_parameters` with base 10,000, without a warning: logits off by 7."""
    config = read(exported[0], "config.json")
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 100_000.0}
    assert config["rope_theta"] == 100_000.0 and config["rope_scaling"] is None
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    assert config["vocab_size"] == 272  # padded rows stay


def test_rotary_scaling_and_two_kinds_of_layers_are_spelled_as_before():
    """llama3 scaling keeps its factors without the base; Gemma-3 had a name for the base of its sliding layers; Phi for its share."""
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    out = config_for_all({"rope_parameters": {**llama3, "rope_theta": 5e5}}, "bfloat16")
    assert out["rope_scaling"] == llama3 and out["rope_theta"] == 5e5
    full, local = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}, {"rope_type": "default", "rope_theta": 1e4}
    out = config_for_all({"rope_parameters": {"full_attention": full, "sliding_attention": local}}, "bfloat16")
    assert (out["rope_theta"], out["rope_local_base_freq"], out["rope_scaling"]) == (1e6, 1e4, {"rope_type": "linear", "factor": 8.0})
    out = config_for_all({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "bfloat16")
    assert out["partial_rotary_factor"] == 0.5 and out["rope_scaling"] is None
    old = {"rope_theta": 5e5, "rope_scaling": None, "_name_or_path": "x", "quantization_config": {}}
    assert config_for_all(old, "float32") == {"rope_theta": 5e5, "rope_scaling": None, "dtype": "float32", "torch_dtype": "float32"}


def test_the_tokenizer_loads_in_both_worlds(exported, model_dir):
    """`TokenizersBackend` is unknown to every 4.x; a list of extra tokens breaks it too; old versions read no .jinja."""
    out = exported[0]
    settings = read(out, "tokenizer_config.json")
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast" and settings["clean_up_tokenization_spaces"] is False
    assert not {"backend", "is_local", "extra_special_tokens"} & set(settings)
    assert settings["additional_special_tokens"] == ["<|im_start|>", "<|im_end|>"]
    assert settings["chat_template"] == (out / "chat_template.jinja").read_text()
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]  # with token types 4.x cannot generate
    assert settings["model_max_length"] == 256  # was the stand-in for `not set`
    assert all(isinstance(merge, str) for merge in read(out, "tokenizer.json")["model"]["merges"])
    before, after, words = Tokenizer.from_file(str(model_dir / "tokenizer.json")), None, AutoTokenizer.from_pretrained(out)
    after = Tokenizer.from_file(str(out / "tokenizer.json"))
    for line in LINES:
        assert before.encode(line).ids == after.encode(line).ids == words(line)["input_ids"]
        assert words.decode(words(line)["input_ids"]) == line
    assert words.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "user: hi"


def test_merges_of_tokens_with_blanks_stay_pairs(tmp_path):
    """`a b c` as one string could be `a b` + `c` or `a` + `b c`: SentencePiece-like vocabularies need the pairs."""
    from tokenizers import models

    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, " ": 2, "a ": 3, "a b": 4}, merges=[("a", " "), ("a ", "b")]))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer_json_for_all(tmp_path / "tokenizer.json") == (tmp_path / "tokenizer.json").read_text()


def test_settings_that_transformers_calls_invalid_survive_with_every_end(exported, model_dir):
    """The base's temperature without sampling is not ours to judge; a chat that knows one of two ends never stops."""
    kept = read(exported[0], "generation_config.json")
    assert kept == {**read(model_dir, "generation_config.json"), "eos_token_id": [2, 0], "bos_token_id": 1}
    model = AutoModelForCausalLM.from_pretrained(exported[0])
    assert model.generation_config.eos_token_id == [2, 0]


def test_ends_are_gathered_from_every_place(model_dir, tmp_path):
    """Without a generation_config.json the ends of the configuration and of the tokenizer are all there is."""
    (tmp_path / "tokenizer.json").write_bytes((model_dir / "tokenizer.json").read_bytes())
    made = generation_config(tmp_path, {"eos_token_id": 0, "pad_token_id": 1}, {"eos_token": {"content": "<|im_end|>"}})
    assert made == {"eos_token_id": [0, 2], "pad_token_id": 1}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 2}')
    assert generation_config(tmp_path, {"eos_token_id": [0, 2]}, {})["eos_token_id"] == [2, 0]
    assert generation_config(tmp_path, {"eos_token_id": None}, {"eos_token": "not a token"})["eos_token_id"] == [2]


def test_nothing_stale_or_private_is_handed_over(exported):
    """An older merges.txt beside the extended tokenizer would win in some readers; safetensors alone writes 0600."""
    out = exported[0]
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    mask = os.umask(0)
    os.umask(mask)
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o666 & ~mask}


def test_the_model_computes_the_same_after_the_export(exported, model_dir):
    """The proof of the pudding: same logits, tied head."""
    ids = torch.arange(3, 60)[None]
    a, b = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in (model_dir, exported[0]))
    with torch.no_grad():
        assert torch.equal(a(ids).logits, b(ids).logits)
    assert b.lm_head.weight is b.model.embed_tokens.weight


def test_an_export_again_gives_the_same_bytes_and_never_takes_a_foreign_folder(model_dir, tmp_path):
    out = tmp_path / "out"
    write_hf(model_dir, out)
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    write_hf(model_dir, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.md").write_text("years of work")
    with pytest.raises(UserError, match="no model"):
        write_hf(model_dir, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.md").read_text() == "years of work"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_is_no_model_is_refused(model_dir, tmp_path, name):
    source = tmp_path / "half"
    source.mkdir()
    for path in model_dir.iterdir():
        if path.name != name:
            (source / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=name.replace("model", r"\*")):
        write_hf(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_header_is_read_as_safetensors_reads_it(model_dir):
    """Types are judged by the header alone, so that a copy needs no torch and no memory."""
    ours = header(model_dir / "model.safetensors")
    with safe_open(model_dir / "model.safetensors", framework="pt") as theirs:
        assert set(ours) - {"__metadata__"} == set(theirs.keys())
        assert all(ours[name]["shape"] == list(theirs.get_slice(name).get_shape()) for name in theirs.keys())  # noqa: SIM118

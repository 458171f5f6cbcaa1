"""Folders in and out: what is refused before gigabytes are read, and what a written folder must keep."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer

from rewarm.errors import UserError
from rewarm.model.attention import stock_attention
from rewarm.model.batch import one_row
from rewarm.model.files import check_rows, check_weights, find_folder
from rewarm.model.load import load_base, save_hf
from rewarm.model.loss import CausalLMLoss


@pytest.fixture
def base(tmp_path, tiny_model) -> Path:
    """A folder as a hub has it: weights in two files, a tokenizer, and the odd files beside them."""
    return write(tiny_model("llama"), tmp_path / "base", max_shard_size="60KB")


def write(model, folder: Path, **settings: object) -> Path:
    model.save_pretrained(folder, **settings)
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(120)}, unk_token="w0"))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.6, "eos_token_id": [2, 0]}')
    config = json.loads((folder / "config.json").read_text())
    config.update(_name_or_path="somebody/else", torch_dtype="float32", our_own_field=7)
    del config["dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_model_that_was_saved_is_the_model_that_is_loaded(base, tmp_path):
    """Bit for bit, by us and by transformers alone."""
    first = load_base(base)
    with torch.no_grad():
        for parameter in first.model.parameters():
            parameter.add_(torch.rand_like(parameter))
    save_hf(first.model, base, tmp_path / "out")
    second = load_base(tmp_path / "out")
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, parameter in first.model.named_parameters():
        assert torch.equal(parameter, second.model.get_parameter(name)) and torch.equal(parameter, alone.get_parameter(name))
    row = one_row([[5, 6, 7, 8]])
    losses = [CausalLMLoss(one.model, one.family)(row).loss_sum for one in (first, second)]
    assert losses[0] == losses[1]


FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi", "phi3", "olmo2", "smollm3", "gpt2", "gpt_neox"]
FAMILIES += ["cohere", "granite", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "deepseek_v3"]


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_comes_back_from_disk(tmp_path, tiny_model, kind):
    model = tiny_model(kind)
    base = write(model, tmp_path / "base")
    loaded = load_base(base)
    save_hf(loaded.model, base, tmp_path / "out")
    again = load_base(tmp_path / "out")
    assert loaded.family.tied == again.family.tied
    state = again.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_tied_weights_are_written_once_and_stay_tied(base, tmp_path):
    save_hf(load_base(base).model, base, tmp_path / "out", torch.bfloat16)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        names = set(file.keys())
        assert {file.get_tensor(name).dtype for name in names} == {torch.bfloat16}
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert alone.lm_head.weight is alone.model.embed_tokens.weight and load_base(tmp_path / "out").family.tied


def test_the_written_configuration_is_the_bases_but_for_what_changed(base, tmp_path):
    """A path of the trainer's disk or the name of our attention would follow the model to everybody who loads it."""
    loaded = load_base(base)
    loaded.model.resize_token_embeddings(256)
    save_hf(loaded.model, base, tmp_path / "out", torch.bfloat16)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (base, tmp_path / "out"))
    del before["_name_or_path"]
    assert after == {**before, "vocab_size": 256, "torch_dtype": "bfloat16"}
    assert (
        "rewarm" not in (tmp_path / "out" / "config.json").read_text() and str(base) not in (tmp_path / "out" / "config.json").read_text()
    )


def test_files_beside_the_weights_are_copied_byte_by_byte(base, tmp_path):
    """Also a generation_config.json that transformers finds fault with: a save after hours of training must not fail on it, and both end
    tokens stay."""
    save_hf(load_base(base).model, base, tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == AutoTokenizer.from_pretrained(base).get_vocab()


def test_a_failed_save_leaves_the_old_folder(base, tmp_path, monkeypatch):
    model = load_base(base).model
    save_hf(model, base, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UserError, match="no space left"):
        save_hf(model, base, tmp_path / "out", torch.bfloat16)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]


def test_a_save_replaces_a_model_and_nothing_else(base, tmp_path):
    model = load_base(base).model
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds no model"):
        save_hf(model, base, tmp_path / "mine")
    save_hf(model, base, tmp_path / "out")
    save_hf(model, base, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "mine", "out"]
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_others_may_read_the_weights_as_they_may_read_the_rest(base, tmp_path):
    """A model that only its owner can read fails on the first machine that serves it."""
    save_hf(load_base(base).model, base, tmp_path / "out")
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1


def test_two_saves_have_the_same_bytes(base, tmp_path):
    """A run that is repeated must write what it wrote."""
    model = load_base(base).model
    for name in ("a", "b"):
        save_hf(model, base, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_frequencies_stay_fp32(base, dtype):
    """In bf16 positions of some thousands fall onto their neighbours."""
    model = load_base(base, dtype=dtype).model
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    frequencies = [buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")]
    assert frequencies and all(buffer.dtype == torch.float32 for buffer in frequencies)
    torch.testing.assert_close(frequencies[0], 10000.0 ** (-torch.arange(0, 16, 2) / 16), rtol=1e-6, atol=0)


def test_dropout_is_off_in_training(tmp_path, tiny_model):
    """Packed = alone, resume and the teacher all need a forward pass without dice; the folder keeps the base's values."""
    base = write(tiny_model("gpt2"), tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config.update(attn_pdrop=0.1, resid_pdrop=0.1, embd_pdrop=0.1)
    (base / "config.json").write_text(json.dumps(config))
    loaded = load_base(base)
    assert loaded.model.training
    assert {module.p for module in loaded.model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}
    loss, row = CausalLMLoss(loaded.model, loaded.family), one_row([[5, 6, 7, 8]])
    assert loss(row).loss_sum == loss(row).loss_sum
    save_hf(loaded.model, base, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["resid_pdrop"] == 0.1


def test_the_report_counts_what_was_loaded(base):
    report = load_base(base).report
    assert report["model_type"] == "llama" and report["rows"] == 128 and report["tied"] and report["layers"] == 2
    assert report["files"] > 1 and report["stored_as"] == "F32" and report["bytes"] == report["parameters"] * 4
    assert report["embedding_parameters"] == 128 * 64 and json.dumps(report)


def test_a_loaded_model_generates_inside_stock_attention(base):
    model = load_base(base).model
    with stock_attention(model):
        assert model.generate(torch.tensor([[3, 4]]), max_new_tokens=3, do_sample=False, eos_token_id=None).shape == (1, 5)


def test_a_missing_shard_is_named_before_anything_is_read(base):
    shard = sorted(base.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(UserError, match=f"1 of .* weight files are missing, first {shard.name}"):
        load_base(base)


def test_a_cut_file_is_named(base):
    """A download that stopped: the header says how long the file is."""
    shard = sorted(base.glob("model-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(UserError, match="cut or damaged") as error:
        check_weights(base)
    assert error.value.where == str(shard)
    shard.write_bytes(b"<html>")
    with pytest.raises(UserError, match="no header"):
        check_weights(base)


def test_a_pickle_is_not_read(base):
    """Reading one may run any code."""
    for path in base.glob("model*"):
        path.unlink()
    (base / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pytorch_model.bin .* only safetensors"):
        load_base(base)


def test_code_in_a_models_folder_is_not_run(base):
    config = json.loads((base / "config.json").read_text())
    config.update(model_type="my_llama", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"})
    (base / "config.json").write_text(json.dumps(config))
    (base / "code.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(UserError, match="does not know the model type `my_llama`"):
        load_base(base)


def test_a_tokenizer_with_more_ids_than_rows_is_refused(base):
    with pytest.raises(UserError, match="ids up to 119, the model has 100 rows"):
        check_rows(base, 100)
    check_rows(base, 120)


def test_missing_weights_are_not_made_up(base):
    """transformers fills what is missing with random numbers and warns; training would go on from noise."""
    index = json.loads((base / "model.safetensors.index.json").read_text())
    lost = "model.layers.1.mlp.up_proj.weight"
    shard = base / index["weight_map"].pop(lost)
    from safetensors.torch import load_file, save_file

    tensors = load_file(shard)
    del tensors[lost]
    save_file(tensors, shard, metadata={"format": "pt"})
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=rf"1 weights are not in the files, first `{lost}`"):
        load_base(base)


def test_quantised_weights_are_refused(base):
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="quantised"):
        load_base(base)


@pytest.mark.parametrize(
    ("path", "message"),
    [("./no/such/folder", "no such folder"), ("../somewhere", "no such folder"), ("a/b/c", "no such folder"), ("", "no such folder")],
)
def test_a_path_that_is_no_folder_is_not_asked_of_the_hub(path, message):
    with pytest.raises(UserError, match=message):
        find_folder(path if path else "/" + "nowhere")


def test_a_file_in_place_of_a_folder_says_where_it_belongs(base):
    with pytest.raises(UserError, match=r"model\.gguf"):
        find_folder(base / "config.json")


def test_without_a_network_a_hub_name_says_what_to_do(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match="the hub cannot be reached") as error:
        find_folder("somebody/some-model")
    assert error.value.fix == "download it elsewhere and give its folder"


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(UserError, match="no weights"):
        load_base(tmp_path)

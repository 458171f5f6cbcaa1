"""New embedding rows: the formula, the files they are written to, and what must stay as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm.errors import UserError
from rewarm.vocab.base import open_base
from rewarm.vocab.byte_bpe import KIND
from rewarm.vocab.extension import Extension, NewToken
from rewarm.vocab.initialise import plan_start
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.rows import copy_beside, extend_model, padded_rows, resized_config, trained_rows
from rewarm.vocab.tensors import VocabTensors
from rewarm.vocab.weights import from_bytes, open_weights, to_bytes

from .conftest import write_base

CFG = VocabRecipe()


def extend_by(folder: Path, out: Path, parts: list[tuple[int, ...]], cfg: VocabRecipe = CFG) -> tuple[int, int]:
    """Writes a model with one new token for each tuple of old ids; returns (first new id, rows)."""
    base = open_base(folder)
    out.mkdir()
    tokens = tuple(NewToken(base.next_id + i, b"x%d" % i, p) for i, p in enumerate(parts))
    extension = Extension(base.next_id, tokens, ())
    for name, content in KIND.files(base, extension).items():
        (out / name).write_bytes(content)
    copy_beside(base, out)
    start = plan_start(base, extension, cfg, base.tokenizer, {})
    return base.next_id, extend_model(base, extension, out, cfg, start)[1]


@settings(deadline=None)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20))
def test_half_precision_rounds_as_torch_does(values: list[float]) -> None:
    """Weights are cast here without torch, so the two must agree to the bit."""
    import torch

    x = np.array(values, dtype=np.float32)
    assert to_bytes(x, "BF16") == torch.from_numpy(x).to(torch.bfloat16).view(torch.int16).numpy().tobytes()
    np.testing.assert_array_equal(from_bytes(np.frombuffer(to_bytes(x, "F32"), np.uint8), "F32"), x)
    np.testing.assert_array_equal(
        from_bytes(np.frombuffer(to_bytes(x, "BF16"), np.uint8), "BF16"), torch.from_numpy(x).bfloat16().float().numpy()
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_extended_model_loads_and_says_of_old_text_what_the_base_says(tied: bool, dtype: str, tmp_path: Path) -> None:
    """Logits of old ids on old ids are the base's own; input and output rows are both there, tied if they were."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = write_base(tmp_path / "base", "gpt2", tied=tied, dtype=dtype)
    first, rows = extend_by(folder, tmp_path / "new", [(5, 6), (7,), ()])
    old = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    new, report = AutoModelForCausalLM.from_pretrained(tmp_path / "new", dtype=torch.float32, output_loading_info=True)
    assert rows % 128 == 0 and new.config.vocab_size == rows == new.get_input_embeddings().weight.shape[0] == new.lm_head.weight.shape[0]
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert (new.lm_head.weight is new.get_input_embeddings().weight) == tied
    ids = torch.arange(3, 60).reshape(1, -1)
    torch.testing.assert_close(new(ids).logits[..., :first], old(ids).logits, rtol=0, atol=1e-5)
    for matrix, before in (
        (new.get_input_embeddings().weight, old.get_input_embeddings().weight),
        (new.lm_head.weight, old.lm_head.weight),
    ):
        assert torch.equal(matrix[:first], before)
        base = open_base(folder)
        lengths = [len(base.surfaces[i] or b"") for i in (5, 6)]
        expected = (lengths[0] * before[5] + lengths[1] * before[6]) / sum(lengths)
        torch.testing.assert_close(matrix[first], expected, rtol=1e-2 if dtype == "bfloat16" else 1e-6, atol=1e-4)
        torch.testing.assert_close(matrix[first + 1], before[7], rtol=1e-2 if dtype == "bfloat16" else 1e-6, atol=1e-4)
        table = open_weights(folder).table("model.embed_tokens.weight" if tied or matrix is not new.lm_head.weight else "lm_head.weight")
        mean = before[trained_rows(table, base)].mean(0)
        torch.testing.assert_close(matrix[first + 2 :], mean.expand(rows - first - 2, -1), rtol=1e-2, atol=1e-4)


def test_rows_are_padded_and_never_fewer_than_before() -> None:
    """Round sizes make matrix products fast; adapters and tied heads fit no matrix that shrank, nor one that grew in vain."""
    assert padded_rows(384, 340, 128) == 384 and padded_rows(384, 400, 128) == 512 and padded_rows(300, 301, 1) == 301
    assert padded_rows(262_208, 262_185, 128) == 262_208
    assert padded_rows(151_936, 151_900, 100) == 151_936


def test_files_without_a_vocabulary_matrix_are_copied_byte_for_byte(tmp_path: Path) -> None:
    """A sharded model of 100 GB changes in two tensors; the index follows."""
    from safetensors.numpy import load_file, save_file

    folder = write_base(tmp_path / "base", "gpt2")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {"a.safetensors": [n for n in tensors if "layers.1" in n], "b.safetensors": [n for n in tensors if "layers.1" not in n]}
    for shard, names in shards.items():
        save_file({n: tensors[n] for n in names}, folder / shard)
    size = sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": {n: s for s, names in shards.items() for n in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _, rows = extend_by(folder, tmp_path / "new", [(5, 6)])
    assert (folder / "a.safetensors").read_bytes() == (tmp_path / "new" / "a.safetensors").read_bytes()
    new = json.loads((tmp_path / "new" / "model.safetensors.index.json").read_text())
    grown = (rows - tensors["model.embed_tokens.weight"].shape[0]) * 32 * 4
    assert new["metadata"]["total_size"] == size + grown and new["weight_map"] == index["weight_map"]
    assert load_file(tmp_path / "new" / "b.safetensors")["model.embed_tokens.weight"].shape == (rows, 32)


def test_an_output_bias_gets_rows_too(tmp_path: Path) -> None:
    """Architectures with a bias over the vocabulary (Phi) break if only the matrices grow."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, PhiConfig, PhiForCausalLM

    folder = write_base(tmp_path / "base", "gpt2")
    old = json.loads((folder / "config.json").read_text())
    config = PhiConfig(
        vocab_size=old["vocab_size"], hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        architectures=["PhiForCausalLM"],
    )  # fmt: skip
    (folder / "config.json").write_text(config.to_json_string())
    model = PhiForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.bias)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    first, rows = extend_by(folder, tmp_path / "new", [(5,), (6, 7)])
    new = AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    assert new.lm_head.bias.shape == (rows,)
    torch.testing.assert_close(new.lm_head.bias[first], model.lm_head.bias[5])


def test_an_unknown_tensor_of_the_vocabularys_size_is_refused_by_name(tmp_path: Path) -> None:
    """A draft head that keeps its old rows fails later, at the first new token."""
    folder = write_base(tmp_path / "base", "gpt2")
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["draft.head.weight"] = np.zeros((tensors["model.embed_tokens.weight"].shape[0], 8), np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"draft\.head\.weight"):
        extend_by(folder, tmp_path / "new", [(5,)])


def test_quantised_and_missing_weights_are_refused(tmp_path: Path) -> None:
    """Rows cannot be averaged in four bits, and nothing is loaded from pickles."""
    folder = write_base(tmp_path / "base", "gpt2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UserError, match="quantised"):
        extend_by(folder, tmp_path / "a", [(5,)])
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"there is pytorch_model\.bin"):
        extend_by(folder, tmp_path / "b", [(5,)])


def test_the_config_changes_in_its_sizes_only(tmp_path: Path) -> None:
    """Also where a composite model keeps its text settings in `text_config`, and where the base left the size to the library's default."""
    nested = VocabTensors(("e",), (), (), True, 5, (("text_config", "vocab_size"),))
    plain = VocabTensors(("e",), (), (), True, 5, (("vocab_size",),))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", "text_config": {"vocab_size": 5, "a": 1}, "z": 2}))
    assert resized_config(tmp_path, nested, 8) == {"model_type": "x", "text_config": {"vocab_size": 8, "a": 1}, "z": 2}
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 5, "z": 2}))
    assert list(resized_config(tmp_path, plain, 8).items()) == [("vocab_size", 8), ("z", 2)]
    assert resized_config(tmp_path, nested, 8) == {"vocab_size": 5, "z": 2, "text_config": {"vocab_size": 8}}


def test_what_lies_beside_the_model_comes_along_and_stale_tokenizers_do_not(bases: dict[str, Path], tmp_path: Path) -> None:
    """An invalid generation_config is not ours to mend, and a tokenizer.model of the old vocabulary would contradict the new one."""
    shutil.copytree(bases["gpt2"], tmp_path / "base")
    (tmp_path / "base" / "tokenizer.model").write_bytes(b"old")
    (tmp_path / "base" / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "base" / "LICENSE").write_text("free")
    (tmp_path / "new").mkdir()
    assert copy_beside(open_base(tmp_path / "base"), tmp_path / "new") == ["tokenizer.model"]
    for name in ("generation_config.json", "chat_template.jinja", "LICENSE", "tokenizer_config.json"):
        assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "base" / name).read_bytes()
    assert not (tmp_path / "new" / "model.safetensors").exists() and not (tmp_path / "new" / "tokenizer.model").exists()

"""Bases with more rows than tokens, tied and untied, in the shapes that people use: rows are written by token id and no matrix shrinks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewarm.errors import MachineError, UserError
from rewarm.vocab import rows as rows_module
from rewarm.vocab.base import open_base
from rewarm.vocab.extension import Extension, NewToken
from rewarm.vocab.gate_rows import audit_model, check_model
from rewarm.vocab.initialise import Start, mix_rows_reference, plan_start
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.rows import extend_model, trained_rows
from rewarm.vocab.stage import extend
from rewarm.vocab.tensors import vocab_tensors
from rewarm.vocab.weights import Weights, open_weights

from .conftest import write_base

WIDTH = 8


@dataclass
class Words:
    """What the rows ask of a tokenizer, without one: token i is written `w<i>`, with four control tokens in front."""

    folder: Path
    next_id: int
    special_ids: frozenset[int] = frozenset(range(4))
    spec: dict[str, Any] = field(default_factory=lambda: {"model": {}})
    vocab: dict[str, int] = field(default_factory=dict)

    @property
    def surfaces(self) -> list[bytes | None]:
        return [b"w%d" % i for i in range(self.next_id)]

    def decompose(self, surfaces: Any) -> list[list[int]]:
        return [[] for _ in surfaces]


def grown(base: Words, new: int, seed: int = 0) -> Extension:
    rng = np.random.default_rng(seed)
    parts = [tuple(rng.integers(4, base.next_id, rng.integers(1, 5)).tolist()) for _ in range(new - 1)]
    return Extension(base.next_id, tuple(NewToken(base.next_id + i, b"new", p) for i, p in enumerate([*parts, ()])), ())


def config_of(kind: str, rows: int, tied: bool) -> Any:
    import transformers as t

    sizes = {
        "hidden_size": WIDTH, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
        "head_dim": 8, "vocab_size": rows, "tie_word_embeddings": tied, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if kind == "qwen2":
        return t.Qwen2Config(**sizes, architectures=["Qwen2ForCausalLM"])
    if kind == "olmo2":
        return t.Olmo2Config(**sizes, architectures=["Olmo2ForCausalLM"])
    if kind == "gemma3":
        vision = {
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "image_size": 28,
            "patch_size": 14,
        }
        config = t.Gemma3Config(
            text_config=sizes, vision_config=vision, mm_tokens_per_image=4, tie_word_embeddings=tied, image_token_index=5,
            boi_token_index=6, eoi_token_index=7, architectures=["Gemma3ForConditionalGeneration"],
        )  # fmt: skip
        return config
    more = {
        "vocab_size_per_layer_input": rows - 30, "hidden_size_per_layer_input": 4, "num_kv_shared_layers": 0, "laurel_rank": 2,
        "altup_num_inputs": 2, "layer_types": ["full_attention"], "activation_sparsity_pattern": [0.0], "intermediate_size": [8],
    }  # fmt: skip
    return t.Gemma3nTextConfig(**{**sizes, **more}, architectures=["Gemma3nForCausalLM"])


def write(folder: Path, kind: str, rows: int, tied: bool, dtype: str = "float32") -> Any:
    """A model of this kind and size with random weights, saved as its own library saves it; the model."""
    import torch
    import transformers

    config = config_of(kind, rows, tied)
    torch.manual_seed(1)
    model = getattr(transformers, config.architectures[0])._from_config(config).to(getattr(torch, dtype)).eval()
    model.save_pretrained(folder)
    return model


def extended(base: Words, out: Path, new: int, cfg: VocabRecipe | None = None) -> tuple[int, Start, Extension]:
    cfg = cfg or VocabRecipe()
    extension = grown(base, new)
    start = plan_start(base, extension, cfg, None, {})  # type: ignore[arg-type]
    out.mkdir()
    return extend_model(base, extension, out, cfg, start)[1], start, extension  # type: ignore[arg-type]


def values(weights: Weights, name: str) -> np.ndarray:
    table = weights.table(name)
    return table.values(table.raw)


@pytest.mark.parametrize("new", [40, 300])
@pytest.mark.parametrize(
    ("kind", "rows", "tokens", "tied"),
    [
        ("gemma3", 262_208, 262_145, True),
        ("gemma3", 262_208, 262_145, False),
        ("qwen2", 151_936, 151_665, True),
        ("qwen2", 151_936, 151_665, False),
        ("olmo2", 100_352, 100_287, True),
        ("olmo2", 100_352, 100_287, False),
    ],
)
def test_padded_bases_of_real_sizes(kind: str, rows: int, tokens: int, tied: bool, new: int, tmp_path: Path) -> None:
    """40 new ids fall on spare rows, so nothing is resized and still they must be written; 300 do not fit, so the matrices grow."""
    import torch
    import transformers

    model = write(tmp_path / "base", kind, rows, tied)
    base = Words(tmp_path / "base", tokens)
    total, start, extension = extended(base, tmp_path / "new", new)
    assert total == (rows if tokens + new <= rows else -(-(tokens + new) // 128) * 128)
    old, now = open_weights(tmp_path / "base"), open_weights(tmp_path / "new")
    tensors = vocab_tensors(tmp_path / "base", old)
    assert tensors.tied == tied and len(tensors.inputs) == 1 and len(tensors.outputs) == (not tied)
    for name in tensors.all:
        before, after = values(old, name), values(now, name)
        assert after.shape == (total, WIDTH)
        np.testing.assert_array_equal(before[:tokens], after[:tokens])
        mean = before[trained_rows(old.table(name), base)].astype(np.float64).mean(axis=0)  # type: ignore[arg-type]
        np.testing.assert_allclose(after[tokens : tokens + new], mix_rows_reference(before, start.input, mean), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(after[tokens + new :], np.broadcast_to(mean, (total - tokens - new, WIDTH)), atol=1e-6)
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert (config["text_config"] if kind == "gemma3" else config)["vocab_size"] == total
    assert all(f.ok for f in check_model(base, tmp_path / "new", extension, VocabRecipe(), start))  # type: ignore[arg-type]
    assert all(f.ok for f in audit_model(base, tmp_path / "new", [t.id for t in extension.tokens]))  # type: ignore[arg-type]
    loaded, report = type(model).from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == tied
    ids = torch.tensor([[10, tokens - 1, 11, 12]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(ids).logits[..., :tokens], model(ids).logits[..., :tokens], rtol=0, atol=1e-5)
    assert transformers.AutoConfig.from_pretrained(tmp_path / "new").get_text_config().vocab_size == total


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_in_every_layer_get_rows_too(tied: bool, tmp_path: Path) -> None:
    """Gemma-3n: the table of every layer is shorter than the vocabulary, and ids past its end read its row 0. They must go on doing so."""
    import torch

    model = write(tmp_path / "base", "gemma3n", 320, tied)
    base = Words(tmp_path / "base", 300)  # ids 290 to 299 have no row of their own in the layers' table
    total, start, extension = extended(base, tmp_path / "new", 100)
    old, now = open_weights(tmp_path / "base"), open_weights(tmp_path / "new")
    name = "model.embed_tokens_per_layer.weight"
    before, after = values(old, name), values(now, name)
    assert total == 512 and before.shape[0] == 290 and after.shape[0] == 512
    np.testing.assert_array_equal(after[:290], before)
    np.testing.assert_array_equal(after[290:300], np.tile(before[0], (10, 1)))
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["vocab_size"] == config["vocab_size_per_layer_input"] == 512
    assert all(f.ok for f in check_model(base, tmp_path / "new", extension, VocabRecipe(), start))  # type: ignore[arg-type]
    loaded = type(model).from_pretrained(tmp_path / "new").eval()
    ids = torch.tensor([[10, 289, 290, 299, 12]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits[..., :300], model(ids).logits[..., :300], rtol=0, atol=1e-5)
        assert torch.isfinite(loaded(torch.tensor([[300, 399]])).logits).all()


def test_names_of_older_checkpoints_are_found(tmp_path: Path) -> None:
    """The public Gemma 3 checkpoints say `language_model.model.embed_tokens.weight`; the library renames it while loading."""
    from safetensors.numpy import load_file, save_file

    write(tmp_path / "base", "gemma3", 400, True)
    file = tmp_path / "base" / "model.safetensors"
    tensors = {n.replace("model.language_model.", "language_model.model."): t for n, t in load_file(file).items()}
    name = next(n for n in tensors if n.endswith("embed_tokens.weight"))
    old_style = {n.replace(name, "language_model.model.embed_tokens.weight"): t for n, t in tensors.items()}
    save_file(old_style, file, metadata={"format": "pt"})
    found = vocab_tensors(tmp_path / "base", open_weights(tmp_path / "base"))
    assert found.inputs == ("language_model.model.embed_tokens.weight",) and found.tied and found.sizes == (("text_config", "vocab_size"),)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_token_index": 395}, "image_token_index is 395, which the tokenizer does not name"),
        ({"vision_config": {"vocab_offset": 390}}, "vision_config.vocab_offset is 390: this model reads all ids from there on"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, "quantised"),
    ],
)
def test_ids_that_mean_something_else_and_quantised_weights_are_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    """A new word on an image's id would be replaced by the picture; four-bit rows cannot be averaged."""
    write(tmp_path / "base", "gemma3", 400, True)
    file = tmp_path / "base" / "config.json"
    config = json.loads(file.read_text())
    for key, value in change.items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=says):
        extended(Words(tmp_path / "base", 390), tmp_path / "new", 5)


def test_packed_tensors_are_refused_without_a_word_in_the_config(tmp_path: Path) -> None:
    """Some tools leave the config as it was."""
    from safetensors.numpy import load_file, save_file

    write(tmp_path / "base", "qwen2", 400, True)
    file = tmp_path / "base" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.qweight"] = np.zeros((2, 2), np.int32)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"up_proj\.qweight` belongs to quantised"):
        extended(Words(tmp_path / "base", 390), tmp_path / "new", 5)


def test_a_taller_output_start_is_written_where_there_is_one(tmp_path: Path) -> None:
    """`init_output` reaches the output matrix and nothing else."""
    write(tmp_path / "base", "qwen2", 400, False)
    base = Words(tmp_path / "base", 390)
    extended(base, tmp_path / "new", 5, VocabRecipe(init="fvt", init_output="mean"))
    now = open_weights(tmp_path / "new")
    rows = values(now, "lm_head.weight")[390:395]
    np.testing.assert_array_equal(rows, np.tile(rows[0], (5, 1)))
    assert not (values(now, "model.embed_tokens.weight")[390:394] == values(now, "model.embed_tokens.weight")[394]).all(axis=1).any()


def test_the_report_of_padded_rows(tmp_path: Path) -> None:
    """300 ids on 384 rows: 40 more leave 384 rows and write rows 300 to 339 of both matrices, 100 more make 512."""
    write(tmp_path / "base", "qwen2", 384, False)
    base = Words(tmp_path / "base", 300)
    for new, expected in ((40, 384), (100, 512)):
        out = tmp_path / str(new)
        assert extended(base, out, new)[0] == expected
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            before, after = values(open_weights(tmp_path / "base"), name), values(open_weights(out), name)
            assert after.shape[0] == expected and json.loads((out / "config.json").read_text())["vocab_size"] == expected
            np.testing.assert_array_equal(before[:300], after[:300])
            assert not (before[300:340] == after[300:340]).all(axis=1).any()


def test_rows_that_reserve_a_place_are_no_part_of_the_mean(tmp_path: Path) -> None:
    """Control tokens, reserved ones, rows near zero and far out: a mean with them in is no typical row."""
    write(tmp_path / "base", "qwen2", 400, True)

    class Some(Words):
        @property
        def surfaces(self) -> list[bytes | None]:
            return [*([b"<unused1>", None] * 5), *(b"w%d" % i for i in range(10, self.next_id))]

    from safetensors.numpy import load_file, save_file

    file = tmp_path / "base" / "model.safetensors"
    tensors = load_file(file)
    E = tensors["model.embed_tokens.weight"]
    E /= np.linalg.norm(E, axis=1, keepdims=True)
    E[20], E[21] = E[20] * 0.1, E[21] * 6
    save_file(tensors, file, metadata={"format": "pt"})
    table = open_weights(tmp_path / "base").table("model.embed_tokens.weight")
    found = trained_rows(table, Some(tmp_path / "base", 390, frozenset({30})))  # type: ignore[arg-type]
    assert found.tolist() == [i for i in range(10, 390) if i not in (20, 21, 30)]


def test_memory_stays_below_two_vocabulary_matrices(tmp_path: Path) -> None:
    """And below one: rows are streamed. Mapped pages belong to the system's file cache and are not counted."""
    rows = 100_352
    write(tmp_path / "base", "olmo2", rows, False, dtype="bfloat16")
    base = Words(tmp_path / "base", 100_287)
    extension = grown(base, 8_000)
    start = plan_start(base, extension, VocabRecipe(), None, {})  # type: ignore[arg-type]
    (tmp_path / "new").mkdir()
    vocab_tensors(tmp_path / "base", open_weights(tmp_path / "base"))  # imports and the surfaces are no rows
    surfaces = base.surfaces
    tracemalloc.start()
    Words.surfaces = surfaces  # type: ignore[assignment,method-assign]
    try:
        extend_model(base, extension, tmp_path / "new", VocabRecipe(), start)  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 4 * rows * WIDTH + 6_000_000, f"{peak / 1e6:.1f} MB"


def test_a_disk_that_is_too_small_is_said_before_and_one_that_fills_up_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bytes that are needed, before the first one; or with the file that found no room."""
    write(tmp_path / "base", "qwen2", 400, True)
    base = Words(tmp_path / "base", 390)
    with monkeypatch.context() as patch:
        patch.setattr(rows_module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 10))
        with pytest.raises(MachineError, match=r"10 B free; a needs about \d+ kB"):
            extended(base, tmp_path / "a", 5)
    assert not list((tmp_path / "a").iterdir())

    def full(*args: Any) -> bytes:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(rows_module, "mix_rows", full)
    with pytest.raises(MachineError, match="no space left"):
        extended(base, tmp_path / "b", 5)
    assert not list((tmp_path / "b").iterdir())


KILLED = """
import os, sys
from pathlib import Path
from rewarm.vocab import gate, rows
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.stage import extend
some = gate.all_characters()[::40]; gate.FUZZED = 300; gate.all_characters = lambda: some
write = rows.to_bytes
def die(*args):
    os.kill(os.getpid(), 9)
if sys.argv[5] == "kill":
    rows.to_bytes = die
b, t, p, o = map(Path, sys.argv[1:5])
extend(b, {"vi": [t]}, [p], o, VocabRecipe(size=60))
"""


def test_a_kill_in_the_middle_of_a_matrix_leaves_no_model(bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path) -> None:
    """A real SIGKILL while rows are written; the same command then finishes, and nothing half done is left."""
    arguments = [str(bases["gpt2"]), str(texts["target"]), str(texts["protect"]), str(tmp_path / "o")]
    first = subprocess.run([sys.executable, "-c", KILLED, *arguments, "kill"], check=False, capture_output=True)
    assert first.returncode == -9, first.stderr.decode()
    assert not (tmp_path / "o" / "model").exists()
    subprocess.run([sys.executable, "-c", KILLED, *arguments, "go"], check=True, capture_output=True)
    assert (tmp_path / "o" / "model" / "model.safetensors").is_file()
    assert not (tmp_path / "o" / "building").exists() and not list((tmp_path / "o").rglob("*.tmp-*"))


@pytest.mark.usefixtures("quick_gate")
def test_the_stage_keeps_padded_rows_end_to_end(texts: dict[str, Path], tmp_path: Path) -> None:
    """Tokenizer, config and matrices of the finished folder agree, for words that fit the spare rows and for words that do not."""
    base = open_base(write_base(tmp_path / "base", "qwen", rows=640, tied=False))
    for new in (60, 300):
        facts = extend(base.folder, {"vi": [texts["target"]]}, [], tmp_path / str(new), VocabRecipe(extend=True, size=new, tau="off"))
        rows = 640 if base.next_id + new <= 640 else 768
        model = tmp_path / str(new) / "model"
        weights = open_weights(model)
        assert facts["new_tokens"] == new and facts["rows"] == rows == json.loads((model / "config.json").read_text())["vocab_size"]
        assert {weights.entries[n].shape[0] for n in ("model.embed_tokens.weight", "lm_head.weight")} == {rows}
        assert audit_model(base, model, list(range(base.next_id, base.next_id + new)))[0].ok


def test_a_padded_base_that_is_not_extended_keeps_its_rows(tmp_path: Path) -> None:
    """Training loads and saves it: cut to the tokenizer's length, adapters and tied heads made for the base would no longer fit."""
    from rewarm.model.load import load_base, save_hf

    folder = write_base(tmp_path / "base", "qwen", rows=640, tied=False)
    save_hf(load_base(folder).model, folder, tmp_path / "saved")
    before, after = open_weights(folder), open_weights(tmp_path / "saved")
    assert {n: e.shape for n, e in before.entries.items()} == {n: e.shape for n, e in after.entries.items()}
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["vocab_size"] == 640

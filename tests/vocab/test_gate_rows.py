"""The gate of the model's rows: a good extension passes, and each way in which rows are known to go wrong is caught."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from rewarm.vocab import gate_bits
from rewarm.vocab.base import open_base
from rewarm.vocab.extension import Extension, NewToken
from rewarm.vocab.gate import Finding
from rewarm.vocab.gate_bits import check_bits, sample_lines
from rewarm.vocab.gate_rows import audit_model, check_model
from rewarm.vocab.initialise import plan_start
from rewarm.vocab.recipe import VocabRecipe

from .conftest import SPECS, english, write_base

CFG = VocabRecipe(size=150)
Change = Callable[[np.ndarray], np.ndarray]


def extension_in(folder: Path) -> Extension:
    record = json.loads((folder / "extension.json").read_text(encoding="utf-8"))
    surface = [t["surface"]["str"].encode() if "str" in t["surface"] else bytes.fromhex(t["surface"]["hex"]) for t in record["tokens"]]
    tokens = tuple(NewToken(t["id"], s, tuple(t["parts"])) for t, s in zip(record["tokens"], surface))
    return Extension(record["first_new_id"], tokens, tuple(tuple(m) for m in record["merges"]))


def checked(kind: str, folder: Path, bases: dict[str, Path], extended: dict[str, Path]) -> Finding:
    base, extension = open_base(bases[kind]), extension_in(extended[kind])
    new = Tokenizer.from_file(str(extended[kind] / "model" / "tokenizer.json"))
    return check_model(base, folder, extension, CFG, plan_start(base, extension, CFG, new, {}))[0]


def audited(kind: str, folder: Path, bases: dict[str, Path], extended: dict[str, Path]) -> Finding:
    return audit_model(open_base(bases[kind]), folder, [t.id for t in extension_in(extended[kind]).tokens])[0]


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})


def set_row(row: int, value: float) -> Change:
    def change(E: np.ndarray) -> np.ndarray:
        E = E.copy()
        E[row] = value
        return E

    return change


@pytest.mark.parametrize("kind", sorted(SPECS))
def test_good_rows_pass_both_ways(kind: str, bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """With the plan of the extension at hand, and without it, as for anybody's model."""
    assert checked(kind, extended[kind] / "model", bases, extended).ok
    assert audited(kind, extended[kind] / "model", bases, extended).ok


@pytest.mark.parametrize(
    ("kind", "name", "change", "says", "audit"),
    [
        ("llama3", "lm_head.weight", lambda E: E[:430], "lm_head.weight` is", "lm_head.weight` is"),
        ("qwen", "model.embed_tokens.weight", set_row(430, 0.0), "row 430 is not what", "nobody wrote the row of the new id 430"),
        ("gpt2", "model.embed_tokens.weight", set_row(7, 0.5), "old ids have changed, first row 7", "first row 7"),
        ("gpt2", "model.embed_tokens.weight", set_row(500, np.nan), "not all values are finite, first in row 500", "finite"),
        ("gpt2", "model.norm.weight", lambda w: w * 2, "norm.weight` has changed", "norm.weight` has changed"),
        ("gpt2", "model.norm.weight", lambda w: w.astype(np.float16), "was F32, now F16", "was F32, now F16"),
    ],
)
def test_wrong_rows_are_caught(
    kind: str, name: str, change: Change, says: str, audit: str, bases: dict[str, Path], extended: dict[str, Path], tmp_path: Path
) -> None:  # fmt: skip
    """An output matrix left as it was, new ids on spare rows that nobody wrote, a touched old row: each loads and trains, and is wrong."""
    shutil.copytree(extended[kind] / "model", tmp_path / "m")
    rewrite(tmp_path / "m", lambda tensors: tensors.update({name: change(tensors[name])}))
    for finding, words in ((checked(kind, tmp_path / "m", bases, extended), says), (audited(kind, tmp_path / "m", bases, extended), audit)):
        assert not finding.ok and words in finding.example


def test_new_ids_left_on_the_bases_spare_rows_are_caught(bases: dict[str, Path], extended: dict[str, Path], tmp_path: Path) -> None:
    """Tools that compare sizes see 640 rows before and after, and write nothing."""
    from safetensors.numpy import load_file

    shutil.copytree(extended["qwen"] / "model", tmp_path / "m")
    before = load_file(bases["qwen"] / "model.safetensors")["model.embed_tokens.weight"]
    rewrite(tmp_path / "m", lambda tensors: tensors.update({"model.embed_tokens.weight": before}))
    first = extension_in(extended["qwen"]).first_new_id
    assert f"row {first} is not what" in checked("qwen", tmp_path / "m", bases, extended).example
    assert f"nobody wrote the row of the new id {first}" in audited("qwen", tmp_path / "m", bases, extended).example


def untied(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))


@pytest.mark.parametrize("both", [False, True])
def test_a_broken_tie_is_caught(both: bool, bases: dict[str, Path], extended: dict[str, Path], tmp_path: Path) -> None:
    """By a copy of the matrix under the head's name, or by the config alone: the head then trains apart, or is drawn at random."""
    shutil.copytree(extended["gpt2"] / "model", tmp_path / "m")
    untied(tmp_path / "m")
    if both:
        rewrite(tmp_path / "m", lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].copy()}))
    for finding in (checked("gpt2", tmp_path / "m", bases, extended), audited("gpt2", tmp_path / "m", bases, extended)):
        assert not finding.ok and ("lm_head.weight" if both else "tie_word_embeddings is False") in finding.example


def test_a_stale_or_changed_config_is_caught(bases: dict[str, Path], extended: dict[str, Path], tmp_path: Path) -> None:
    """Sizes and matrices must agree, or the model does not load; any other changed value makes it another model."""
    shutil.copytree(extended["gpt2"] / "model", tmp_path / "m")
    good = json.loads((tmp_path / "m" / "config.json").read_text())
    shutil.copyfile(bases["gpt2"] / "config.json", tmp_path / "m" / "config.json")
    assert "vocab_size" in checked("gpt2", tmp_path / "m", bases, extended).example
    (tmp_path / "m" / "config.json").write_text(json.dumps({**good, "rms_norm_eps": 0.1, "transformers_version": "9"}))
    assert checked("gpt2", tmp_path / "m", bases, extended).example == "config.json: rms_norm_eps is 0.1, expected 1e-06"


def test_a_matrix_that_shrank_to_the_tokenizers_length_is_caught(tmp_path: Path) -> None:
    """Anybody's extension of a padded base: rows are taken away though the tokenizer grew."""
    base = write_base(tmp_path / "base", "qwen", rows=640)
    shutil.copytree(base, tmp_path / "m")
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "vocab_size": 500}))
    rewrite(tmp_path / "m", lambda t: t.update({"model.embed_tokens.weight": t["model.embed_tokens.weight"][:500]}))
    finding = audit_model(open_base(base), tmp_path / "m", [440])[0]
    assert not finding.ok and "shrank from 640 to 500" in finding.example


def test_ids_beyond_the_matrix_are_caught(bases: dict[str, Path], tmp_path: Path) -> None:
    """A tokenizer that grew beside a model that did not: the first new word ends in an index error, or worse on a GPU."""
    shutil.copytree(bases["gpt2"], tmp_path / "m")
    spec = json.loads((tmp_path / "m" / "tokenizer.json").read_text(encoding="utf-8"))
    spec["model"]["vocab"]["Ġxinchào"] = 900
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps(spec))
    finding = audit_model(open_base(bases["gpt2"]), tmp_path / "m", [900])[0]
    assert not finding.ok and "the tokenizer gives id 900, the matrices have" in finding.example


def test_a_folder_without_a_model_is_not_judged(bases: dict[str, Path], tmp_path: Path) -> None:
    """Tokenizers alone are audited too."""
    (tmp_path / "t").mkdir()
    shutil.copyfile(bases["gpt2"] / "tokenizer.json", tmp_path / "t" / "tokenizer.json")
    assert audit_model(open_base(bases["gpt2"]), tmp_path / "t", [])[0].ok


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that has learnt its invented English by heart for a minute of steps: new rows can cost it something."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = write_base(tmp_path_factory.mktemp("taught") / "base", "gpt2")
    base = open_base(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    end = base.vocab["<|endoftext|>"]
    rows = [torch.tensor([end, *e.ids]) for e in base.tokenizer.encode_batch(english(400))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(80):
        batch = torch.nn.utils.rnn.pad_sequence([rows[(step * 16 + i) % 400] for i in range(16)], batch_first=True, padding_value=end)
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder


def grown(base: Path, out: Path, row: Callable[[np.ndarray], np.ndarray]) -> Path:
    """The base with 300 more rows, each row(mean of the old ones)."""
    shutil.copytree(base, out)
    config = json.loads((base / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 300}))

    def more(tensors: dict[str, np.ndarray]) -> None:
        E = tensors["model.embed_tokens.weight"]
        tensors["model.embed_tokens.weight"] = np.concatenate([E, np.tile(row(E), (300, 1))])

    rewrite(out, more)
    return out


def by_number(findings: list[Finding]) -> dict[int, Finding]:
    return {f.number: f for f in findings}


def test_rows_that_take_the_softmax_are_caught_though_no_old_row_moved(taught: Path, tmp_path: Path) -> None:
    """New rows like the commonest old token's win half of its probability; a zero row of a trained model costs little."""
    base, lines = open_base(taught), english(300, seed=9)
    first = base.next_id
    common = base.vocab.get("Ġ", 5)
    good = grown(taught, tmp_path / "good", lambda E: E.mean(axis=0) * 0)
    bad = grown(taught, tmp_path / "bad", lambda E: E[common : common + 200].mean(axis=0) * 4)
    fine, wrong = by_number(check_bits(base, good, lines, first, CFG)), by_number(check_bits(base, bad, lines, first, CFG))
    assert fine[13].ok and wrong[13].ok, "old logits do not know of new rows"
    assert wrong[14].value > fine[14].value
    assert fine[14].limit == gate_bits.BITS_LIMIT and not wrong[14].ok and "with the new rows" in wrong[14].example


def test_a_changed_layer_shows_in_the_logits(taught: Path, tmp_path: Path) -> None:
    """The second half of invariant 13, measured: what the files' bytes promise, seen in the outputs."""
    out = grown(taught, tmp_path / "m", lambda E: E.mean(axis=0))
    rewrite(out, lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"] * 1.001}))
    findings = by_number(check_bits(open_base(taught), out, english(50), open_base(taught).next_id, CFG))
    assert not findings[13].ok and findings[13].value > gate_bits.LOGITS_LIMIT


def test_what_is_measured_is_asked_for_bounded_and_the_same_every_time(
    bases: dict[str, Path], taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`false` measures nothing, `auto` leaves large models out, `true` takes them; an untrained base is not judged."""
    lines, base = english(300), open_base(bases["gpt2"])
    out = grown(bases["gpt2"], tmp_path / "m", lambda E: E.mean(axis=0))

    def ran(setting: Any) -> list[Finding]:
        return check_bits(base, out, lines, base.next_id, CFG.model_copy(update={"check_bits": setting}))

    assert ran(False) == [] and check_bits(base, out, [], base.next_id, CFG) == []
    assert ran("auto") == ran("auto") and "hardly trained" in by_number(ran("auto"))[14].value
    monkeypatch.setattr(gate_bits, "SMALL_MODEL", 10)
    assert ran("auto") == [] and len(ran(True)) == 2
    assert sum(len(line.encode()) for line in sample_lines(lines, 2_000)) <= 2_000 and sample_lines(lines, 10) == lines[:1]
    assert sample_lines(["x" * 9_000], 100_000) == ["x" * 800]


def test_an_encoder_is_not_judged_by_bits(bases: dict[str, Path], tmp_path: Path) -> None:
    """It predicts no next token; its rows are still checked byte by byte."""
    shutil.copytree(bases["gpt2"], tmp_path / "b", ignore=shutil.ignore_patterns("config.json"))
    config = {"architectures": ["BertForMaskedLM"], "model_type": "bert", "vocab_size": 400, "hidden_size": 32, "num_attention_heads": 2}
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    findings = check_bits(open_base(tmp_path / "b"), tmp_path / "b", english(20), 300, CFG)
    assert len(findings) == 1 and findings[0].ok and "not judged" in findings[0].value

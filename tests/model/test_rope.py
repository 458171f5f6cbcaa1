"""A longer context: what is written, what the angles are, and that a model can be trained and read beyond its old maximum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from rewarm.errors import UserError
from rewarm.model.batch import one_row
from rewarm.model.gates import run_gates
from rewarm.model.load import load_base, save_hf
from rewarm.model.loss import CausalLMLoss
from rewarm.model.recipe import Rope
from rewarm.model.rope import longer_config, write_longer

OLD = {"max_position_embeddings": 64, "hidden_size": 64, "num_attention_heads": 4}
KNOWN = {"rope_theta": 10_000.0, "rope_type": "default"}
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt_neox", "phi", "olmo2", "smollm3", "mixtral", "olmoe"]


def longer(model: Any, folder: Path, **rope: Any) -> Path:
    """The folder with a longer context of a model that is written first."""
    model.save_pretrained(folder / "base")
    write_longer(folder / "base", Rope(**rope), folder / "longer")
    return folder / "longer"


def frequencies(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder)
    return next(buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")).double()


@pytest.mark.parametrize("kind", ["yarn", "linear", "theta"])
@pytest.mark.parametrize("family", FAMILIES)
def test_positions_beyond_the_old_maximum_work_in_every_family(tmp_path, tiny_model, family, kind):
    """Gates on the stretched model, then a document four times as long as the old maximum: our loss and gradients, and the same from
    transformers alone after a save."""
    model = tiny_model(family, max_position_embeddings=64)
    folder = longer(model, tmp_path, context=256, type=kind)
    base = load_base(folder)
    loss = CausalLMLoss(base.model, base.family)
    assert run_gates(loss, "rows")["parity"] < 1e-5
    ids = torch.randint(128, (256,), generator=torch.Generator().manual_seed(0)).tolist()
    out = loss(one_row([ids]))
    out.total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in loss.parameters())
    save_hf(base.model, folder, tmp_path / "out")
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert alone.config.max_position_embeddings == 256
    with torch.no_grad():
        logits = alone(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    torch.testing.assert_close(out.nll[0, :-1], F.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none"), rtol=1e-4, atol=1e-5)


def test_linear_divides_every_angle_and_theta_the_slowest_alone(tmp_path, tiny_model):
    """Against the formulas: four times the length, so every frequency a quarter; or the slowest a quarter and the fastest as it was."""
    plain = 10_000.0 ** (-torch.arange(0, 16, 2).double() / 16)
    linear = frequencies(longer(tiny_model("llama", max_position_embeddings=64), tmp_path / "a", context=256, type="linear"))
    torch.testing.assert_close(linear, plain / 4, rtol=1e-6, atol=0)
    theta = frequencies(longer(tiny_model("llama", max_position_embeddings=64), tmp_path / "b", context=256, type="theta"))
    torch.testing.assert_close(theta[[0, -1]], torch.stack([plain[0], plain[-1] / 4]), rtol=1e-5, atol=0)


def test_yarn_keeps_fast_channels_and_stretches_slow_ones(tmp_path, tiny_model):
    """Of 4,096 positions the fastest channel turns hundreds of times and stays; the slowest never turns once and is divided."""
    plain = 10_000.0 ** (-torch.arange(0, 16, 2).double() / 16)
    found = frequencies(longer(tiny_model("llama", max_position_embeddings=4096), tmp_path, context=16_384, type="yarn"))
    torch.testing.assert_close(found[[0, -1]], torch.stack([plain[0], plain[-1] / 4]), rtol=1e-6, atol=0)
    assert bool(((found <= plain * (1 + 1e-6)) & (found >= plain / 4 * (1 - 1e-6))).all())


def test_the_configuration_is_written_in_the_spelling_of_the_base():
    """Programs that know `rope_theta` and `rope_scaling` do not look elsewhere, and the other way round."""
    rope = Rope(context=256, type="yarn")
    scaled = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    old = longer_config({**OLD, "rope_theta": 10_000.0, "rope_scaling": None, "our_own_field": 7}, KNOWN, rope, "here")
    assert old == {
        **OLD,
        "max_position_embeddings": 256,
        "rope_theta": 10_000.0,
        "rope_scaling": scaled,
        "our_own_field": 7,
        "head_dim": 16,
    }
    new = longer_config({**OLD, "rope_parameters": KNOWN}, KNOWN, rope, "here")
    assert new["rope_parameters"] == {**KNOWN, **scaled} and "rope_scaling" not in new
    silent = longer_config(OLD, KNOWN, Rope(context=256, type="linear"), "here")
    assert silent["rope_parameters"] == {**KNOWN, "rope_type": "linear", "factor": 4.0}
    theta = longer_config({**OLD, "rope_theta": 10_000.0}, KNOWN, Rope(context=256, type="theta"), "here")
    assert theta["rope_theta"] == pytest.approx(10_000 * 4 ** (16 / 14)) and "rope_scaling" not in theta


@pytest.mark.parametrize("kind", ["yarn", "linear", "theta"])
def test_the_old_spelling_is_read_as_it_was_meant(tmp_path, tiny_model, kind):
    """A published folder has `rope_theta` beside `rope_scaling: null`; transformers makes one thing of both spellings."""
    new = longer(tiny_model("llama", max_position_embeddings=64), tmp_path / "new", context=256, type=kind)
    base = tmp_path / "new" / "base"
    config = json.loads((base / "config.json").read_text())
    del config["rope_parameters"]
    (base / "config.json").write_text(json.dumps({**config, "rope_theta": 10_000.0, "rope_scaling": None}))
    write_longer(base, Rope(context=256, type=kind), tmp_path / "old")
    torch.testing.assert_close(frequencies(tmp_path / "old"), frequencies(new), rtol=0, atol=0)


def test_windows_keep_their_angles(tmp_path, tiny_model):
    """Gemma 3 has two kinds of angles; a window sees as far as before, so its own stay."""
    folder = longer(tiny_model("gemma3_text", max_position_embeddings=64), tmp_path, context=256, type="linear")
    before, after = (AutoConfig.from_pretrained(path).rope_parameters for path in (tmp_path / "base", folder))
    assert after["sliding_attention"] == before["sliding_attention"]
    assert after["full_attention"] == {**before["full_attention"], "rope_type": "linear", "factor": 4.0}


def test_everything_else_of_the_folder_is_the_bases(tmp_path, tiny_model):
    """Weights bit for bit, side files byte by byte; a tokenizer's limit below the new context would cut what the model can read."""
    model = tiny_model("llama", max_position_embeddings=64)
    model.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").write_text("{{ messages }}")
    for limit, wanted in ((64, 256), (1000, 1000)):
        (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit, "eos_token": "x"}))
        write_longer(tmp_path / "base", Rope(context=256), tmp_path / "longer")
        assert json.loads((tmp_path / "longer" / "tokenizer_config.json").read_text()) == {"model_max_length": wanted, "eos_token": "x"}
    for name in ("model.safetensors", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "longer" / name).read_bytes() == (tmp_path / "base" / name).read_bytes()


@pytest.mark.parametrize(
    ("kind", "changes", "context", "message"),
    [
        ("gpt2", {}, 1024, "no rotary positions"),
        ("llama", {}, 512, "reads 512 tokens as it is"),
        ("llama", {"rope_parameters": {**KNOWN, "rope_type": "linear", "factor": 2.0}}, 1024, r"scaled already \(linear\)"),
        ("phi3", {}, 1024, "takes no positions of type yarn"),
    ],
)
def test_a_base_that_cannot_be_stretched_is_refused_at_once(tmp_path, tiny_model, kind, changes, context, message):
    """Before a corpus is read: each would else fail hours later or train on angles that nobody asked for."""
    with pytest.raises(UserError, match=message):
        longer(tiny_model(kind, **changes), tmp_path, context=context)
    assert not (tmp_path / "longer").exists()

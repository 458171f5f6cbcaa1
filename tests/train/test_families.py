"""Every family through the training stage, from a folder to a folder: what must hold whatever the model is made of."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from rewarm.model.attention import stock_attention
from rewarm.model.batch import one_row
from rewarm.model.load import load_base
from rewarm.model.loss import CausalLMLoss
from rewarm.progress import Silent
from rewarm.train.loop import TimeUp
from rewarm.train.recipe import TrainRecipe
from rewarm.train.stage import train_stage

SMALL: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": None,
}
HEADS = {**SMALL, "head_dim": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "tie_word_embeddings": True},
    "mistral": {**SMALL, "sliding_window": 8},
    "qwen2": SMALL,
    "qwen3": HEADS,
    "gemma2": {**HEADS, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "gemma3_text": {**HEADS, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": SMALL,
    "olmo2": SMALL,
    "smollm3": {**SMALL, "no_rope_layers": [1, 0]},
    "gpt2": {"vocab_size": 256, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1, "eos_token_id": 1},
    "gpt_neox": {name: value for name, value in SMALL.items() if name != "num_key_value_heads"},
    "mixtral": {**SMALL, "num_local_experts": 4},
    "qwen3_moe": {**HEADS, **EXPERTS, "decoder_sparse_step": 1},
    "olmoe": {**SMALL, **EXPERTS},
}
ODD_GENERATION = b'{"do_sample": false, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 0], "max_new_tokens": 64}\n'
"""What some published bases have: a library finds fault with it, and two end tokens that a chat needs."""


def write_base(folder: Path, kind: str, **changes: Any) -> Path:
    """A folder as a hub has it: dropout as published, fields that nobody here knows."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**FAMILIES[kind], **changes})).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "our_own_field": {"a": [7]}}))
    (folder / "generation_config.json").write_bytes(ODD_GENERATION)
    return folder


PIECES = [[5, 6, 7, 8, 9, 10, 11], [50, 40, 30, 20, 12]]


def logits_of(model: Any) -> list[torch.Tensor]:
    """By transformers' own attention, each document alone."""
    with torch.no_grad():
        return [model(input_ids=torch.tensor([piece]), use_cache=False).logits[0] for piece in PIECES]


@pytest.fixture(scope="module", params=list(FAMILIES))
def trained(request, rows, tmp_path_factory):
    """A base of the family and what 16 steps made of it, with checkpoints on the way; `logits` are of the model before it was saved."""
    folder, seen = tmp_path_factory.mktemp(request.param), []

    def probe(model: Any) -> dict[str, dict[str, float]]:
        with stock_attention(model):
            seen.append(logits_of(model))
        return {"old": {"bits_per_byte": 1.0}}

    base = write_base(folder / "base", request.param)
    cfg = TrainRecipe(lr=3e-3, warmup_share=0.1, precision="fp32", device="cpu", checkpoint_steps=5, probe_every=16)
    mixture = SimpleNamespace(names=("new", "old"), row_pieces=32)
    result = train_stage(cfg, base, mixture, lambda step: rows(step, 8), (180, 200), 200, probe, [], folder / "out", Silent(), steps=16)
    losses = [json.loads(line)["loss"] for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    gates = json.loads((folder / "out" / "kernels.json").read_text())["gates"]
    return SimpleNamespace(
        kind=request.param, base=base, model=folder / "out" / "model", result=result, losses=losses, gates=gates, logits=seen[-1]
    )


def test_the_gates_pass_and_the_loss_falls(trained):
    assert trained.gates["isolation"] <= (1e-5 if "num_experts" in FAMILIES[trained.kind] or trained.kind == "mixtral" else 0.0)
    assert trained.gates["parity"] < 1e-5 and trained.gates["attention"] <= 1
    assert trained.result["skipped"] == 0
    assert sum(trained.losses[-4:]) / 4 < sum(trained.losses[:4]) / 4 - 0.05


def test_transformers_alone_reads_the_model_that_was_trained(trained):
    """The logits of the live model after its last step, and of a plain `from_pretrained`: nothing is lost, made up or renamed."""
    alone, info = AutoModelForCausalLM.from_pretrained(trained.model, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    for ours, theirs in zip(trained.logits, logits_of(alone), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    untrained = logits_of(AutoModelForCausalLM.from_pretrained(trained.base))
    assert (untrained[0] - trained.logits[0]).abs().max() > 1e-2


def test_the_tensors_have_the_names_and_shapes_of_the_base(trained):
    """Other programs read the file itself: experts stacked for computing are apart in it again, as published."""
    with safe_open(trained.base / "model.safetensors", "pt") as before, safe_open(trained.model / "model.safetensors", "pt") as after:
        assert set(before.keys()) == set(after.keys())
        assert all(before.get_slice(name).get_shape() == after.get_slice(name).get_shape() for name in before.keys())  # noqa: SIM118


def test_configurations_are_the_bases(trained):
    """Dropout of the base, fields that nobody here knows, end tokens: training changes weights and nothing else."""
    assert (trained.model / "generation_config.json").read_bytes() == ODD_GENERATION
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (trained.base, trained.model))
    assert before == after


def test_documents_stay_apart_in_the_trained_model(trained):
    """Packed in one row, each has the loss that plain transformers gives it alone."""
    base = load_base(trained.model)
    together = CausalLMLoss(base.model, base.family)(one_row(PIECES)).nll[0]
    first = 0
    for piece, logits in zip(PIECES, trained.logits, strict=True):
        alone = F.cross_entropy(logits[:-1], torch.tensor(piece[1:]), reduction="none")
        torch.testing.assert_close(together[first : first + len(alone)], alone, rtol=1e-4, atol=1e-5)
        first += len(piece)


@pytest.mark.parametrize("precision", ["fp32", "mixed"])
def test_rotary_frequencies_are_those_of_the_base_after_a_resume(stage, start_model, precision):
    """Not only as loaded: in the live model after steps in 16 bits, after a checkpoint was read, and in the model that is written."""
    exact = 10_000.0 ** (-torch.arange(0, 16, 2).double() / 16)
    seen = []

    def probe(model: Any) -> dict[str, dict[str, float]]:
        seen.extend(buffer.clone() for name, buffer in model.named_buffers() if name.endswith("inv_freq"))
        return {"old": {"bits_per_byte": 1.0}}

    with pytest.raises(TimeUp):
        stage(steps=4, max_hours=1e-9, probes=probe, probe_every=4, precision=precision)
    run = stage(steps=4, probes=probe, probe_every=4, precision=precision)
    probe(load_base(run.out / "model", dtype=torch.bfloat16).model)
    assert len(seen) == 6 and all(found.dtype == torch.float32 for found in seen)
    for found in seen:
        torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)

"""Rotary frequencies, cosines and sines are fp32 in every precision: in bf16 positions of some thousands fall onto their neighbours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from rewarm.model.batch import one_row
from rewarm.model.family import family_of
from rewarm.model.load import load_base, save_hf
from rewarm.model.loss import CausalLMLoss
from rewarm.model.precision import choose_precision

POSITIONS = [0, 1, 257, 4095, 4096, 10000, 10001, 16383]
PLAIN = {"rope_type": "default", "rope_theta": 10_000.0}
SCALED = {
    "linear": {**PLAIN, "rope_type": "linear", "factor": 4.0},
    "yarn": {**PLAIN, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096},
    "llama3": {
        **PLAIN,
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 2048,
    },
}
LONG = {"max_position_embeddings": 16_384}
CASES: list[Any] = [pytest.param("llama", {**LONG, "rope_parameters": rope}, id=f"llama-{name}") for name, rope in SCALED.items()]
CASES += [
    pytest.param(kind, LONG, id=kind)
    for kind in ("llama", "mistral", "qwen3", "gemma2", "gemma3_text", "gpt_neox", "phi", "phi3", "olmo2", "smollm3", "mixtral")
]
MODES = ["fp32", "mixed", "bf16"]


def frequencies(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")}


@contextlib.contextmanager
def rotary_outputs(model: PreTrainedModel) -> Iterator[list[tuple[nn.Module, tuple[Tensor, Tensor]]]]:
    """(rotary module, its cosines and sines), as the forward pass inside the block makes them."""
    seen: list[tuple[nn.Module, tuple[Tensor, Tensor]]] = []
    modules = [module for module in model.modules() if type(module).__name__.endswith("RotaryEmbedding")]
    handles = [module.register_forward_hook(lambda module, _, output: seen.append((module, output))) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def loaded(folder: Path, mode: str) -> PreTrainedModel:
    """As training has it (fp32 weights), or as a model is measured whose weights are bf16."""
    return load_base(folder, dtype=torch.bfloat16 if mode == "bf16" else torch.float32).model


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_every_family_turns_by_fp32_frequencies(tmp_path, tiny_model, kind, changes, mode):
    """Frequencies of the file, of its bf16 copy and of the copy read again; cosines and sines of a forward pass, against fp64."""
    model = tiny_model(kind, **changes)
    wanted = frequencies(model)
    assert wanted and all(buffer.dtype == torch.float32 for buffer in wanted.values())
    model.save_pretrained(tmp_path / "base")
    save_hf(loaded(tmp_path / "base", mode), tmp_path / "base", tmp_path / "copy", torch.bfloat16)
    for folder in ("base", "copy"):
        model = loaded(tmp_path / folder, mode)
        found = frequencies(model)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) and found[name].dtype == torch.float32 for name in wanted)
    loss = CausalLMLoss(model, family_of(model))
    batch = replace(one_row([[5] * len(POSITIONS)]), position_ids=torch.tensor([POSITIONS]))
    precision = choose_precision("mixed" if mode == "mixed" else "fp32", "cpu")
    with rotary_outputs(model) as seen, precision.context("cpu"), torch.no_grad():
        loss.hidden(batch)
    assert seen
    tables = [frequency.double() for name, frequency in wanted.items() if "original" not in name]
    for module, (cos, sin) in seen:
        scale = getattr(module, "attention_scaling", 1.0)
        worst = min(_worst(cos, sin, table, scale) for table in tables)  # gemma3 has two tables and says which by layer
        assert worst < 0.01


def _worst(cos: Tensor, sin: Tensor, frequency: Tensor, scale: float) -> float:
    angle = torch.tensor(POSITIONS).double()[:, None] * frequency
    half = cos.shape[-1] // 2
    if half != len(frequency):
        return float("inf")
    return max(float((got[0, :, :half].double() - want * scale).abs().max()) for got, want in ((cos, angle.cos()), (sin, angle.sin())))


def test_frequencies_are_powers_of_the_base_and_bf16_would_be_far_off(tmp_path, tiny_model):
    """The oracle is the formula itself; and the test above can fail: rounded frequencies move cosines by more than 1."""
    tiny_model("llama", **LONG, rope_parameters=PLAIN).save_pretrained(tmp_path)
    found = next(iter(frequencies(loaded(tmp_path, "bf16")).values()))
    exact = 10_000.0 ** (-torch.arange(0, 16, 2).double() / 16)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)
    cos, sin = ((torch.tensor(POSITIONS)[:, None] * found).cos()[None].repeat(1, 1, 2) for _ in range(2))
    rounded = exact.to(torch.bfloat16).double()
    assert _worst(cos, sin, rounded, 1.0) > 1
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).to(torch.bfloat16)
    assert next(iter(frequencies(plain).values())).dtype == torch.bfloat16  # what must not happen to ours

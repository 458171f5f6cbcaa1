"""Which precision is chosen, and the recipe's choice of a base."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from rewarm.errors import UserError
from rewarm.model.precision import choose_precision, cpu_has_bf16
from rewarm.model.recipe import ModelRecipe


@pytest.mark.parametrize("limit", ["avx2", "default", "AVX2"])
def test_a_cpu_limited_to_avx2_counts_as_one(monkeypatch, limit):
    """It is how a slow machine is tried out on a fast one."""
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", limit)
    assert not cpu_has_bf16()[0]
    chosen = choose_precision("auto", "cpu")
    assert chosen.mode == "fp32" and chosen.compute == torch.float32 and "ATEN_CPU_CAPABILITY" in chosen.why


@pytest.mark.parametrize(("found", "mode"), [({"avx512_bf16": True}, "mixed"), ({"amx_bf16": True}, "mixed"), ({"avx2": True}, "fp32")])
def test_auto_follows_the_instructions_of_the_cpu(monkeypatch, found, mode):
    """Emulated bf16 is slower than fp32."""
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert choose_precision("auto", "cpu").mode == mode


def test_the_recipes_word_is_taken(monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert choose_precision("mixed", "cpu").compute == torch.bfloat16
    assert choose_precision("fp32", "cpu").mode == choose_precision("fp32", "cuda").mode == "fp32"


@pytest.mark.parametrize(("has", "want", "mode"), [(True, "auto", "mixed"), (True, "mixed", "mixed"), (False, "auto", "fp32")])
def test_a_gpu_computes_in_bf16_if_it_can(monkeypatch, has, want, mode):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has)
    assert choose_precision(want, "cuda").mode == mode


def test_a_gpu_that_cannot_is_an_error_only_if_it_was_asked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    with pytest.raises(UserError, match="no bf16"):
        choose_precision("mixed", "cuda")


def test_mixed_keeps_the_weights_and_their_gradients_in_fp32():
    layer = torch.nn.Linear(4, 4)
    with choose_precision("mixed", "cpu").context("cpu"):
        out = layer(torch.ones(2, 4))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert layer.weight.dtype == layer.weight.grad.dtype == torch.float32
    with choose_precision("fp32", "cpu").context("cpu"):
        assert layer(torch.ones(2, 4)).dtype == torch.float32


def test_a_recipe_names_exactly_one_base():
    assert ModelRecipe(base="somebody/model").gguf is None and ModelRecipe(gguf="model.gguf").base is None
    for wrong in ({}, {"base": "a", "gguf": "b"}):
        with pytest.raises(ValidationError, match="exactly one"):
            ModelRecipe(**wrong)
    with pytest.raises(ValidationError):
        ModelRecipe(base="")

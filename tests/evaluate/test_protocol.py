"""One protocol for all that is compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from rewarm.errors import UserError
from rewarm.evaluate.documents import Documents, TextRef
from rewarm.evaluate.encode import Encoder
from rewarm.evaluate.measure import Measurement
from rewarm.evaluate.protocol import Protocol, choose_dtype, choose_prefix, max_bytes
from rewarm.evaluate.recipe import EvaluateRecipe
from rewarm.progress import Silent

SOME = Documents(("a",), ("text " * 100,))


def never(prefix: str | None, openings: object) -> float:
    raise AssertionError("nothing had to be tried")


def test_a_protocols_hash_is_of_all_it_says():
    base = Protocol(4096, 2048, "<s>", "fp32")
    others = [Protocol(2048, 1024, "<s>", "fp32"), Protocol(4096, 2048, None, "fp32"), Protocol(4096, 2048, "<s>", "bf16")]
    assert len({one.hash for one in [base, *others]}) == 4 and base.hash == Protocol(4096, 2048, "<s>", "fp32").hash


def test_a_prefix_that_is_set_is_taken_or_refused(make_model: Callable[..., Path]):
    encoder = Encoder(make_model())
    assert choose_prefix("none", encoder, SOME, never) == (None, {})
    assert choose_prefix("eos", encoder, SOME, never) == ("<|endoftext|>", {})
    assert choose_prefix("<|endoftext|>", encoder, SOME, never) == ("<|endoftext|>", {})
    with pytest.raises(UserError, match="no bos token"):
        choose_prefix("bos", encoder, SOME, never)
    with pytest.raises(UserError, match="no token `<x>`"):
        choose_prefix("<x>", encoder, SOME, never)


def test_auto_takes_the_best_of_the_bases_own_tokens(make_model: Callable[..., Path], make_tokenizer: Callable[..., object]):
    """The prefix moves bits per byte by more than a budget, so it is measured, on little text, and all values are kept."""
    tokenizer = make_tokenizer(specials=("<|endoftext|>", "<s>"))
    encoder = Encoder(make_model(tokenizer=tokenizer))
    asked: list[tuple[str | None, int]] = []

    def trial(prefix, openings):
        asked.append((prefix, sum(map(len, openings))))
        return {"<|endoftext|>": 1.08, "<s>": 1.07, None: 1.2}[prefix]

    many = Documents(tuple(map(str, range(100))), tuple("text " * 100 for _ in range(100)))
    assert choose_prefix("auto", encoder, many, trial) == ("<s>", {"<|endoftext|>": 1.08, "<s>": 1.07, "none": 1.2})
    assert all(size <= 4096 for _, size in asked)


def test_auto_takes_what_the_tokenizer_prepends(make_model: Callable[..., Path], make_tokenizer: Callable[..., object]):
    tokenizer = make_tokenizer(specials=("<|endoftext|>", "<s>"))
    encoder = Encoder(make_model(tokenizer=tokenizer, settings={"bos_token": "<s>", "add_bos_token": True}))
    assert choose_prefix("auto", encoder, SOME, never) == ("<s>", {})


def test_the_prefix_is_the_same_on_either_half(
    make_model: Callable[..., Path], make_tokenizer: Callable[..., object], write_text: Callable[..., Path], documents, tmp_path: Path
):
    """The base on the control half and on the verify half are one measurement: they may not get two prefixes. Chosen once, then found."""
    folder = make_model(tokenizer=make_tokenizer(specials=("<|endoftext|>", "<s>")))
    path = write_text("en.jsonl", documents(30))
    found = []
    for i, half in enumerate(("control", "verify")):
        reporter = Silent()
        text = TextRef("en", "old", path, half)
        cache = tmp_path / "cache"
        measure = Measurement(EvaluateRecipe(window=64, stride=32), folder, [], [text], tmp_path / half, reporter, cache=cache)
        found.append((measure.protocol, measure.tried))
        assert len(reporter.lines) == (3 if i == 0 else 0)
    assert found[0] == found[1] and len(found[0][1]) == 3
    assert found[0][0].prefix in (min(found[0][1], key=found[0][1].get), None)


def test_recipe_fields_change_the_protocol_and_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch):
    cpu = torch.device("cpu")
    assert max_bytes(EvaluateRecipe(), cpu) == 200_000 and max_bytes(EvaluateRecipe(max_mb=0.04), cpu) == 40_000
    assert choose_dtype("bf16", cpu) == "bf16"
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert choose_dtype("auto", cpu) == "fp32"
    with pytest.raises(ValidationError, match="stride"):
        EvaluateRecipe(window=100, stride=101)
    with pytest.raises(ValidationError):
        EvaluateRecipe(windows=4)  # type: ignore[call-arg]


def test_bf16_and_fp32_agree_on_a_difference(make_model: Callable[..., Path], write_text, documents, tmp_path: Path):
    """Within 0.1 % of bits per byte: a type that moves the difference more would decide about a budget."""
    from rewarm.evaluate.stage import evaluate_models

    base, other = make_model("base"), make_model("other")
    model = AutoModelForCausalLM.from_pretrained(other)
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.03 * torch.randn_like(parameter)
    model.save_pretrained(other)
    text = [TextRef("en", "old", write_text("en.jsonl", documents(20)))]
    delta = {}
    for dtype in ("fp32", "bf16"):
        cfg = EvaluateRecipe(prefix="eos", dtype=dtype, samples=0)
        bits = evaluate_models(other, base, text, cfg=cfg, cache=tmp_path / "cache")["texts"]["en"]["bits_per_byte"]
        delta[dtype] = bits["delta"] / bits["before"]
    assert delta["bf16"] != delta["fp32"] and delta["bf16"] == pytest.approx(delta["fp32"], abs=1e-3)

"""Probes of a model in training: right numbers, no trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rewarm.errors import UserError
from rewarm.evaluate.documents import TextRef
from rewarm.evaluate.probe import Probe
from rewarm.evaluate.recipe import EvaluateRecipe
from rewarm.evaluate.stage import evaluate_models
from rewarm.model.attention import stock_attention
from rewarm.model.load import load_base
from rewarm.progress import Silent

CFG = EvaluateRecipe(window=64, stride=32, prefix="<|endoftext|>", dtype="fp32", samples=0)


@pytest.fixture
def probe(make_model: Callable[..., Path], write_text: Callable[..., Path], documents, tmp_path: Path) -> tuple[Probe, Path, list[TextRef]]:
    folder = make_model("base")
    texts = [TextRef("en", "old", write_text("en.jsonl", documents(24, 0))), TextRef("vi", "new", write_text("vi.jsonl", documents(24, 1)))]
    made = Probe(CFG, folder, folder, texts, tmp_path / "probe", Silent(), bytes=100_000, cache=tmp_path / "cache")
    return made, folder, texts


def test_a_probe_says_what_the_evaluation_says(probe, tmp_path: Path):
    """The curve of a run must end where its report begins: same windows, same prefix, same documents."""
    made, folder, texts = probe
    found = made(load_base(folder).model)
    whole = evaluate_models(folder, None, texts, cfg=CFG, cache=tmp_path / "cache")
    for name in ("en", "vi"):
        assert found[name]["bits_per_byte"] == pytest.approx(whole["texts"][name]["bits_per_byte"]["after"], abs=1e-6)
    assert found["en"]["delta"] == pytest.approx(0, abs=1e-6) and abs(found["en"]["high"]) < 1e-5 and "delta" not in found["vi"]


def test_a_run_with_probes_has_the_weights_of_one_without(probe):
    """Bit by bit, also with the optimiser's state and the random numbers that follow."""
    made, folder, _ = probe

    def run(probed: bool) -> list[torch.Tensor]:
        torch.manual_seed(3)
        model = load_base(folder).model
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        ids = torch.randint(0, 300, (2, 24))
        for _ in range(3):
            if probed:
                made(model)
            with stock_attention(model):
                model(ids, labels=ids).loss.backward()
            if probed:
                made(model)
            optimizer.step()
            optimizer.zero_grad()
        return [*(p.detach() for p in model.parameters()), torch.rand(3)]

    for a, b in zip(run(False), run(True), strict=True):
        assert torch.equal(a, b)


def test_a_small_probe_reads_little_and_can_leave_the_base_alone(probe, tmp_path: Path):
    """On a CPU a probe may cost seconds: a few kilobytes, and no scoring of the base unless it is asked for."""
    _, folder, texts = probe
    small = Probe(CFG, folder, folder, texts, tmp_path / "small", Silent(), bytes=500, paired=False, cache=tmp_path / "cache-2")
    found = small(load_base(folder).model)
    assert all(documents.bytes <= 500 for documents in small.documents.values())
    assert set(found["en"]) == {"bits_per_byte", "documents"} and not (tmp_path / "small" / "scores").exists()
    assert 0 < small.tokens < 800


def test_text_that_the_base_cannot_read_stops_a_run_before_training(
    make_model: Callable[..., Path], make_tokenizer: Callable[..., object], write_text, documents, tmp_path: Path
):
    """After hours of training it would be too late to hear that nothing can be compared."""
    letters = make_tokenizer().encode("Ω").tokens
    base = make_model("base", tokenizer=make_tokenizer(without=letters[0]))
    path = write_text("el.jsonl", [f"{'x' * 50} {i} " + ("Ω" if i % 4 == 0 else "O") for i in range(40)])
    with pytest.raises(UserError, match=r"10 of 40 documents .* cannot be represented"):
        Probe(CFG, base, make_model("model"), [TextRef("el", "new", path)], tmp_path / "p", Silent(), bytes=60, cache=tmp_path / "cache")

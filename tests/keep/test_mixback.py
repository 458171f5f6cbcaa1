"""Mixing back: the line between two models, and the rule that picks a point on it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from rewarm.errors import UserError
from rewarm.keep.mixback import CANDIDATES, Scored, choose_alpha, mix, mixback_stage, write_mixed
from rewarm.keep.recipe import KeepRecipe
from rewarm.progress import Silent


def folder(path, seed, dtype=torch.float32, files=1, rows=8):
    """A model's folder of four tensors in one or two files."""
    path.mkdir()
    g = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(rows, 3, generator=g).to(dtype) for name in "abcd"}
    tensors["a"][0, 0] = -0.0
    names = list("abcd")
    for i in range(files):
        part = {n: tensors[n] for n in names[i::files]}
        save_file(part, path / (f"model-{i}.safetensors" if files > 1 else "model.safetensors"), metadata={"format": "pt"})
    if files > 1:
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": {}}))
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "torch_dtype": "float32"}))
    (path / "tokenizer.json").write_text("{}")
    return path


def tensors(path):
    out = {}
    for file in path.glob("*.safetensors"):
        out |= load_file(file)
    return out


def bits(tensor):
    return tensor.contiguous().view(torch.int16 if tensor.dtype == torch.bfloat16 else torch.int32)


@given(st.integers(0, 2**32 - 1))
def test_alpha_one_is_the_end_and_zero_the_start_bit_for_bit(seed):
    """The formula alone rounds: start + 1 * (end - start) is not the end when the two differ by much."""
    rng = np.random.default_rng(seed)
    start, end = (rng.standard_normal(50).astype(np.float32) * np.float32(10.0) ** rng.integers(-8, 8, 50) for _ in range(2))
    assert mix(start, end, 1.0).tobytes() == end.tobytes()
    assert mix(start, end, 0.0).tobytes() == start.tobytes()
    assert np.allclose(mix(start, end, 0.25), 0.75 * start.astype(np.float64) + 0.25 * end, rtol=1e-5, atol=1e-6 * np.abs(end).max())


@pytest.mark.parametrize("files", [1, 2])
def test_the_folder_holds_the_mix_in_bf16_and_the_ends_files(tmp_path, files):
    """Mixed in fp32 and rounded once; a bf16 start is read exactly; config and index tell the truth about the new type."""
    start, end = folder(tmp_path / "start", 1, torch.bfloat16), folder(tmp_path / "end", 2, files=files)
    a, b = tensors(start), tensors(end)
    for alpha in (0.0, 0.8, 1.0):
        write_mixed(start, end, alpha, tmp_path / "out")
        got = tensors(tmp_path / "out")
        for name in "abcd":
            exact = {0.0: a[name], 1.0: b[name].bfloat16()}.get(alpha, (a[name].float() + alpha * (b[name] - a[name].float())).bfloat16())
            assert torch.equal(bits(got[name]), bits(exact)), (name, alpha)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    if files == 2:
        assert json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["metadata"]["total_size"] == 4 * 8 * 3 * 2


def test_models_of_other_shapes_are_refused_with_the_tensors_name(tmp_path):
    """Mixing a base with an extended model would need rows that one of them does not have."""
    with pytest.raises(UserError, match="tensor `a` is"):
        write_mixed(folder(tmp_path / "start", 1, rows=4), folder(tmp_path / "end", 2), 0.5, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def table(losses):
    """A score function over {alpha: {text: F}} that remembers what it was asked."""
    asked = []

    def score(alpha):
        asked.append(alpha)
        return Scored(alpha, losses[alpha], {"vi": 1.0 + (1 - alpha)})

    return score, asked


def test_the_largest_alpha_that_keeps_every_old_text_is_taken_and_no_more_are_scored():
    """Each score costs as much as a minute of training in the demo."""
    score, asked = table({1.0: {"en": -0.01, "code": 0.0}, 0.9: {}, 0.8: {}})
    assert (choose_alpha(CANDIDATES, score).alpha, asked) == (1.0, [1.0])
    score, asked = table({1.0: {"en": 0.01, "code": -0.2}, 0.9: {"en": -0.001, "code": -0.1}, 0.8: {}})
    choice = choose_alpha((0.8, 1.0, 0.9), score)
    assert (choice.alpha, choice.passed, asked) == (0.9, True, [1.0, 0.9])
    assert [s.alpha for s in choice.scored] == [1.0, 0.9]


def test_a_budget_lets_a_text_lose_that_much_and_the_others_nothing():
    """Budgets hold for the texts they name."""
    score, _ = table({1.0: {"en": 0.015, "code": 0.0}, 0.9: {"en": 0.0, "code": 0.0}, 0.8: {"en": 0.0, "code": 0.0}})
    assert choose_alpha(CANDIDATES, score, {"en": 0.02}).alpha == 1.0
    assert choose_alpha(CANDIDATES, score, {"code": 0.02}).alpha == 0.9


def test_if_none_passes_the_smallest_is_taken_and_says_so():
    """Never silently over: the text that lost most and by how much."""
    score, asked = table({1.0: {"en": 0.05}, 0.9: {"en": 0.03}, 0.8: {"en": 0.02}})
    choice = choose_alpha(CANDIDATES, score)
    assert (choice.alpha, choice.passed, asked) == (0.8, False, [1.0, 0.9, 0.8])
    assert "en lost +0.0200" in choice.reason


def test_a_score_that_is_not_a_number_does_not_pass():
    """NaN <= 0 is false: a broken measurement never lets a model through."""
    score, _ = table({1.0: {"en": float("nan")}, 0.9: {"en": -1.0}, 0.8: {}})
    assert choose_alpha(CANDIDATES, score).alpha == 0.9


@given(st.dictionaries(st.sampled_from(CANDIDATES), st.floats(-1, 1), min_size=3))
def test_the_choice_is_the_definition(lost):
    """Against the sentence in the docstring, written the other way round."""
    choice = choose_alpha(CANDIDATES, lambda alpha: Scored(alpha, {"en": lost[alpha]}, {}))
    passing = [alpha for alpha in CANDIDATES if lost[alpha] <= 0]
    assert choice.alpha == (max(passing) if passing else min(CANDIDATES)) and choice.passed == bool(passing)


def measure_like(f_at_one):
    """Old text forgotten in proportion to the distance from the start, read from the written weights themselves."""
    seen = []

    def measure(path):
        seen.append(path)
        distance = float(tensors(path)["b"].float().mean())
        return {
            "en": {"role": "old", "bits_per_byte": 1.0 + f_at_one(len(seen)), "base": 1.0},
            "vi": {"role": "new", "bits_per_byte": 2.0 + distance, "base": 3.0},
        }

    return measure, seen


def test_the_stage_writes_the_chosen_model_and_the_curve(tmp_path):
    """The folder holds the alpha that `mixback.json` names; a second call does nothing."""
    start, end = folder(tmp_path / "start", 1), folder(tmp_path / "end", 2)
    measure, seen = measure_like(lambda n: 0.01 if n == 1 else -0.01)
    result = mixback_stage(KeepRecipe(), start, end, measure, tmp_path / "out", Silent())
    assert result["alpha"] == 0.9 and result["passed"] is True
    assert [s["alpha"] for s in result["scored"]] == [1.0, 0.9] and result["scored"][0]["forgotten"]["en"] == pytest.approx(0.01)
    write_mixed(start, end, 0.9, tmp_path / "again")
    assert all(torch.equal(x, y) for x, y in zip(tensors(tmp_path / "out" / "model").values(), tensors(tmp_path / "again").values()))
    assert json.loads((tmp_path / "out" / "mixback.json").read_text()) == result
    assert mixback_stage(KeepRecipe(), start, end, measure, tmp_path / "out", Silent()) == result and len(seen) == 2


@pytest.mark.parametrize(("value", "alpha"), [("off", 1.0), (0.7, 0.7), (1.0, 1.0)])
def test_a_set_alpha_is_taken_without_scoring(tmp_path, value, alpha):
    """A number is an order, not a question."""
    measure, seen = measure_like(lambda n: 1.0)
    result = mixback_stage(
        KeepRecipe(mixback=value), folder(tmp_path / "start", 1), folder(tmp_path / "end", 2), measure, tmp_path / "out", Silent()
    )
    assert result["alpha"] == alpha and seen == [] and result["scored"] == []


def test_without_old_text_nothing_is_mixed_back_and_it_says_why(tmp_path):
    """A smaller alpha would cost new knowledge for a gain that nobody can see."""
    start, end = folder(tmp_path / "start", 1), folder(tmp_path / "end", 2)
    only_new = {"vi": {"role": "new", "bits_per_byte": 1.0, "base": 2.0}}
    result = mixback_stage(KeepRecipe(), start, end, lambda path: only_new, tmp_path / "out", Silent())
    assert result["alpha"] == 1.0 and "no old text" in result["reason"] and result["scored"][0]["new"] == {"vi": 1.0}
    nothing = mixback_stage(KeepRecipe(), start, end, None, tmp_path / "none", Silent())
    assert nothing["alpha"] == 1.0 and "nothing is held out" in nothing["reason"]


def test_when_none_passes_the_run_is_warned(tmp_path):
    """The verdict must not be missed; the smallest candidate's model is what is written."""
    start, end, reporter = folder(tmp_path / "start", 1), folder(tmp_path / "end", 2), Silent()
    measure, _ = measure_like(lambda n: 0.1 / n)
    result = mixback_stage(KeepRecipe(), start, end, measure, tmp_path / "out", reporter)
    assert result["alpha"] == 0.8 and result["passed"] is False and "en lost" in reporter.warnings[0]


@pytest.mark.parametrize("value", [0.0, 1.5, -0.1, "on"])
def test_an_alpha_outside_0_to_1_is_refused(value):
    """0 would hand back the untrained model."""
    with pytest.raises(ValidationError):
        KeepRecipe(mixback=value)

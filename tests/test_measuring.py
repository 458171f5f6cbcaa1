"""`rewarm plan`'s short measurement: real steps on the text's first megabytes, and what follows from them for the whole run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rewarm.errors import UserError
from rewarm.forecast import EXPORT_SECONDS, MIXED, TextSize, forecast
from rewarm.measuring import Measured, SampleText, _measure, measure
from rewarm.model.load import load_base
from rewarm.planning import Lengths
from rewarm.recipe import load_recipe
from rewarm.train import rehearsal
from rewarm.train.rehearsal import grown

from .test_commands import ENGLISH, VIETNAMESE, documents, write_base

MEASURED = Measured(3.0, 2.0, 1e-6, {"new": 1.0, "replay": 0.25}, 0.01, 4.0, 2, "fp32")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    write_base(folder / "base", documents(ENGLISH, 100_000, 1))
    (folder / "recipe.yaml").write_text(
        "model: {base: base}\ncorpus: {sources: [{name: vi, paths: [a.txt], role: new}, {name: en, paths: [b.txt], role: replay}]}\n"
        "tokens: {row_tokens: 64}\nmixture: {replay: 0.25}\n"
        "vocab: {extend: false}\ntrain: {tokens: 20480, step_tokens: 1024, micro_rows: 2, lr: 1e-3, device: cpu, precision: fp32}\n"
    )
    return SimpleNamespace(loaded=load_recipe(folder / "recipe.yaml", []), base=folder / "base")


def samples() -> list[SampleText]:
    return [SampleText("vi", "new", documents(VIETNAMESE, 60_000, 2)), SampleText("en", "replay", documents(ENGLISH, 60_000, 3))]


def test_the_measurement_takes_real_steps_and_leaves_the_base_as_it_is(recipe):
    before = (recipe.base / "model.safetensors").read_bytes()
    found = measure(recipe.loaded.recipe, recipe.base, 40, samples(), Lengths(1024, 16, 20, 20480), 0.25)
    assert found.step > 0 and found.start > 0 and found.encode > 0 and found.score_token > 0
    assert found.micro_rows == 2 and found.precision == "fp32" and 0.1 < found.memory_gib < 8
    assert set(found.score_tokens) == {"new", "replay"} and found.score_tokens["new"] > found.score_tokens["replay"]
    assert (recipe.base / "model.safetensors").read_bytes() == before


def test_what_training_would_refuse_is_refused_by_the_plan(recipe):
    """A measurement that hides the error would promise a run that cannot begin."""
    asked = recipe.loaded.recipe.model_copy(update={"train": recipe.loaded.recipe.train.model_copy(update={"device": "cuda"})})
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="GPU"):
        measure(asked, recipe.base, 0, samples(), Lengths(1024, 16, 20, 20480), 0.25)


def test_a_step_of_many_micro_batches_is_timed_by_a_few(recipe, monkeypatch):
    """8 micro-batches are not done, but counted: seconds are a straight line in their number."""
    rows_seen = []

    def steps(engine, context, batch, rows):
        rows_seen.append(rows)
        return 0.5 + 0.25 * rows / engine.micro_rows

    monkeypatch.setattr(rehearsal, "_steps", steps)
    found = _measure(recipe.loaded.recipe, recipe.base, 0, samples(), Lengths(1024, 16, 20, 20480), 0.25)
    assert rows_seen == [2, 8] and found.step == pytest.approx(0.5 + 0.25 * 8)


def test_rows_of_a_timed_step_are_spread_over_the_step(recipe):
    """The first rows alone could be all of one source, and a method may work on one source only."""
    seen = []
    batch = SimpleNamespace(**{name: np.arange(16)[:, None] for name in ("ids", "position_ids", "labels", "piece")})
    batch.source, batch.bytes, batch.weight = np.arange(16), np.arange(16), None
    engine = SimpleNamespace(batch_of=None, kernels=SimpleNamespace(device=torch.device("cpu")))
    engine.step = lambda context: seen.append(engine.batch_of(0).source.tolist())
    rehearsal._steps(engine, None, batch, 4)
    assert seen == [[0, 5, 10, 15]] * rehearsal.REPEATS and engine.batch_of is None


def test_a_grown_base_has_more_rows_and_the_old_ones_unmoved(recipe):
    weights = load_file(recipe.base / "model.safetensors")["model.embed_tokens.weight"]
    base = grown(load_base(recipe.base), 24)
    assert base.family.rows == len(weights) + 24 and base.family.tied
    assert torch.equal(base.family.embedding.weight[: len(weights)], weights)
    assert grown(base, 0) is base


def test_the_forecast_adds_up_what_a_run_does():
    """Every pass over held-out text is counted: choosing the mixture, then base, extended and final model."""
    texts = [TextSize("new", 6_000_000, 100, 200), TextSize("replay", 0, 100, 200)]
    settings = {"convert": 5.0, "extend": True, "shorter": 0.5, "mixback": True, "max_minutes": None, "probe": 50, "probes": 2}
    ahead = forecast(MEASURED, 10, texts, **settings)
    new, old, after = 0.01, 0.0025, 0.005
    assert ahead.stages["train"] == pytest.approx(3 + 10 * 2 + 2 * (50 * after + 50 * old))
    assert ahead.stages["mixback"] == pytest.approx(100 * old + MIXED * 100 * (after + old))
    assert ahead.stages["evaluate"] == pytest.approx(200 * (new + old) + 2 * 200 * (after + old))
    assert ahead.stages["base"] == 5 and ahead.stages["export"] == EXPORT_SECONDS and ahead.stages["tokens"] == pytest.approx(6)
    assert ahead.total == pytest.approx(sum(ahead.stages.values()))
    plain = forecast(MEASURED, 10, texts, **{**settings, "extend": False, "shorter": 1.0, "mixback": False, "max_minutes": 2.0})
    assert "vocab" not in plain.stages and "mixback" not in plain.stages and plain.stages["train"] == 120


def test_the_plan_of_a_recipe_prints_time_and_memory(recipe, tmp_path):
    from rewarm.console import Console
    from rewarm.plan import plan_recipe

    root = recipe.loaded.root
    Path(root / "a.txt").write_text("\n\n".join(documents(VIETNAMESE, 80_000, 4)))
    Path(root / "b.txt").write_text("\n\n".join(documents(ENGLISH, 80_000, 5)))
    plan = plan_recipe(recipe.loaded, Console(), measured=True)
    assert plan.measured is not None and plan.forecast is not None
    assert plan.forecast.stages["train"] >= 20 * plan.measured.step and json.dumps(plan.forecast.stages)
    assert plan_recipe(recipe.loaded, Console(), measured=False).measured is None


def test_new_tokens_make_the_planned_run_shorter(recipe):
    """One epoch is counted in the tokens that training will read, not in the base's."""
    from rewarm.console import Console
    from rewarm.plan import plan_recipe

    root = recipe.loaded.root
    Path(root / "a.txt").write_text("\n\n".join(documents(VIETNAMESE, 300_000, 4)))
    Path(root / "b.txt").write_text("\n\n".join(documents(ENGLISH, 1_200_000, 5)))
    loaded = load_recipe(root / "recipe.yaml", ["train.tokens=auto", "vocab.extend=true", "vocab.size=60"])
    quick, plan = (plan_recipe(loaded, Console(), measured=measured) for measured in (False, True))
    assert plan.longer.new == 60 and plan.longer.shorter < 0.8 and quick.longer.new == 0
    assert plan.lengths.planned_tokens == pytest.approx(quick.lengths.planned_tokens * plan.longer.shorter, rel=0.05)
    assert any("will need fewer" in note for note in quick.notes) and not any("will need fewer" in note for note in plan.notes)


def test_rows_as_long_as_the_asked_context_are_not_warned_of(recipe):
    """`model.rope` gives the model these positions, so that the base has fewer is no news."""
    from rewarm.console import Console
    from rewarm.plan import plan_recipe

    root = recipe.loaded.root
    Path(root / "a.txt").write_text("\n\n".join(documents(VIETNAMESE, 80_000, 4)))
    Path(root / "b.txt").write_text("\n\n".join(documents(ENGLISH, 80_000, 5)))
    long = ["tokens.row_tokens=512", "train.step_tokens=1024"]
    plain, longer, short = (
        plan_recipe(load_recipe(root / "recipe.yaml", [*long, *more]), Console(), measured=False)
        for more in ([], ["model.rope={context: 512, type: theta}"], ["model.rope={context: 300, type: theta}"])
    )
    warned = [any("rows of 512 are longer" in note for note in plan.notes) for plan in (plain, longer, short)]
    assert warned == [True, False, True]

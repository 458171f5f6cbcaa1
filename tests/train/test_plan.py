"""Minutes to steps, probes and micro-batches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rewarm.errors import UserError
from rewarm.train import plan
from rewarm.train.plan import Timing
from rewarm.train.recipe import TrainRecipe


@given(
    minutes=st.floats(0.5, 600),
    step=st.floats(0.01, 20),
    probe=st.floats(0, 10),
    before=st.floats(0, 10),
    every=st.one_of(st.sampled_from(["auto", "off"]), st.integers(1, 50)),
)
def test_the_planned_steps_probes_and_saving_fit_into_the_minutes(minutes, step, probe, before, every):
    """The promise of `max_minutes`: everything inside, 3 % in reserve, and less than a step and a probe wasted."""
    cfg = TrainRecipe(max_minutes=minutes, probe_every=every)
    timing = Timing(step, probe, before, 2.0)
    try:
        steps, interval = plan.steps_for_minutes(cfg, timing)
    except UserError:
        return
    between = 0 if interval is None else (steps - 1) // interval
    last = 0 if interval is None else 1
    spent = before + 2.0 + steps * step + (between + last) * probe
    assert spent <= minutes * 60 * 0.97 + 1e-6
    if every == "off":
        assert spent + step > minutes * 60 * 0.97 - 1e-6


def test_minutes_too_short_for_one_step_say_how_many_are_needed():
    """The fix is a number that works."""
    with pytest.raises(UserError) as caught:
        plan.steps_for_minutes(TrainRecipe(max_minutes=0.1), Timing(10, 5, 20, 2))
    assert caught.value.fix is not None and "0.7" in caught.value.fix
    assert plan.steps_for_minutes(TrainRecipe(max_minutes=0.7), Timing(10, 5, 20, 2))[0] >= 1


def test_probes_cost_three_percent_or_less():
    """1,000 s of training and probes of 10 s: three between the first and the last."""
    cfg = TrainRecipe()
    assert plan.probe_interval(cfg, 100, Timing(10, 10, 0, 0)) == 25
    assert plan.probe_interval(cfg, 30, Timing(10, 60, 0, 0)) == 30
    assert plan.probe_interval(TrainRecipe(probe_every=7), 30, Timing(10, 60, 0, 0)) == 7
    assert plan.probe_interval(TrainRecipe(probe_every="off"), 30, Timing(10, 60, 0, 0)) is None


def test_micro_batches_are_bounded_and_waste_little():
    """Ten rows on a CPU: of 256 tokens two at once; of 128 also two, as three of four would fill up two rows for nothing."""
    auto = TrainRecipe()
    assert plan.micro_rows_at_most(auto, 4, 256, "cpu") == 2
    assert plan.micro_rows_at_most(auto, 10, 256, "cpu") == plan.micro_rows_at_most(auto, 10, 128, "cpu") == 2
    assert plan.micro_rows_at_most(auto, 1, 4096, "cpu") == 1 and plan.micro_rows_at_most(auto, 5, 128, "cpu") == 3
    assert plan.micro_rows_at_most(auto, 256, 2048, "cuda") == 32
    assert plan.micro_rows_at_most(TrainRecipe(micro_rows=3), 10, 256, "cpu") == 3
    assert plan.micro_rows_at_most(TrainRecipe(micro_rows=30), 10, 256, "cpu") == 10


def test_tokens_and_minutes_exclude_each_other():
    """Two lengths would need a rule that nobody remembers."""
    with pytest.raises(ValidationError, match="leave one of them out"):
        TrainRecipe(tokens=5, max_minutes=1)

"""The rate is a pure function of the step."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm.train.recipe import TrainRecipe
from rewarm.train.schedule import auto_lr, lr_factor, warmup_steps

recipes = st.builds(
    TrainRecipe,
    schedule=st.sampled_from(["cosine", "linear", "constant"]),
    warmup_share=st.floats(0, 0.5),
    min_ratio=st.floats(0, 1),
)
lengths = st.integers(1, 400)


def rates(cfg: TrainRecipe, steps: int) -> list[float]:
    return [lr_factor(step, cfg, steps) for step in range(steps)]


@given(recipes, lengths)
def test_the_rate_rises_to_one_peak_and_falls_to_its_floor(cfg, steps):
    """Two peaks would re-warm the model twice, and each costs old knowledge."""
    f = rates(cfg, steps)
    top = max(f)
    peak = f.index(top)
    assert top == pytest.approx(1.0) or cfg.warmup_share == 0
    assert all(a <= b for a, b in pairwise(f[: peak + 1]))
    assert all(a >= b - 1e-12 for a, b in pairwise(f[peak:]))
    assert all(0 < x <= 1 for x in f[:-1]) and min(f) >= 0


@given(recipes, st.integers(20, 400))
def test_the_rate_is_continuous_at_its_joints(cfg, steps):
    """No step differs from the one before by more than the schedule's own slope."""
    f = rates(cfg, steps)
    warm = warmup_steps(cfg, steps)
    slope = max(1 / warm if warm else 0.0, 3.2 / 2 / (steps - warm))
    assert all(abs(a - b) <= slope + 1e-9 for a, b in pairwise(f))


@given(recipes, lengths, st.data())
def test_a_resumed_run_reads_the_same_rates(cfg, steps, data):
    """Resume is a lookup: the list from step k on is the tail of the whole list."""
    k = data.draw(st.integers(0, steps - 1))
    assert [lr_factor(step, cfg, steps) for step in range(k, steps)] == rates(cfg, steps)[k:]


def test_the_cosine_ends_just_above_its_floor_and_is_halfway_in_the_middle():
    """Against numbers worked out by hand: 101 steps, one of warm-up, so step 51 is the middle of the fall."""
    cfg = TrainRecipe()
    assert lr_factor(0, cfg, 101) == 1.0
    assert lr_factor(51, cfg, 101) == pytest.approx(0.55)
    assert 0.1 < lr_factor(100, cfg, 101) < 0.101


def test_larger_models_get_smaller_rates():
    """The table, with the demo's model on its first line."""
    assert auto_lr(135_000_000) == 6e-4
    assert [auto_lr(int(n)) for n in (3e8, 1e9, 3e9, 7e9, 7e10)] == [3e-4, 1e-4, 5e-5, 3e-5, 2e-5]

"""The rate is a pure function of the step."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rewarm.train.recipe import SCHEDULE_FIELDS, TrainRecipe
from rewarm.train.schedule import auto_lr, lr_factor, phases, pre_anneal_step, warmup_steps

WITH_ANNEAL = ("infinite", "wsd")


@st.composite
def recipes(draw, schedules=tuple(SCHEDULE_FIELDS)):
    """Any schedule with any fields that it has."""
    schedule = draw(st.sampled_from(schedules))
    warmup, cooldown = draw(st.floats(0, 0.5)), draw(st.floats(0.05, 0.3))
    plateau = draw(st.floats(0.05, 1))
    fields = {
        "warmup_share": warmup,
        "cooldown_share": cooldown,
        "anneal_share": draw(st.floats(0.01, 1 - warmup - cooldown)) if warmup + cooldown < 0.98 else "auto",
        "plateau_ratio": plateau,
        "min_ratio": draw(st.floats(0.01, plateau) if schedule == "infinite" else st.floats(0, 1)),
        "anneal": draw(st.sampled_from(["1-sqrt", "linear"])),
    }
    return TrainRecipe(schedule=schedule, **{name: fields[name] for name in SCHEDULE_FIELDS[schedule]})


lengths = st.integers(1, 200)


def rates(cfg: TrainRecipe, steps: int) -> list[float]:
    return [lr_factor(step, cfg, steps) for step in range(steps)]


@given(recipes(), lengths)
def test_the_rate_rises_to_one_peak_and_falls_to_its_floor(cfg, steps):
    """Two peaks would re-warm the model twice, and each costs old knowledge."""
    f = rates(cfg, steps)
    top = max(f)
    peak = f.index(top)
    assert top == pytest.approx(1.0) or (steps <= 2 and cfg.schedule == "infinite") or cfg.warmup_share == 0
    assert all(a <= b for a, b in pairwise(f[: peak + 1]))
    assert all(a >= b - 1e-12 for a, b in pairwise(f[peak:]))
    assert all(0 < x <= 1 for x in f[:-1]) and min(f) >= 0


@given(recipes(), lengths)
def test_phases_cover_every_step_once_and_in_order(cfg, steps):
    """A gap would be a step without a rate."""
    found = phases(cfg, steps)
    assert found[0][1] == 0 and found[-1][2] == steps
    assert all(past == first for (_, _, past), (_, first, _) in pairwise(found))
    assert all(first < past for _, first, past in found) and len({name for name, _, _ in found}) == len(found)


@given(recipes(), st.integers(50, 200))
def test_no_step_changes_the_rate_by_more_than_its_phase_may(cfg, steps):
    """Joints included: a phase begins at the rate that the one before came to. The steepest part of each curve, worked out by hand."""
    f = rates(cfg, steps)
    width = {name: past - first for name, first, past in phases(cfg, steps)}
    names = [name for name, n in width.items() for _ in range(n)]
    for step, (a, b) in enumerate(pairwise(f)):
        name, n = names[step], width[names[step]]
        if name == "warm-up":
            limit = 1 / n if step + 1 < n else 0.0
        elif name == "constant":
            limit = 0.0
        elif name == "anneal" and cfg.schedule == "infinite":
            limit = cfg.plateau_ratio * (1 - (cfg.min_ratio / cfg.plateau_ratio) ** (1 / n))
        elif name == "anneal" and cfg.anneal == "1-sqrt":
            limit = (1 - cfg.min_ratio) / n**0.5
        else:
            limit = 3.1416 / 2 / n
        assert abs(a - b) <= limit + 1e-9, (step, name, a, b)


@given(recipes(), st.integers(50, 200))
def test_the_next_step_after_the_last_would_have_the_promised_ratio(cfg, steps):
    """From the last step the rate is at most one step's change away from `min_ratio`, and never below it."""
    f = rates(cfg, steps)
    if cfg.schedule in ("constant", "none"):
        assert f[-1] == 1.0
        return
    _, first, past = phases(cfg, steps)[-1]
    n = past - first
    if n < 2:
        return  # a phase of one step has its first rate only
    assert cfg.min_ratio - 1e-12 <= f[-1] <= cfg.min_ratio + (f[-2] - f[-1]) + 1e-9


@given(recipes(), lengths, st.data())
def test_a_resumed_run_reads_the_same_rates(cfg, steps, data):
    """Resume is a lookup: the list from step k on is the tail of the whole list, also from a recipe read again."""
    k = data.draw(st.integers(0, steps - 1))
    again = TrainRecipe(**cfg.model_dump(include=cfg.model_fields_set))
    assert [lr_factor(step, again, steps) for step in range(k, steps)] == rates(cfg, steps)[k:]


@given(recipes(WITH_ANNEAL), st.integers(50, 200))
def test_the_kept_weights_are_those_of_the_constant_rate(cfg, steps):
    """The next domain starts where the anneal began, at the rate of that moment, so no step of the anneal may be in those weights."""
    kept = pre_anneal_step(cfg, steps)
    if kept is None:
        assert phases(cfg, steps)[0][0] == "anneal"
        return
    high = cfg.plateau_ratio if cfg.schedule == "infinite" else 1.0
    assert lr_factor(kept, cfg, steps) == pytest.approx(high) and ("anneal", kept, steps) in phases(cfg, steps)


@given(recipes(("cosine", "linear", "constant", "none")), lengths)
def test_schedules_without_an_anneal_keep_nothing(cfg, steps):
    """A second copy of the weights costs disk."""
    assert pre_anneal_step(cfg, steps) is None


def test_the_cosine_ends_just_above_its_floor_and_is_halfway_in_the_middle():
    """Against numbers worked out by hand: 101 steps, one of warm-up, so step 51 is the middle of the fall."""
    cfg = TrainRecipe()
    assert lr_factor(0, cfg, 101) == 1.0
    assert lr_factor(51, cfg, 101) == pytest.approx(0.55)
    assert 0.1 < lr_factor(100, cfg, 101) < 0.101


def test_infinite_has_four_phases_of_the_published_shares():
    """Against numbers worked out by hand: 1,000 steps, 10 of warm-up, 600 down to 0.55, 240 constant, 150 down to 0.1."""
    cfg = TrainRecipe(schedule="infinite")
    assert phases(cfg, 1000) == [("warm-up", 0, 10), ("cooldown", 10, 610), ("constant", 610, 850), ("anneal", 850, 1000)]
    assert lr_factor(310, cfg, 1000) == pytest.approx((1 + 0.55) / 2)
    assert {lr_factor(step, cfg, 1000) for step in range(610, 851)} == {0.55}
    assert lr_factor(925, cfg, 1000) == pytest.approx((0.55 * 0.1) ** 0.5)
    assert pre_anneal_step(cfg, 1000) == 850


def test_the_anneal_of_infinite_does_not_depend_on_where_it_starts():
    """Its exponent counts from its own first step: in one published port the number of steps before it changed its shape."""
    one, other = TrainRecipe(schedule="infinite", anneal_share=0.1), TrainRecipe(schedule="infinite", anneal_share=0.2)
    assert rates(one, 1000)[-100:] == rates(other, 500)[-100:]


@pytest.mark.parametrize(("anneal", "quarter"), [("linear", 0.775), ("1-sqrt", 0.55)])
def test_wsd_is_constant_and_falls_at_the_end(anneal, quarter):
    """Against numbers worked out by hand: 1,000 steps, the last 200 fall; after 50 of them a line has lost a quarter, 1-sqrt a half."""
    cfg = TrainRecipe(schedule="wsd", anneal=anneal)
    assert phases(cfg, 1000) == [("warm-up", 0, 10), ("constant", 10, 800), ("anneal", 800, 1000)]
    assert {lr_factor(step, cfg, 1000) for step in range(10, 801)} == {1.0}
    assert lr_factor(850, cfg, 1000) == pytest.approx(quarter)


def test_linear_goes_to_zero_and_none_does_not_move():
    """The last step of a line to 0 still learns; `none` does not even warm up."""
    f = rates(TrainRecipe(schedule="linear", min_ratio=0, warmup_share=0), 4)
    assert f == [1.0, 0.75, 0.5, 0.25]
    assert rates(TrainRecipe(schedule="none"), 4) == [1.0] * 4 and warmup_steps(TrainRecipe(schedule="none"), 1000) == 0


@pytest.mark.parametrize(
    ("schedule", "field", "value", "there"),
    [
        ("none", "warmup_share", 0.0, "cosine, infinite, wsd, linear, constant"),
        ("none", "min_ratio", 0.1, "cosine, infinite, wsd, linear"),
        ("constant", "min_ratio", 0.5, "cosine, infinite, wsd, linear"),
        ("cosine", "plateau_ratio", 0.5, "infinite"),
        ("wsd", "cooldown_share", 0.5, "infinite"),
        ("linear", "anneal_share", 0.5, "infinite, wsd"),
        ("infinite", "anneal", "linear", "wsd"),
    ],
)
def test_a_field_that_the_schedule_has_not_is_refused(schedule, field, value, there):
    """Whoever sets it believes that it does something. Its default is no excuse."""
    with pytest.raises(ValidationError) as error:
        TrainRecipe(schedule=schedule, **{field: value})
    assert f"{field} has no effect with schedule: {schedule}; leave it out, or take one that has it ({there})" in str(error.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"schedule": "infinite", "cooldown_share": 0.9}, "warmup_share 0.01, cooldown_share 0.9 and anneal_share 0.15 are more than"),
        (
            {"schedule": "wsd", "warmup_share": 0.5, "anneal_share": 0.6},
            "warmup_share 0.5 and anneal_share 0.6 are more than the whole run",
        ),
        ({"schedule": "infinite", "min_ratio": 0}, "min_ratio 0 must be above 0"),
        ({"schedule": "infinite", "min_ratio": 0.6}, "at most plateau_ratio 0.55"),
    ],
)
def test_phases_that_cannot_be_are_refused(fields, said):
    """Cut short in silence they would be another schedule than the recipe's."""
    with pytest.raises(ValidationError) as error:
        TrainRecipe(**fields)
    assert said in str(error.value)


def test_larger_models_get_smaller_rates():
    """The table, with the demo's model on its first line."""
    assert auto_lr(135_000_000) == 6e-4
    assert [auto_lr(int(n)) for n in (3e8, 1e9, 3e9, 7e9, 7e10)] == [3e-4, 1e-4, 5e-5, 3e-5, 2e-5]

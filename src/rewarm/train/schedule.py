"""The learning rate as a pure function of the step: nothing to save, resumes anywhere.

Continual pretraining re-warms the rate from 0 and decays it again (arXiv 2308.04014, 2403.08763); how long the warm-up is hardly matters,
so the default is 1 %. Every re-warming costs old knowledge, so two schedules have a constant phase, and the weights at its end are kept:
the next domain goes on from there at the rate that this one had. `infinite` is of arXiv 2403.08763, `wsd` of 2404.06395, its 1-sqrt decay
of 2405.18392. A phase begins where its formula gives the rate that the phase before came to, so there are no jumps; the rate at the end is
that of step `steps`, one after the last.
"""

from __future__ import annotations

import math
from itertools import pairwise

from rewarm.train.recipe import ANNEAL_SHARE, TrainRecipe

_RATES = ((200e6, 6e-4), (500e6, 3e-4), (1.5e9, 1e-4), (4e9, 5e-5), (9e9, 3e-5))
"""(parameters up to, peak rate): the first measured for continual pretraining at 135M, the others from practice, to be checked."""


def phases(cfg: TrainRecipe, steps: int) -> list[tuple[str, int, int]]:
    """(name, first step, past the last) of each phase that has steps, in order: they cover 0 .. steps.

    Shares become whole steps, above 0 at least one. In a run of a few steps, too short for all of them, the warm-up comes before the anneal
    and the anneal before the cooldown.
    """
    warm = 0 if cfg.schedule == "none" else _steps(cfg.warmup_share, steps)
    cooled, annealing = warm, steps
    if cfg.schedule in ANNEAL_SHARE:
        share = ANNEAL_SHARE[cfg.schedule] if cfg.anneal_share == "auto" else cfg.anneal_share
        annealing = max(warm, steps - _steps(share, steps))
    if cfg.schedule == "infinite":
        cooled = min(annealing, warm + _steps(cfg.cooldown_share, steps))
    if cfg.schedule in ("cosine", "linear"):
        cooled = steps
    falling = "cooldown" if cfg.schedule == "infinite" else "decay"
    marks = (0, warm, cooled, annealing, steps)
    found = zip(("warm-up", falling, "constant", "anneal"), pairwise(marks), strict=True)
    return [(name, first, past) for name, (first, past) in found if first < past]


def _steps(share: float, steps: int) -> int:
    return max(1, round(share * steps)) if share > 0 else 0


def warmup_steps(cfg: TrainRecipe, steps: int) -> int:
    """Steps of rising rate."""
    return next((past for name, _, past in phases(cfg, steps) if name == "warm-up"), 0)


def pre_anneal_step(cfg: TrainRecipe, steps: int) -> int | None:
    """The number of steps after which the anneal begins: the weights of that moment are kept. None where none does after the first step."""
    return next((first for name, first, _ in phases(cfg, steps) if name == "anneal" and first > 0), None)


def lr_factor(step: int, cfg: TrainRecipe, steps: int) -> float:
    """The factor on the peak rate at step 0 <= step < steps."""
    assert 0 <= step < steps, (step, steps)
    name, first, past = next(phase for phase in phases(cfg, steps) if step < phase[2])
    high = cfg.plateau_ratio if cfg.schedule == "infinite" else 1.0
    done = (step - first) / (past - first)
    if name == "warm-up":
        return (step + 1) / past
    if name == "constant":
        return high
    if name == "cooldown":
        return _cosine(1.0, high, done)
    if cfg.schedule == "infinite":
        return high * (cfg.min_ratio / high) ** done
    if cfg.schedule == "cosine":
        return _cosine(1.0, cfg.min_ratio, done)
    return 1.0 - (1.0 - cfg.min_ratio) * (math.sqrt(done) if cfg.schedule == "wsd" and cfg.anneal == "1-sqrt" else done)


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1.0 + math.cos(math.pi * done))


def auto_lr(parameters: int) -> float:
    """The peak rate for a model of so many parameters."""
    return next((rate for limit, rate in _RATES if parameters <= limit), 2e-5)

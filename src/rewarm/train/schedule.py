"""The learning rate as a pure function of the step: nothing to save, resumes anywhere.

Continual pretraining re-warms the rate from 0 and decays it again (arXiv 2308.04014, 2403.08763); how long the warm-up is hardly matters,
so the default is 1 %.
"""

from __future__ import annotations

import math

from rewarm.train.recipe import TrainRecipe

_RATES = ((200e6, 6e-4), (500e6, 3e-4), (1.5e9, 1e-4), (4e9, 5e-5), (9e9, 3e-5))
"""(parameters up to, peak rate): the first measured for continual pretraining at 135M, the others from practice, to be checked."""


def warmup_steps(cfg: TrainRecipe, steps: int) -> int:
    """Steps of rising rate: the share of `steps`, at least one where the share is above 0."""
    return max(1, round(cfg.warmup_share * steps)) if cfg.warmup_share > 0 else 0


def lr_factor(step: int, cfg: TrainRecipe, steps: int) -> float:
    """The factor on the peak rate at step 0 <= step < steps: rises in equal parts to 1, then falls to `min_ratio` by `cfg.schedule`."""
    assert 0 <= step < steps, (step, steps)
    warm = warmup_steps(cfg, steps)
    if step < warm:
        return (step + 1) / warm
    if cfg.schedule == "constant":
        return 1.0
    done = (step - warm) / (steps - warm)
    if cfg.schedule == "linear":
        return 1.0 - (1.0 - cfg.min_ratio) * done
    return cfg.min_ratio + (1.0 - cfg.min_ratio) / 2 * (1.0 + math.cos(math.pi * done))


def auto_lr(parameters: int) -> float:
    """The peak rate for a model of so many parameters."""
    return next((rate for limit, rate in _RATES if parameters <= limit), 2e-5)

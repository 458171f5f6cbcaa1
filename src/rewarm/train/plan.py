"""Minutes to steps, and how often to probe: pure arithmetic on measured times."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rewarm.errors import UserError
from rewarm.train.recipe import TrainRecipe

MARGIN = 0.03
"""Share of `max_minutes` left unplanned: a machine does not keep its speed to the percent."""
PROBE_SHARE = 0.03
MOST_PROBES = 48


@dataclass(frozen=True, slots=True)
class Timing:
    """Measured seconds: a step, one probe of all texts, what was spent before the first step, and what is still due after the last."""

    step: float
    probe: float
    before: float
    after: float


def steps_for_minutes(cfg: TrainRecipe, timing: Timing) -> tuple[int, int | None]:
    """Steps that fit into `cfg.max_minutes` beside start-up, probes and saving, and the steps between two probes.

    Raises UserError with all the times if not even one step fits.
    """
    assert cfg.max_minutes is not None
    probed = cfg.probe_every != "off"
    left = cfg.max_minutes * 60 * (1 - MARGIN) - timing.before - timing.after - probed * timing.probe
    if cfg.probe_every == "auto":
        between = _probes_between(left, timing.probe)
        steps = int((left - between * timing.probe) / timing.step)
    else:
        between = 0
        steps = int(left / (timing.step + (timing.probe / cfg.probe_every if cfg.probe_every != "off" else 0.0)))
    if steps < 1:
        need = (timing.before + timing.after + probed * timing.probe + timing.step) / (1 - MARGIN) / 60
        raise UserError(
            f"{cfg.max_minutes:g} minutes are too short: start-up took {timing.before:.0f} s, the last probe takes {timing.probe:.0f} s, "
            f"saving {timing.after:.0f} s and one step {timing.step:.1f} s",
            where="train.max_minutes",
            fix=f"set it to at least {math.ceil(need * 10) / 10:g}, or lower train.step_tokens, or set train.probe_every: off",
        )
    return steps, _interval(cfg, steps, between)


def probe_interval(cfg: TrainRecipe, steps: int, timing: Timing) -> int | None:
    """Steps between two probes of a run of known length; None for no probes at all."""
    return _interval(cfg, steps, _probes_between(steps * timing.step, timing.probe))


def _probes_between(train_seconds: float, probe_seconds: float) -> int:
    if probe_seconds <= 0:
        return MOST_PROBES
    return max(0, int(min(MOST_PROBES, PROBE_SHARE * train_seconds / probe_seconds)))


def _interval(cfg: TrainRecipe, steps: int, between: int) -> int | None:
    if cfg.probe_every == "off":
        return None
    return cfg.probe_every if cfg.probe_every != "auto" else math.ceil(steps / (between + 1))


def micro_rows_at_most(cfg: TrainRecipe, rows: int, row_tokens: int, device: str) -> int:
    """Rows of a micro-batch: the recipe's, or for `auto` about as many as the device takes well, so that the fewest rows are filled up.

    Never more than a step has. On a CPU at 135M, 512 and 1,024 tokens at once are equally fast, so the fewer, for memory's sake.
    """
    if cfg.micro_rows != "auto":
        return min(cfg.micro_rows, rows)
    most = min(rows, max(1, (512 if device == "cpu" else 65_536) // row_tokens))
    return max(range(math.ceil(most / 2), most + 1), key=lambda size: (-math.ceil(rows / size) * size, size))

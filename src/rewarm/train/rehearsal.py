"""How long a step takes and what memory training needs, from a few real steps at rate 0 on rows like those of the run.

The steps are the engine's own, so whatever the run will do is in the figures: the gates, compiling, the methods' teacher, the moments. Only
micro-batches are counted instead of done: a step of many is timed by a few, as its seconds are a straight line in their number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from rewarm.model.batch import RowBatch
from rewarm.model.family import family_of
from rewarm.model.hooks import Method
from rewarm.model.load import Base, load_base
from rewarm.progress import Reporter
from rewarm.train.context import RunContext
from rewarm.train.engine import Engine
from rewarm.train.metrics import peak_memory_gib
from rewarm.train.recipe import TrainRecipe
from rewarm.train.rows import take
from rewarm.train.setup import RowSource, choose_device, prepare

MICROS, REPEATS = 4, 3
"""Micro-batches of a timed step where the whole step has more, and how often each length is timed."""


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """start: seconds until the first step could begin (loading, gates, compiling). step: seconds of one. memory_gib: the most that was
    held, see `peak_memory_gib`. precision: `fp32` or `mixed`."""

    start: float
    step: float
    memory_gib: float
    micro_rows: int
    precision: str


def grown(base: Base, new: int) -> Base:
    """The base with so many vocabulary rows more, of no particular values: what training an extended model costs, not what it learns."""
    if not new:
        return base
    base.model.resize_token_embeddings(base.family.rows + new, mean_resizing=False)
    return Base(base.model, family_of(base.model), base.path, base.report)


def rehearse(
    cfg: TrainRecipe,
    model_dir: Path,
    new: int,
    mixture: RowSource,
    batch_of: Callable[[int], RowBatch],
    methods: Sequence[Method],
    steps: int,
    out: Path,
    reporter: Reporter,
) -> Rehearsed:
    """Times steps of the model in `model_dir` with `new` vocabulary rows more; nothing is saved, no weight moves.

    steps: of the run to come, for the methods. Raises what training would raise at its start (UserError, MachineError).
    """
    started = time.perf_counter()
    base = grown(load_base(model_dir, choose_device(cfg.device)), new)
    rows = base.family.rows
    setup = prepare(base, cfg, mixture, batch_of, (rows - new, rows) if new else None, None, methods, out, reporter)
    engine = setup.engine
    context = RunContext(engine.params, model_dir, steps, 0.0, cfg.seed, mixture.names, batch_of, engine.gradients)
    engine.stack.prepare(context)
    engine.rehearse(context, 0.0)  # compiles, and finds the micro-batch that fits
    start = time.perf_counter() - started
    size, total = engine.micro_rows, -(-setup.step_rows // engine.micro_rows)
    counts = [total] if total <= MICROS else [1, MICROS]
    took = {count: _steps(engine, context, batch_of(0), min(count * size, setup.step_rows)) for count in counts}
    if total <= MICROS:
        step = took[total]
    else:
        micro = (took[MICROS] - took[1]) / (MICROS - 1)
        step = took[1] + micro * (total - 1)
    return Rehearsed(start, step, peak_memory_gib(engine.kernels.device), size, engine.kernels.precision.mode)


def _steps(engine: Engine, context: RunContext, batch: RowBatch, rows: int) -> float:
    """Seconds of a step of so many rows, spread over those of the batch: the median of a few."""
    chosen = np.unique(np.linspace(0, len(batch.ids) - 1, rows).round().astype(np.int64))
    some = take(batch, chosen)
    whole = engine.batch_of
    engine.batch_of = lambda step: some
    times = []
    try:
        for _ in range(REPEATS):
            _wait(engine)
            begin = time.perf_counter()
            engine.step(context)
            _wait(engine)
            times.append(time.perf_counter() - begin)
    finally:
        engine.batch_of = whole
    return median(times)


def _wait(engine: Engine) -> None:
    if engine.kernels.device.type == "cuda":
        torch.cuda.synchronize(engine.kernels.device)

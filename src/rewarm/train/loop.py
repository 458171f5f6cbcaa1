"""The loop: steps, and between them what the run tells, measures, saves and obeys.

All that must survive a restart, beside weights, moments and the methods' own states, is `Progress`. Everything else is a function of the
step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rewarm import signals
from rewarm.errors import MachineError, Stopped
from rewarm.progress import Bar, Reporter
from rewarm.train.context import RunContext
from rewarm.train.engine import Engine, Record
from rewarm.train.journal import Interval, Journal, shown
from rewarm.train.metrics import Meter, peak_memory_gib
from rewarm.train.recipe import TrainRecipe
from rewarm.train.schedule import lr_factor, pre_anneal_step

Probes = Callable[[nn.Module], Mapping[str, Mapping[str, Any]]]
BAD_IN_A_ROW = 3


class TimeUp(Stopped):
    """`train.max_hours` is over: a planned end of this process, exit 0, with a checkpoint."""

    exit_code = 0


@dataclass
class Progress:
    """What was done so far. `step` steps are finished; `tokens` are labels by source; `probed` is the last probed step, -1 for none."""

    sources: int
    step: int = 0
    probed: int = -1
    rate_factor: float = 1.0
    bad_in_a_row: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    tokens: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    first_probe: dict[str, Any] | None = None
    last_probe: dict[str, Any] | None = None
    last_loss: float | None = None

    def __post_init__(self) -> None:
        self.tokens = self.tokens or [0] * self.sources

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Course:
    """What is fixed before the first step: the length, the peak rate, how often to probe (None: never), and the rates of the machine."""

    steps: int
    lr: float
    probe_every: int | None
    ceiling: float
    peak: float | None
    step_rows: int


class Loop:
    """Runs `engine` from `progress.step` to the end of the course."""

    def __init__(
        self,
        cfg: TrainRecipe,
        course: Course,
        engine: Engine,
        context: RunContext,
        progress: Progress,
        *,
        names: Sequence[str],
        probes: Probes | None,
        journal: Journal,
        save: Callable[[], Path | None],
        keep: Callable[[], Path],
        reporter: Reporter,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.cfg, self.course, self.engine, self.context, self.progress = cfg, course, engine, context, progress
        self.names, self.probes, self.journal, self.save, self.keep, self.reporter = list(names), probes, journal, save, keep, reporter
        self.meter = Meter(clock)
        self._clock = clock
        self._pending: deque[Record] = deque()
        self._behind = 1 if engine.kernels.device.type == "cuda" else 0  # a GPU has the next step queued before the last one is read
        self._interval = Interval(len(names))
        self._saved_step, self._saved_at = progress.step, clock()

    def run(self, started: float) -> None:
        """To the last step and its probe. started: when this process began the stage, by the clock, for `max_hours`.

        Raises Stopped after a signal and TimeUp after `max_hours`, both with a checkpoint; MachineError after three steps in a row whose
        gradients were not finite.
        """
        progress, steps = self.progress, self.course.steps
        self._probe_if_due()
        self._keep_if_due()
        self.meter.start()
        with self.reporter.bar("train", float(steps), "steps") as bar:
            bar.advance(progress.step)
            while progress.step < steps:
                self._pending.append(self._step(progress.step))
                progress.step += 1
                self._read(self._behind, bar)
                self._between_steps(bar, started)

    def _step(self, step: int) -> Record:
        context, factor = self.context, lr_factor(step, self.cfg, self.course.steps)
        context.step, context.h = step, factor
        context.lr = self.course.lr * factor * self.progress.rate_factor
        return self.engine.step(context)

    def _between_steps(self, bar: Bar, started: float) -> None:
        progress = self.progress
        due = self._checkpoint_due()
        signal = signals.stop_requested()
        hours = self.cfg.max_hours
        over = hours is not None and self._clock() - started > hours * 3600
        if self._is_probe_step() or self._is_pre_anneal() or due or signal or over or progress.step == self.course.steps:
            self._read(0, bar)
        if signal:
            self._stop(Stopped(f"stopped by {signal} after step {progress.step} of {self.course.steps}"))
        self._probe_if_due()
        self._keep_if_due()
        if progress.step == self.course.steps:
            return  # the final model comes next
        if over:
            self._stop(TimeUp(f"train.max_hours ({hours:g}) is over after step {progress.step} of {self.course.steps}"))
        if due:
            self._checkpoint()

    def _checkpoint_due(self) -> bool:
        steps = self.progress.step - self._saved_step
        return steps >= self.cfg.checkpoint_steps or self._clock() - self._saved_at >= self.cfg.checkpoint_minutes * 60

    def _checkpoint(self) -> Path | None:
        with self.meter.apart():
            start = self._clock()
            folder = self.save()
            self._saved_step, self._saved_at = self.progress.step, self._clock()
            self.journal.event("checkpoint", step=self.progress.step, seconds=round(self._saved_at - start, 3), written=folder is not None)
        return folder

    def _stop(self, reason: Stopped) -> None:
        folder = self._checkpoint()
        kept = "a checkpoint is written" if folder else "no checkpoint could be written"
        self.journal.event("stopped", step=self.progress.step, reason=str(reason))
        raise type(reason)(f"{reason}; {kept}, the same command goes on from here") from None

    def _is_pre_anneal(self) -> bool:
        return self.progress.step == pre_anneal_step(self.cfg, self.course.steps)

    def _keep_if_due(self) -> None:
        """The weights before the anneal; again where a restart begins at this very step, as a kill may have come before they were kept."""
        if self._is_pre_anneal():
            with self.meter.apart():
                start = self._clock()
                folder = self.keep()
                self.journal.event("pre_anneal", step=self.progress.step, seconds=round(self._clock() - start, 3), folder=folder.name)

    def _is_probe_step(self) -> bool:
        every, step = self.course.probe_every, self.progress.step
        return self.probes is not None and every is not None and (step % every == 0 or step == self.course.steps)

    def _probe_if_due(self) -> None:
        if self._is_probe_step() and self.progress.probed < self.progress.step:
            try:
                with self.meter.apart():
                    self.probe()
            except Stopped as reason:
                self._stop(reason)

    def probe(self) -> float:
        """Bits per byte of the held-out texts now; the methods hear of it. Returns the seconds it took."""
        assert self.probes is not None
        progress, model = self.progress, self.engine.loss.hf
        start = self._clock()
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # at other shapes than the training's
            texts = {name: dict(values) for name, values in self.probes(model).items()}
        took = self._clock() - start
        progress.probed, progress.last_probe = progress.step, texts
        if progress.first_probe is None:
            progress.first_probe = texts
        self.journal.event("probe", step=progress.step, seconds=round(took, 3), texts=texts)
        shown = ", ".join(f"{name} {values['bits_per_byte']:.3f}" for name, values in texts.items())
        self.reporter.say(f"step {progress.step}: bits per byte {shown}")
        self._act(texts)
        return took

    def _act(self, texts: dict[str, Any]) -> None:
        actions = self.engine.stack.on_eval({"step": self.progress.step, "texts": texts})
        if actions.replay_share is not None:
            raise MachineError("a method asked for another share of replay, and this run's rows are fixed", where="keep.methods")
        if actions.rate_factor is not None:
            self.progress.rate_factor *= actions.rate_factor
            self.journal.event("rate", step=self.progress.step, factor=actions.rate_factor, product=self.progress.rate_factor)
        if actions.stop:
            raise Stopped(f"a method against forgetting stopped the run after step {self.progress.step}")

    def _read(self, behind: int, bar: Bar) -> None:
        """Reads the finished steps' numbers, all but the last `behind`."""
        while len(self._pending) > behind:
            self._tell(self._pending.popleft(), bar)

    def _tell(self, record: Record, bar: Bar) -> None:
        progress = self.progress
        loss, norm, bad, *by_source = record.values.tolist()
        self.meter.step_done(record.labels, record.flops)
        progress.seconds += self.meter.last_seconds
        progress.flops += record.flops
        progress.tokens = [a + int(b) for a, b in zip(progress.tokens, record.labels_by_source, strict=True)]
        self._interval.add(record, loss, norm, bool(bad), by_source)
        if bad:
            self._left_out(record, loss, norm)
        mean = loss / max(record.labels, 1)
        if not bad:
            progress.bad_in_a_row, progress.last_loss = 0, mean
        bar.advance(1, f"loss {mean:.3f}")
        number = record.step + 1
        if number % self.cfg.log_every == 0 or number == self.course.steps:
            self._log(record)

    def _log(self, record: Record) -> None:
        device, number = self.engine.kernels.device, record.step + 1
        speed = self.meter.interval(self.course.steps - number, self.course.ceiling, self.course.peak)
        self.journal.metrics(
            {
                "step": number,
                "tokens": sum(self.progress.tokens),
                **self._interval.line(self.names),
                "lr": record.lr,
                "skipped": len(self.progress.skipped),
                **{name: float(f"{value:.6g}") for name, value in speed.items()},
                "memory_gib": round(peak_memory_gib(device), 3),
            }
        )
        self._interval = Interval(len(self.names))
        self.meter.restart_interval()

    def _left_out(self, record: Record, loss: float, norm: float) -> None:
        progress, rows = self.progress, self.course.step_rows
        progress.skipped.append(record.step)
        progress.bad_in_a_row += 1
        first = record.step * rows
        self.journal.event("skipped", step=record.step + 1, rows=[first, first + rows - 1], loss=shown(loss), norm=shown(norm))
        self.reporter.warn(
            f"step {record.step + 1} was left out: loss {loss:g}, gradient norm {norm:g} (rows {first} to {first + rows - 1})"
        )
        if progress.bad_in_a_row >= BAD_IN_A_ROW:
            bad = progress.skipped[-BAD_IN_A_ROW:]
            raise MachineError(
                f"{BAD_IN_A_ROW} steps in a row without finite numbers: steps {', '.join(str(s + 1) for s in bad)}, "
                f"rows {bad[0] * rows} to {(bad[-1] + 1) * rows - 1} of the run; the weights were not moved by them",
                where=f"training, step {record.step + 1}",
                fix="look at these rows' text, lower train.lr, or try train.precision: fp32; the last checkpoint is kept",
            )

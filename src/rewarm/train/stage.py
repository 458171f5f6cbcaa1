"""The training stage: a start model and rows in, a trained model out, resumable at any moment.

Load and gates, what was done before, a probe, the plan (made once), the loop, the final model. Writes to `out`: `plan.json` (the length and
every choice, kept on resume), `kernels.json`, `metrics.jsonl`, `events.jsonl`, `checkpoints/` while it trains, `model/` (a Hugging Face
folder, fp32) and `result.json` last; then the checkpoints go, as nothing needs the moments any more. Only `checkpoints/pre-anneal/`, which
a schedule with an anneal leaves, stays: a Hugging Face folder too, for the next domain to start from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewarm.atomic import read_json, sweep, write_json
from rewarm.errors import UserError
from rewarm.model.batch import RowBatch
from rewarm.model.hooks import Method
from rewarm.model.load import save_hf
from rewarm.progress import Reporter
from rewarm.train.checkpoint import Checkpointer, join_state, load_optimizer, optimizer_tensors, split_state
from rewarm.train.context import RunContext
from rewarm.train.journal import Journal
from rewarm.train.loop import Course, Loop, Probes, Progress
from rewarm.train.metrics import peak_memory_gib, peak_rate
from rewarm.train.plan import Timing, probe_interval, steps_for_minutes
from rewarm.train.recipe import ANNEAL_SHARE, TrainRecipe
from rewarm.train.schedule import lr_factor, phases, pre_anneal_step, warmup_steps
from rewarm.train.setup import RowSource, set_up

SAVE_BYTES_PER_SECOND = 200e6
"""What `max_minutes` expects of the disk when the final model is written: a slow one's rate."""
PRE_ANNEAL = "pre-anneal"
"""Folder beside the checkpoints that is never removed: no step of theirs has this name."""
REHEARSAL_SHARE = 0.04
"""Share of `max_minutes` that may go into timing, beyond the one micro-batch that is always timed."""


def train_stage(
    cfg: TrainRecipe,
    model_dir: Path,
    mixture: RowSource,
    batch_of: Callable[[int], RowBatch],
    new_rows: tuple[int, int] | None,
    true_vocab: int | None,
    probes: Probes | None,
    methods: Sequence[Method],
    out: Path,
    reporter: Reporter,
    *,
    steps: int | None,
) -> dict[str, Any]:
    """Trains the model in `model_dir`, writes `out/model`, and returns the run's counts and figures (also in `out/result.json`).

    batch_of(step): all rows of a step, a pure function of it. new_rows: (first, past the last) vocabulary row that trains at
    `cfg.lr_scale.new_rows`. true_vocab: rows from there on are padding and never move. probes(model): {text: {"bits_per_byte": ..}}, or
    None. steps: the run's length, None where `cfg.max_minutes` sets it. Stopped with a checkpoint when asked to stop; called again it goes
    on from there, on a CPU with the same bits."""
    assert (steps is None) == (cfg.max_minutes is not None), "either a number of steps or max_minutes"
    started = time.perf_counter()
    if (out / "result.json").is_file() and (out / "model" / "config.json").is_file():
        return read_json(out / "result.json")
    out.mkdir(parents=True, exist_ok=True)
    sweep(out)
    try:
        run = _Run(cfg, model_dir, mixture, batch_of, new_rows, true_vocab, probes, methods, out, reporter, started)
        return run.train(steps)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the GPU's memory does not hold one micro-batch: {str(error).splitlines()[0]}",
            where="train.micro_rows",
            fix="lower train.micro_rows or tokens.row_tokens, or use a smaller model or a larger GPU",
        ) from error


class _Run:
    """One call of the stage."""

    def __init__(
        self,
        cfg: TrainRecipe,
        model_dir: Path,
        mixture: RowSource,
        batch_of: Callable[[int], RowBatch],
        new_rows: tuple[int, int] | None,
        true_vocab: int | None,
        probes: Probes | None,
        methods: Sequence[Method],
        out: Path,
        reporter: Reporter,
        started: float,
    ) -> None:
        self.cfg, self.model_dir, self.names, self.batch_of, self.out = cfg, model_dir, list(mixture.names), batch_of, out
        self.probes = probes if cfg.probe_every != "off" else None
        self.reporter, self.started = reporter, started
        self.journal = Journal(out, reporter.warn)
        self.setup = set_up(cfg, model_dir, mixture, batch_of, new_rows, true_vocab, methods, out, reporter)
        self.engine = self.setup.engine
        self.checkpoints = Checkpointer(out / "checkpoints", cfg.keep_last, reporter)
        self.progress = Progress(len(self.names))
        self._wall_before = 0.0

    def train(self, steps: int | None) -> dict[str, Any]:
        """From wherever the run stands to its end."""
        plan_file = self.out / "plan.json"
        plan: dict[str, Any] | None = read_json(plan_file) if plan_file.is_file() else None
        if plan is not None:
            _same_run(plan["facts"], self.setup.facts(self.cfg, self.names), plan_file)
        self._load()
        context = self._context(plan["steps"] if plan else steps or 1)
        self.engine.stack.prepare(context)
        probe_seconds = self._first_probe(context, plan["steps"] if plan else steps or 1)
        if plan is None:
            plan = self._plan(context, steps, probe_seconds)
            write_json(plan_file, plan)
            self._say(plan)
        if self.cfg.micro_rows == "auto":
            self.engine.micro_rows = plan["micro_rows"]
        context = self._context(plan["steps"])
        self._loop(context, plan["steps"], plan["probe_every"]).run(self.started)
        self.engine.stack.finish(context)
        return self._finish(plan)

    def _context(self, steps: int) -> RunContext:
        return RunContext(
            self.engine.params,
            self.model_dir,
            steps,
            lr_factor(steps - 1, self.cfg, steps),
            self.cfg.seed,
            self.names,
            self.batch_of,
            self.engine.gradients,
        )

    def _loop(self, context: RunContext, steps: int, probe_every: int | None) -> Loop:
        peak = peak_rate(self.engine.kernels.device)
        course = Course(steps, self.setup.lr, probe_every, self.setup.ceiling, peak, self.setup.step_rows)
        return Loop(
            self.cfg,
            course,
            self.engine,
            context,
            self.progress,
            names=self.names,
            probes=self.probes,
            journal=self.journal,
            save=self._save,
            keep=self._keep,
            reporter=self.reporter,
        )

    def _first_probe(self, context: RunContext, steps: int) -> float:
        """Probes the start model unless that was done; returns the seconds it took, 0 without probes."""
        if self.probes is None or self.progress.probed >= 0:
            return 0.0
        return self._loop(context, steps, None).probe()

    def _plan(self, context: RunContext, steps: int | None, probe_seconds: float) -> dict[str, Any]:
        """The length, the probes and the micro-batch, from a rehearsal where one is needed. Made once, kept on resume."""
        cfg, engine = self.cfg, self.engine
        probed = self.probes is not None
        unknown = steps is None or (probed and cfg.probe_every == "auto")
        rehearsed = unknown or (cfg.micro_rows == "auto" and engine.kernels.device.type == "cuda")
        step_seconds = engine.rehearse(context, REHEARSAL_SHARE * 60 * (cfg.max_minutes or 1.0)) if rehearsed else None
        models = 2 if cfg.schedule in ANNEAL_SHARE else 1  # the one before the anneal, and the last
        saving = models * 4 * sum(p.local.numel() for p in engine.params) / SAVE_BYTES_PER_SECOND
        timing = Timing(step_seconds or 0.0, probe_seconds, time.perf_counter() - self.started, saving)
        effective = cfg if probed else cfg.model_copy(update={"probe_every": "off"})
        if steps is None:
            steps, every = steps_for_minutes(effective, timing)
        else:
            every = probe_interval(effective, steps, timing)
        return {
            "steps": steps,
            "step_tokens": self.setup.step_rows * self.setup.row_tokens,
            "planned_tokens": steps * self.setup.step_rows * self.setup.row_tokens,
            "lr": self.setup.lr,
            "warmup_steps": warmup_steps(cfg, steps),
            "micro_rows": engine.micro_rows,
            "probe_every": every,
            "seconds": {
                "step": step_seconds,
                "probe": probe_seconds,
                "before": timing.before,
                "after": timing.after,
                "expected": None if step_seconds is None else timing.before + steps * step_seconds + timing.after,
            },
            "facts": self.setup.facts(cfg, self.names),
        }

    def _say(self, plan: dict[str, Any]) -> None:
        step = plan["seconds"]["step"]
        parts = ", ".join(f"{past - first:,} steps {name}" for name, first, past in phases(self.cfg, plan["steps"]))
        speed = "" if step is None else f", about {step:.3g} s a step ({plan['step_tokens'] / step:,.0f} tokens/s)"
        self.reporter.say(
            f"{plan['steps']:,} steps of {plan['step_tokens']:,} tokens, {plan['planned_tokens']:,} in all{speed}; rate {plan['lr']:g}, "
            f"schedule {self.cfg.schedule}: {parts}"
        )

    def _wall(self) -> float:
        """Seconds of this stage so far, those of processes before this one up to their last checkpoint included."""
        return self._wall_before + time.perf_counter() - self.started

    def _keep(self) -> Path:
        """Writes the weights as they are before the anneal. Without moments: a run starts with fresh ones."""
        folder = self.checkpoints.folder / PRE_ANNEAL
        save_hf(self.engine.loss.hf, self.model_dir, folder, torch.float32)
        return folder

    def _save(self) -> Path | None:
        engine, model = self.engine, self.engine.loss.hf
        hooks: dict[str, Tensor] = {}
        state = {
            "progress": self.progress.as_json(),
            "wall_seconds": self._wall(),
            "hooks": split_state(engine.stack.state_dict(), hooks),
            "facts": self.setup.facts(self.cfg, self.names),
            "torch": torch.__version__,
        }
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = {
            "weights": {name: parameter.detach() for name, parameter in model.named_parameters()},
            "moments": optimizer_tensors(engine.optimizer, names),
            "hooks": hooks,
        }
        return self.checkpoints.save(self.progress.step, groups, state)

    def _load(self) -> None:
        """Takes up the newest checkpoint that is whole; without one the run starts at step 0."""
        loaded = self.checkpoints.latest()
        if loaded is None:
            self.journal.forget_after(0)
            return
        _same_run(loaded.state["facts"], self.setup.facts(self.cfg, self.names), loaded.folder)
        params = dict(self.engine.loss.hf.named_parameters())
        with torch.no_grad():
            for name, tensor in loaded.tensors("weights"):
                params[name].copy_(tensor)
        load_optimizer(self.engine.optimizer, loaded, params)
        self.progress = Progress(**loaded.state["progress"])
        self._wall_before = loaded.state["wall_seconds"]
        self.engine.stack.load_state_dict(join_state(loaded.state["hooks"], dict(loaded.tensors("hooks"))))
        self.journal.forget_after(loaded.step)
        self.journal.event("resumed", step=loaded.step)
        self.reporter.say(f"goes on from the checkpoint of step {loaded.step:,}")

    def _finish(self, plan: dict[str, Any]) -> dict[str, Any]:
        progress, kernels = self.progress, self.engine.kernels
        save_hf(self.engine.loss.hf, self.model_dir, self.out / "model", torch.float32)
        seconds = max(progress.seconds, 1e-9)
        kept = pre_anneal_step(self.cfg, plan["steps"])
        result = {
            "steps": plan["steps"],
            "step_tokens": plan["step_tokens"],
            "tokens": sum(progress.tokens),
            "sources": dict(zip(self.names, progress.tokens, strict=True)),
            "loss": progress.last_loss,
            "lr": plan["lr"],
            "skipped": len(progress.skipped),
            "seconds": round(self._wall(), 2),
            "train_seconds": round(seconds, 2),
            "tokens_per_second": round(sum(progress.tokens) / seconds, 1),
            "mfu_ceiling": round(progress.flops / seconds / self.setup.ceiling, 4),
            "peak_memory_gib": round(peak_memory_gib(kernels.device), 3),
            "micro_rows": self.engine.micro_rows,
            "device": kernels.device.type,
            "precision": kernels.precision.mode,
            "pre_anneal": kept,
            "probes": {"first": progress.first_probe, "last": progress.last_probe},
        }
        minutes = self.cfg.max_minutes
        if minutes is not None and result["seconds"] > 60 * minutes:
            self.reporter.warn(
                f"training took {result['seconds'] / 60:.1f} minutes, not {minutes:g}: the machine became slower after it was timed"
            )
        self.journal.close()
        write_json(self.out / "result.json", result)
        self.checkpoints.remove_all()
        if kept is not None:
            rate = plan["lr"] * (self.cfg.plateau_ratio if self.cfg.schedule == "infinite" else 1.0)
            self.reporter.say(
                f"the weights before the anneal (after step {kept:,}) stay in {self.checkpoints.folder / PRE_ANNEAL}: "
                f"to teach the next domain without warming up again, take them as model.base, with train.lr={rate:.3g} train.warmup_share=0"
            )
        return result


def _same_run(before: dict[str, Any], now: dict[str, Any], where: Path) -> None:
    """UserError with every field that differs: the rest of the run would not be the run that was begun."""
    changed = [f"{name}: {before.get(name)!r} before, {now.get(name)!r} now" for name in now if before.get(name) != now.get(name)]
    if changed:
        raise UserError("this run was begun with other settings\n" + "\n".join(changed), where=str(where), fix="use another folder")

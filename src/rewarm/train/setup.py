"""From a model's folder to an engine that is ready for its first step: load, prove, choose how to compute."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from rewarm.atomic import write_json
from rewarm.errors import UserError
from rewarm.model.batch import RowBatch, form_for
from rewarm.model.experts import compiled_parts
from rewarm.model.gates import run_gates
from rewarm.model.hooks import Method, Stack
from rewarm.model.load import Base, load_base
from rewarm.model.loss import CausalLMLoss
from rewarm.model.precision import choose_precision
from rewarm.progress import Reporter
from rewarm.train.engine import Engine, Kernels
from rewarm.train.metrics import arithmetic_of, matmul_rate
from rewarm.train.optim import build_optimizer, parameters_by_kind
from rewarm.train.plan import micro_rows_at_most
from rewarm.train.recipe import SCHEDULE_FIELDS, TrainRecipe
from rewarm.train.schedule import auto_lr


class RowSource(Protocol):
    """What training asks of a mixture: its sources' names, in the order of `Batch.source`, and the most pieces that any of its rows has."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def row_pieces(self) -> int: ...


@dataclass(frozen=True)
class Setup:
    """An engine, the peak rate it was built with, the matrix products a second of this machine, and the shape of a step."""

    engine: Engine
    lr: float
    ceiling: float
    step_rows: int
    row_tokens: int

    def facts(self, cfg: TrainRecipe, sources: Sequence[str]) -> dict[str, Any]:
        """What must be the same when a run is resumed: else the rest of it would not be the same run."""
        return {
            "parameters": sum(p.local.numel() for p in self.engine.params),
            "vocabulary_rows": self.engine.loss.family.rows,
            "step_rows": self.step_rows,
            "row_tokens": self.row_tokens,
            "sources": list(sources),
            "lr": self.lr,
            "new_rows_scale": cfg.lr_scale.new_rows,
            "weight_decay": cfg.weight_decay,
            "betas": list(cfg.betas),
            "eps": cfg.eps,
            "clip": cfg.clip,
            "schedule": cfg.schedule,
            **{name: getattr(cfg, name) for name in SCHEDULE_FIELDS[cfg.schedule]},
            "precision": self.engine.kernels.precision.mode,
            "seed": cfg.seed,
            "methods": [method.name for method in self.engine.stack.methods],
        }


def set_up(
    cfg: TrainRecipe,
    model_dir: Path,
    mixture: RowSource,
    batch_of: Callable[[int], RowBatch],
    new_rows: tuple[int, int] | None,
    true_vocab: int | None,
    methods: Sequence[Method],
    out: Path,
    reporter: Reporter,
) -> Setup:
    """Loads the model, runs the gates, writes `kernels.json`. UserError or MachineError if this model cannot be trained here."""
    device = choose_device(cfg.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # an earlier run of this process is not this one's peak
    return prepare(load_base(model_dir, device), cfg, mixture, batch_of, new_rows, true_vocab, methods, out, reporter)


def prepare(
    base: Base,
    cfg: TrainRecipe,
    mixture: RowSource,
    batch_of: Callable[[int], RowBatch],
    new_rows: tuple[int, int] | None,
    true_vocab: int | None,
    methods: Sequence[Method],
    out: Path,
    reporter: Reporter,
) -> Setup:
    """`set_up` for a model that is loaded already."""
    device = base.family.embedding.weight.device
    if cfg.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first call, and torch refuses without it
    torch.use_deterministic_algorithms(cfg.deterministic)
    stack = Stack(methods)
    stack.build(base.model, base.family)
    precision = choose_precision(cfg.precision, device)
    compiled = device.type == "cuda" if cfg.compile == "auto" else cfg.compile
    kernels = Kernels(device, precision, form_for(device, compiled=compiled), compiled, mixture.row_pieces)
    loss = CausalLMLoss(base.model, base.family, true_vocab)
    ceiling = _prove(loss, kernels, out, reporter)
    if compiled:
        for part in (part for layer in base.family.layers for part in compiled_parts(layer)):
            part.compile(fullgraph=True, dynamic=False)  # in place: a wrapper would change the names of the parameters
    params = parameters_by_kind(base.family, base.model, new_rows)
    lr = _peak_rate(cfg, sum(p.local.numel() for p in params), reporter)
    step_rows, row_tokens = batch_of(0).ids.shape
    engine = Engine(
        loss,
        build_optimizer(params, cfg, lr),
        params,
        stack,
        kernels,
        batch_of=batch_of,
        sources=len(mixture.names),
        arithmetic=arithmetic_of(base.family, true_vocab),
        micro_rows=micro_rows_at_most(cfg, step_rows, row_tokens, device.type),
        clip=cfg.clip,
        new_rows_factor=cfg.lr_scale.new_rows,
        true_vocab=true_vocab,
    )
    return Setup(engine, lr, ceiling, step_rows, row_tokens)


def choose_device(want: str) -> torch.device:
    """`auto`: a CUDA GPU if there is one. UserError where `cuda` is asked for and there is none."""
    if want == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA GPU is here, or this torch was built without CUDA", where="train.device", fix="set train.device: cpu")
    return torch.device("cuda" if want != "cpu" and torch.cuda.is_available() else "cpu")


def _peak_rate(cfg: TrainRecipe, parameters: int, reporter: Reporter) -> float:
    table = auto_lr(parameters)
    if cfg.lr == "auto":
        return table
    if cfg.lr > 4 * table:
        reporter.warn(f"train.lr {cfg.lr:g} is more than four times what a model of {parameters:,} parameters usually takes ({table:g})")
    return cfg.lr


def _prove(loss: CausalLMLoss, kernels: Kernels, out: Path, reporter: Reporter) -> float:
    """Runs the gates in the precision of the run and times a matrix product; says and writes both. Returns operations a second."""
    device, precision = kernels.device, kernels.precision
    with precision.context(device):
        gates = run_gates(loss, kernels.form)
    ceiling = matmul_rate(device, precision.compute)
    reporter.say(
        f"gates passed: documents apart (moved by {gates['isolation']:g}), the loss is the model's own (within {gates['parity']:.1e}), "
        f"attention exact ({gates['attention']:.2f} of the error allowed)"
    )
    reporter.say(
        f"computes on {device.type}, {precision.mode} ({precision.why}), {'compiled layers' if kernels.compiled else 'nothing compiled'}; "
        f"matrix products {ceiling / 1e12:.3g} TFLOP/s"
    )
    write_json(
        out / "kernels.json",
        {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "precision": precision.mode,
            "precision_why": precision.why,
            "attention_form": kernels.form,
            "compiled": kernels.compiled,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "torch": torch.__version__,
            "matmul_flops_per_second": ceiling,
            "gates": gates,
        },
    )
    return ceiling

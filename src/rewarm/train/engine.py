"""One step of training: forward and backward by micro-batches, clipping, the update with row rates, and what the log needs of it.

Nothing here waits for a GPU: a step's numbers stay in one small tensor on the device until the loop reads them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from rewarm.model.batch import IGNORE, DeviceBatch, Form, RowBatch, micro_batches
from rewarm.model.hooks import Param, Stack
from rewarm.model.loss import CausalLMLoss
from rewarm.model.precision import Precision
from rewarm.train.context import RunContext
from rewarm.train.metrics import Arithmetic, flops_per_step
from rewarm.train.optim import RowScale, clipped_step, row_scales
from rewarm.train.rows import take

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class Record:
    """What one step did. values: fp32 on the device, [loss sum in nats, gradient norm, 1 if left out, NLL by source ...]."""

    step: int
    lr: float
    values: Tensor
    labels: int
    labels_by_source: np.ndarray
    bytes_by_source: np.ndarray
    flops: float


@dataclass(frozen=True)
class Kernels:
    """How the run computes, chosen once at the start and written to `kernels.json`."""

    device: torch.device
    precision: Precision
    form: Form
    compiled: bool
    row_pieces: int | None = None


class Engine:
    """The model, its loss, its optimiser and the methods against forgetting, ready to take steps."""

    def __init__(
        self,
        loss: CausalLMLoss,
        optimizer: torch.optim.Optimizer,
        params: Sequence[Param],
        stack: Stack,
        kernels: Kernels,
        *,
        batch_of: Callable[[int], RowBatch],
        sources: int,
        arithmetic: Arithmetic,
        micro_rows: int,
        clip: float,
        new_rows_factor: float,
        true_vocab: int | None,
    ) -> None:
        self.loss, self.optimizer, self.params, self.stack, self.kernels = loss, optimizer, params, stack, kernels
        self.batch_of, self.sources, self.arithmetic, self.micro_rows, self.clip = batch_of, sources, arithmetic, micro_rows, clip
        self._factor, self._true_vocab = new_rows_factor, true_vocab
        self._scales = row_scales(params, new_rows_factor, true_vocab)

    def _micro(self, batch: RowBatch) -> list[DeviceBatch]:
        kernels = self.kernels
        return micro_batches(batch, min(self.micro_rows, len(batch.ids)), kernels.device, kernels.form, row_pieces=kernels.row_pieces)

    def _backward(self, context: RunContext | None, batch: DeviceBatch, by_source: Tensor) -> Tensor:
        """Adds the gradients of one micro-batch, and its NLL to its sources. Returns its loss, a sum in nats."""
        kernels = self.kernels
        with kernels.precision.context(kernels.device):
            targets = self.stack.targets(context, batch) if context else None
            out = self.loss(batch, targets)
            extra = self.stack.loss(context, out) if context else None
        total = out.total if extra is None else out.total + extra
        (total / max(batch.n_valid, 1)).backward()
        by_source.index_add_(0, batch.source.long(), batch.by_row(out.nll).sum(1, dtype=torch.float32))
        return out.loss_sum.detach().float()

    def step(self, context: RunContext) -> Record:
        """Step `context.step` at the rate `context.lr`: the rows of that step, one update."""
        for group in self.optimizer.param_groups:
            group["lr"] = context.lr
        self.stack.before_step(context)
        batch = self.batch_of(context.step)
        by_source = torch.zeros(self.sources, dtype=torch.float32, device=self.kernels.device)
        loss = torch.zeros((), dtype=torch.float32, device=self.kernels.device)
        for micro in self._micro(batch):
            loss += self._backward(context, micro, by_source)
        self.stack.gradients(context)
        norm, bad = clipped_step(self.optimizer, self._current_scales(), self.params, loss, self.clip)
        self.optimizer.zero_grad(set_to_none=True)
        self.stack.after_step(context)
        counted = (batch.labels != IGNORE).sum(1)
        return Record(
            context.step,
            context.lr,
            torch.cat([torch.stack([loss, norm, bad]), by_source]),
            int(counted.sum()),
            np.bincount(batch.source, counted, self.sources).astype(np.int64),
            np.bincount(batch.source, batch.bytes, self.sources).astype(np.int64),
            flops_per_step(self.arithmetic, batch),
        )

    def _current_scales(self) -> list[RowScale]:
        asked = {p.name: scale for p in self.params if (scale := self.stack.update_scale(p.name)) is not None}
        return row_scales(self.params, self._factor, self._true_vocab, asked) if asked else self._scales

    def gradients(self, batch: RowBatch) -> dict[str, Tensor]:
        """Gradients of the mean loss over these rows, by parameter name; those of the step under way are put aside and stay."""
        kept = [p.local.grad for p in self.params]
        for p in self.params:
            p.local.grad = None
        by_source = torch.zeros(self.sources, dtype=torch.float32, device=self.kernels.device)
        for micro in self._micro(batch):
            self._backward(None, micro, by_source)
        made = {p.name: p.local.grad for p in self.params if p.local.grad is not None}
        for p, grad in zip(self.params, kept, strict=True):
            p.local.grad = grad
        return made

    def rehearse(self, context: RunContext, seconds: float) -> float:
        """Seconds of one step, from one micro-batch and one update at rate 0 on the rows of the first; after it all is as before.

        At rate 0 and gradient 0 AdamW moves no weight, not by a bit, and the moments are thrown away. Of the methods only `targets` and
        `loss` take part. One micro-batch is timed (with methods all of the step), and more while they fit into `seconds`, ten at most; the
        median counts, as a hiccup shall not halve the run (the mean with methods). Before them a small one fills caches, on a GPU a whole
        one compiles. A GPU that runs out of memory halves `micro_rows` and begins again.
        """
        while True:
            try:
                return self._rehearse(context, seconds)
            except torch.OutOfMemoryError:
                if self.micro_rows == 1:
                    raise
                self.micro_rows = (self.micro_rows + 1) // 2
            finally:
                self.optimizer.zero_grad(set_to_none=True)
                self.optimizer.state.clear()

    def _rehearse(self, context: RunContext, seconds: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        device = self.kernels.device
        unused = torch.zeros(self.sources, dtype=torch.float32, device=device)
        batch, reading = self._timed(lambda: self.batch_of(0))
        warm = take(batch, slice(0, 1)) if device.type == "cpu" else batch
        self._backward(context, self._micro(warm)[0], unused)
        micro, cutting = self._timed(lambda: self._micro(batch))
        least = len(micro) if self.stack.methods else 1  # a method may work on some rows only
        times: list[float] = []
        while len(times) < least or (len(times) < 10 and sum(times) + times[-1] <= seconds):
            loss, took = self._timed(lambda: self._backward(context, micro[len(times) % len(micro)], unused))
            times.append(took)
        for p in self.params:
            if p.local.grad is not None:
                p.local.grad.zero_()  # even at rate 0 a gradient could turn a weight of -0.0 into 0.0
        for _ in range(2):  # the first one allocates the moments
            _, update = self._timed(lambda: clipped_step(self.optimizer, self._scales, self.params, loss, self.clip))
        typical = mean if self.stack.methods else median
        return reading + cutting + len(micro) * typical(times) + update

    def _timed(self, work: Callable[[], _Made]) -> tuple[_Made, float]:
        """What `work` returns, and the seconds until the device has done it."""
        self._wait()
        start = time.perf_counter()
        made = work()
        self._wait()
        return made, time.perf_counter() - start

    def _wait(self) -> None:
        if self.kernels.device.type == "cuda":
            torch.cuda.synchronize(self.kernels.device)

"""Speed, memory and arithmetic of a run: every number on screen is computed here, once, and goes to `metrics.jsonl` under the same name.

Two shares of a peak, never mixed: `mfu` divides by the card's published dense bf16 rate and is absent where none is known, as on every CPU;
`mfu_ceiling` divides by the rate of a large matrix product measured on this machine at the start.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rewarm.model.batch import IGNORE, RowBatch
from rewarm.model.family import Family

PEAK_FLOPS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 operations a second by a part of the card's name, as its maker states them; the first that fits."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What one token costs. body and head: weights of the matrix products it meets in the layers and at the end; pair: floating-point
    operations for each (token, token it attends to) and layer, forward and backward; windows: layers by their attention window."""

    body: float
    head: int
    pair: int
    windows: tuple[tuple[int | None, int], ...]

    def flops(self, tokens: int, attended: Callable[[int | None], int]) -> float:
        """Operations of forward and backward for `tokens` tokens. attended(window): tokens that they attend to, summed over them.

        6 a weight (2 forward, 4 backward); recomputing does not count, nor does the embedding's lookup.
        """
        return 6.0 * (self.body + self.head) * tokens + self.pair * sum(layers * attended(window) for window, layers in self.windows)


def arithmetic_of(family: Family, true_vocab: int | None = None) -> Arithmetic:
    """The arithmetic of a model. Of experts only the active ones count; padding rows of the vocabulary do not."""
    config: Any = family.decoder.config
    body = 0.0
    for parameter in family.layers.parameters():
        if parameter.ndim == 2:
            body += parameter.numel()
        elif parameter.ndim == 3:  # experts, stacked
            body += parameter.numel() / parameter.shape[0] * config.num_experts_per_tok
    heads = config.num_attention_heads
    channels = getattr(config, "head_dim", None) or config.hidden_size // heads
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"] * len(family.layers)
    windows = Counter(window if kind == "sliding_attention" else None for kind in kinds)
    rows = true_vocab or family.rows
    return Arithmetic(body, rows * family.head.weight.shape[1], 12 * heads * channels, tuple(windows.items()))


def flops_per_step(arithmetic: Arithmetic, batch: RowBatch) -> float:
    """Operations that the labels of a step need; what padding does is not counted."""
    positions = batch.position_ids[batch.labels != IGNORE].astype(np.int64) + 1
    return arithmetic.flops(len(positions), lambda window: int((positions if window is None else np.minimum(positions, window)).sum()))


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a square matrix product in `dtype`: the best of several, as a ceiling should be."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=torch.float32).to(dtype)
    best = float("inf")
    for _ in range(6):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def peak_rate(device: torch.device) -> float | None:
    """The published dense bf16 rate of this card, or None."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for part, rate in PEAK_FLOPS.items() if part in name), None)


def peak_memory_gib(device: torch.device) -> float:
    """GiB: on a GPU the most that tensors took; on a CPU the most that this process ever held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Meter:
    """Times steps. Probes and saves are timed apart, so `tokens_per_second` is what the training itself does.

    A step's seconds are the wall time between two step ends, so waiting for data and the optimiser are in it.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._mark = clock()
        self.seconds = 0.0
        self.last_seconds = 0.0
        self.tokens = 0
        self._apart = 0.0
        self.restart_interval()

    def start(self) -> None:
        """The first step begins now."""
        self._mark, self._apart = self._clock(), 0.0

    def restart_interval(self) -> None:
        self.interval_seconds, self.interval_tokens, self.interval_flops, self.interval_steps = 0.0, 0, 0.0, 0

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Time inside does not belong to any step."""
        start = self._clock()
        try:
            yield
        finally:
            self._apart += self._clock() - start

    def step_done(self, tokens: int, flops: float) -> None:
        """A step with so many labels ended now."""
        now = self._clock()
        took = now - self._mark - self._apart
        self._mark, self._apart = now, 0.0
        self.last_seconds = took
        self.seconds += took
        self.tokens += tokens
        self.interval_seconds += took
        self.interval_tokens += tokens
        self.interval_flops += flops
        self.interval_steps += 1

    def rate(self) -> float:
        """Labels a second over the whole run of this process."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    def interval(self, steps_left: int, ceiling: float, peak: float | None) -> dict[str, float]:
        """tokens_per_second, the shares of the two peaks, and the seconds left, from the steps since `restart_interval`."""
        seconds = max(self.interval_seconds, 1e-9)
        done = {
            "tokens_per_second": self.interval_tokens / seconds,
            "mfu_ceiling": self.interval_flops / seconds / ceiling,
            "eta_seconds": steps_left * seconds / max(self.interval_steps, 1),
        }
        return done if peak is None else {**done, "mfu": self.interval_flops / seconds / peak}

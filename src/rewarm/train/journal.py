"""What a run writes down as it goes: a line of metrics for some steps, and every event."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewarm.atomic import write_atomic
from rewarm.train.engine import Record


class Journal:
    """`metrics.jsonl`, a line for every `log_every` steps, and `events.jsonl`, whatever else happened. Both only grow."""

    def __init__(self, folder: Path) -> None:
        self.metrics_file, self.events_file = folder / "metrics.jsonl", folder / "events.jsonl"

    def metrics(self, line: Mapping[str, Any]) -> None:
        _append(self.metrics_file, line)

    def event(self, name: str, **facts: Any) -> None:
        _append(self.events_file, {"event": name, "time": round(time.time(), 3), **facts})

    def forget_after(self, step: int) -> None:
        """Drops the metrics of steps that a restart will do again, and a line that a kill cut in half."""
        if not self.metrics_file.is_file():
            return
        lines = self.metrics_file.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        if len(kept) < len(lines):
            write_atomic(self.metrics_file, "".join(kept))


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def shown(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no nan


class Interval:
    """Sums of the steps that make up one line of metrics."""

    def __init__(self, sources: int) -> None:
        self.loss, self.labels, self.norm, self.norms = 0.0, 0, 0.0, 0
        self.nll = np.zeros(sources)
        self.tokens = np.zeros(sources, dtype=np.int64)
        self.bytes = np.zeros(sources, dtype=np.int64)

    def add(self, record: Record, loss: float, norm: float, bad: bool, by_source: Sequence[float]) -> None:
        if math.isfinite(norm):
            self.norm, self.norms = self.norm + norm, self.norms + 1
        if bad:
            return
        self.loss += loss
        self.labels += record.labels
        self.nll += by_source
        self.tokens += record.labels_by_source
        self.bytes += record.bytes_by_source

    def line(self, names: Sequence[str]) -> dict[str, Any]:
        """loss in nats a token; by source nats a token and bits a byte, of the sources that these steps read; None for steps all left
        out."""
        sources = {
            name: {
                "loss": float(f"{self.nll[i] / self.tokens[i]:.9g}"),
                "bits_per_byte": float(f"{self.nll[i] / math.log(2) / self.bytes[i]:.9g}") if self.bytes[i] else None,
                "tokens": int(self.tokens[i]),
            }
            for i, name in enumerate(names)
            if self.tokens[i]
        }
        return {
            "loss": self.loss / self.labels if self.labels else None,
            "sources": sources,
            "norm": float(f"{self.norm / self.norms:.9g}") if self.norms else None,
        }

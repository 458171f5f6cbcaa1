"""What a run writes down as it goes: a line of metrics for some steps, and every event."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewarm.atomic import disk_errors, free_bytes, is_disk_full, size, write_atomic
from rewarm.train.engine import Record


class Journal:
    """`metrics.jsonl`, a line for every `log_every` steps, and `events.jsonl`, whatever else happened. Both only grow.

    On a full disk, which a checkpoint outlives twice, the lines wait in memory and are written with the next one that can be."""

    def __init__(self, folder: Path, warn: Callable[[str], None] = lambda text: None) -> None:
        self.metrics_file, self.events_file = folder / "metrics.jsonl", folder / "events.jsonl"
        self._waiting: dict[Path, list[str]] = {}
        self._warn = warn

    def metrics(self, line: Mapping[str, Any]) -> None:
        self._append(self.metrics_file, line)

    def event(self, name: str, **facts: Any) -> None:
        self._append(self.events_file, {"event": name, "time": round(time.time(), 3), **facts})

    def close(self) -> None:
        """Writes what still waits. MachineError if the disk has no space for it."""
        for path, lines in self._waiting.items():
            with disk_errors(path):
                _write(path, "".join(lines))
        self._waiting.clear()

    def _append(self, path: Path, line: Mapping[str, Any]) -> None:
        waiting = [*self._waiting.get(path, []), json.dumps(line, ensure_ascii=False) + "\n"]
        try:
            _write(path, "".join(waiting))
        except OSError as error:
            if not is_disk_full(error):
                raise
            if not self._waiting:
                self._warn(f"no space left for {path}: {size(free_bytes(path))} free; its lines are kept in memory, training goes on")
            self._waiting[path] = waiting
        else:
            self._waiting.pop(path, None)

    def forget_after(self, step: int) -> None:
        """Drops the metrics of steps that a restart will do again, and in both files lines that are none (a kill cut them in half)."""
        for path, limit in ((self.metrics_file, step), (self.events_file, math.inf)):
            if path.is_file():
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
                kept = [line for line in lines if _step_of(line) <= limit]
                if len(kept) < len(lines):
                    write_atomic(path, "".join(kept))


def _step_of(line: str) -> float:
    """The step that a line is about, 0 where it is about none; NaN for what is no whole line, so that it is below no limit."""
    try:
        found = json.loads(line)
    except ValueError:
        return math.nan
    return float(found.get("step", 0)) if line.endswith("\n") and isinstance(found, dict) else math.nan


def _write(path: Path, text: str) -> None:
    """Appends all of it or, on an error, nothing: half a line would spoil the next one too."""
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(text.encode())
    except OSError:
        if path.exists():
            os.truncate(path, before)
        raise


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

"""The Reporter of the command line: rich bars on a terminal, one line a minute elsewhere; warnings are kept for the end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rewarm.progress import Bar

LINE_EVERY_S = 60.0
LOG_WIDTH = 120
"""Columns of a table where there is no terminal to ask."""


def quantity(value: float, unit: str) -> str:
    """`1.2M tokens`, `340 rows`: three figures, for bars and lines."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter} {unit}".strip()
    return f"{value:,.0f} {unit}".strip()


def duration(seconds: float) -> str:
    """`8 s`, `6.5 min`, `3.2 h`: two figures, for people."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


class Console:
    """Prints for people: lines and warnings to stderr-free stdout, bars where stdout is a terminal."""

    def __init__(self, out: RichConsole | None = None) -> None:
        self.out = out or RichConsole(highlight=False, soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 140)
        self.warnings: list[str] = []

    def say(self, text: str) -> None:
        self.out.print(escape(text))

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        self.out.print(f"[yellow]warning:[/yellow] {escape(text)}")

    @contextlib.contextmanager
    def bar(self, label: str, total: float | None, unit: str) -> Iterator[Bar]:
        if self.out.is_terminal:
            columns = (
                TextColumn("  {task.description}"),
                BarColumn(bar_width=28),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}"),
            )
            with Progress(*columns, console=self.out, transient=True) as progress:
                task = progress.add_task(escape(label), total=total, rate="", note="")
                yield _RichBar(progress, task, unit)
        else:
            bar = _LineBar(self, label, total, unit)
            yield bar


class _RichBar:
    def __init__(self, progress: Progress, task: TaskID, unit: str) -> None:
        self.progress, self.task, self.unit = progress, task, unit
        self.start, self.done = time.monotonic(), 0.0

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done += amount
        rate = self.done / max(time.monotonic() - self.start, 1e-9)
        self.progress.update(self.task, advance=amount, rate=f"{quantity(rate, self.unit)}/s", note=escape(note))


class _LineBar:
    def __init__(self, console: Console, label: str, total: float | None, unit: str) -> None:
        self.console, self.label, self.total, self.unit = console, label, total, unit
        self.start = self.last = time.monotonic()
        self.done = 0.0

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.last < LINE_EVERY_S:
            return
        self.last = now
        rate = self.done / max(now - self.start, 1e-9)
        parts = [f"  {self.label}: {quantity(self.done, self.unit)}"]
        if self.total:
            left = (self.total - self.done) / rate if rate > 0 else 0.0
            parts.append(f"{100 * self.done / self.total:.0f} %, {left / 60:.1f} min left")
        parts.append(f"{quantity(rate, self.unit)}/s")
        self.console.say(", ".join(parts + ([note] if note else [])))

"""The training's curves from its metrics and events: pure, and bounded however long the run was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rewarm.report.figures import number

MOST_POINTS = 240
"""Points a curve: each carries its numbers as a tooltip, so thousands would make megabytes."""


@dataclass(frozen=True, slots=True)
class Line:
    """A step of training, or the mean of `steps` of them: loss in nats a token, bits per byte by source; None where none was measured."""

    step: int
    tokens: int
    steps: int
    loss: float | None
    sources: dict[str, float | None]


def training_lines(metrics: Iterable[dict[str, Any]], most: int = MOST_POINTS) -> list[Line]:
    """metrics.jsonl as at most `most` lines, in one pass and little memory; longer ones are averaged over equal numbers of lines."""
    lines: list[Line] = []
    waiting: list[Line] = []
    width, last = 1, -1
    for entry in metrics:
        line = _line(entry)
        if line is None or line.step <= last:
            continue
        last = line.step
        waiting.append(line)
        if len(waiting) < width:
            continue
        lines.append(_mean(waiting))
        waiting = []
        if len(lines) == 2 * most:
            lines, width = _pairs(lines), 2 * width
    if waiting:
        lines.append(_mean(waiting))
    return lines if len(lines) <= most else _pairs(lines)


def _line(entry: dict[str, Any]) -> Line | None:
    step, tokens = number(entry.get("step")), number(entry.get("tokens"))
    if step is None or tokens is None:
        return None
    sources = {name: number(source.get("bits_per_byte")) for name, source in (entry.get("sources") or {}).items()}
    return Line(int(step), int(tokens), 1, number(entry.get("loss")), sources)


def _pairs(lines: list[Line]) -> list[Line]:
    return [_mean(lines[i : i + 2]) for i in range(0, len(lines), 2)]


def _mean(lines: list[Line]) -> Line:
    """One line for several: means weighted by how many steps each stands for, at the last one's place."""
    if len(lines) == 1:
        return lines[0]
    names = dict.fromkeys(name for line in lines for name in line.sources)
    sources = {name: _weighted([(line.sources.get(name), line.steps) for line in lines]) for name in names}
    loss = _weighted([(line.loss, line.steps) for line in lines])
    return Line(lines[-1].step, lines[-1].tokens, sum(line.steps for line in lines), loss, sources)


def _weighted(values: list[tuple[float | None, int]]) -> float | None:
    there = [(value, weight) for value, weight in values if value is not None]
    return sum(v * w for v, w in there) / sum(w for _, w in there) if there else None


@dataclass(frozen=True, slots=True)
class Probed:
    """One look at held-out text during training: by text bits per byte, how far above the base that is (old texts only), documents."""

    step: int
    texts: dict[str, dict[str, Any]]


def probes(events: Iterable[dict[str, Any]], most: int = MOST_POINTS) -> list[Probed]:
    """The probes among the events by step, every k-th of them and the last if there are more than `most`; of one step the last counts."""
    found: dict[int, dict[str, Any]] = {}
    for event in events:
        step = number(event.get("step"))
        if event.get("event") == "probe" and step is not None and isinstance(event.get("texts"), dict):
            found[int(step)] = event["texts"]
    steps = sorted(found)
    every = -(-len(steps) // most) or 1
    return [Probed(step, found[step]) for step in dict.fromkeys([*steps[::every], *steps[-1:]])]


def smooth(values: list[float | None], reach: int) -> list[float | None]:
    """The mean of each value and up to `reach` neighbours on either side, fewer at the ends; gaps stay gaps."""
    out: list[float | None] = []
    for i, value in enumerate(values):
        window = [v for v in values[max(0, i - reach) : i + reach + 1] if v is not None]
        out.append(None if value is None else sum(window) / len(window))
    return out

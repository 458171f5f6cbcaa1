"""Plots as inline SVG: text, circles and lines with classes, coloured by the page's style sheet, so they follow light and dark.

Drawn 360 units wide, for a phone; a wider screen enlarges them. Every mark carries its numbers in a <title>, every plot says in <desc> what
it shows; markupsafe escapes all of it. No inline style, as the page's content policy allows none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from rewarm.report.figures import MINUS, cut, visible

WIDTH = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 12, 38
_SHAPES = ("circle", "square", "diamond")


@dataclass(frozen=True, slots=True)
class Point:
    """A mark at (x, y) with the words that its tooltip says."""

    x: float
    y: float
    said: str


@dataclass(frozen=True, slots=True)
class Curve:
    """Points and, apart from them, the line through them (None in it is a gap). kind: `new`, `old` or `all`; nth: place in its kind."""

    name: str
    kind: str
    nth: int
    points: Sequence[Point]
    line: Sequence[tuple[float, float] | None] = ()


@dataclass(frozen=True, slots=True)
class Whisker:
    """A change with its interval: one row of the interval plot. low, high: None where there is none."""

    name: str
    kind: str
    value: float
    low: float | None
    high: float | None
    said: str


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map of [low, high] to [start, end] units, with round marks inside."""

    low: float
    high: float
    start: float
    end: float
    marks: tuple[float, ...] = field(default=())

    def at(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)


def scale(values: Sequence[float], start: float, end: float, marks: int = 5, whole: bool = False) -> Scale:
    """A scale that holds all values, with about `marks` round marks (whole numbers only if `whole`)."""
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(1.0, abs(high)):
        room = abs(high) * 0.05 or 1.0
        low, high = low - room, high + room
    step = _round_step((high - low) / marks)
    if whole:
        step = max(1.0, step)
    low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
    first, last = math.ceil(low / step), math.floor(high / step)
    return Scale(low, high, start, end, tuple(k * step for k in range(first, last + 1)))


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5 x 10^k that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= least * 0.999)


def mark_text(value: float, marks: Sequence[float]) -> str:
    """A mark's number with as many places as the distance of the marks needs."""
    gap = marks[1] - marks[0] if len(marks) > 1 else 1.0
    places = max(0, -math.floor(math.log10(gap) + 1e-9))
    text = f"{value:,.{places}f}"
    return text if text.strip("-0.,") else text.replace("-", "")  # no minus zero


def line_plot(title: str, desc: str, curves: Sequence[Curve], x_name: str, y_name: str, refs: Sequence[tuple[str, float]] = ()) -> Markup:
    """Curves over a common x. refs: named horizontal lines. Nothing to draw gives an empty string."""
    points = [p for curve in curves for p in curve.points]
    if not points:
        return Markup("")
    height = 230
    x = scale([p.x for p in points], _LEFT, WIDTH - _RIGHT, whole=True)
    y = scale([*(p.y for p in points), *(value for _, value in refs)], height - _BOTTOM, _TOP)
    parts = [_grid(x, y, height)]
    for name, value in refs:
        parts.append(Markup('<line class="ref" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(x.start, x.end, y=y.at(value)))
        parts.append(Markup('<text class="ref" x="{}" y="{}" text-anchor="end">{}</text>').format(x.end, y.at(value) - 4, shown(name, 30)))
    for curve in curves:
        parts.append(_line(curve, x, y))
        parts += [_dot(p.said, x.at(p.x), y.at(p.y), curve.kind, curve.nth) for p in curve.points]
    parts.append(
        Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format((x.start + x.end) / 2, height - 4, x_name)
    )
    return _svg(title, f"{desc} {y_name} over {x_name}.", height, parts)


def _grid(x: Scale, y: Scale, height: int) -> Markup:
    out = Markup("")
    for value in y.marks:
        out += Markup('<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(x.start, x.end, y=y.at(value))
        out += Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
            x.start - 5, y.at(value) + 4, _minus(mark_text(value, y.marks))
        )
    for value in x.marks:
        out += Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
            x.at(value), height - 21, _minus(mark_text(value, x.marks))
        )
    return out


def _minus(text: str) -> str:
    return text.replace("-", MINUS)


def _line(curve: Curve, x: Scale, y: Scale) -> Markup:
    """The line, broken at its gaps."""
    path, pen = [], "M"
    for place in curve.line:
        if place is None:
            pen = "M"
            continue
        path.append(f"{pen}{x.at(place[0])} {y.at(place[1])}")
        pen = "L"
    return Markup('<path class="line {} n{}" d="{}"/>').format(curve.kind, curve.nth % 3, "".join(path)) if path else Markup("")


def _dot(said: str, x: float, y: float, kind: str, nth: int) -> Markup:
    """A mark whose shape tells curves apart without colour; its class holds the kind."""
    name = shown(said, 300)
    shape = _SHAPES[nth % 3] if kind != "old" else _SHAPES[(nth + 1) % 3]
    if shape == "circle":
        return Markup('<circle class="mark {}" cx="{}" cy="{}" r="2.6"><title>{}</title></circle>').format(kind, x, y, name)
    turn = Markup(' transform="rotate(45 {} {})"').format(x, y) if shape == "diamond" else ""
    box = Markup('<rect class="mark {}" x="{}" y="{}" width="5" height="5"{}><title>{}</title></rect>')
    return box.format(kind, round(x - 2.5, 2), round(y - 2.5, 2), turn, name)


def key(kind: str, nth: int) -> Markup:
    """A short line with its mark, for the legend of `line_plot`."""
    line = Markup('<path class="line {} n{}" d="M1 6L27 6"/>').format(kind, nth % 3)
    return Markup('<svg class="key" viewBox="0 0 28 12" aria-hidden="true">{}{}</svg>').format(line, _dot("", 14, 6, kind, nth))


def interval_plot(title: str, desc: str, rows: Sequence[Whisker], better: str, worse: str) -> Markup:
    """A row for each change: a mark, its 95 % interval, and zero as a line; left is better. Nothing to draw gives an empty string."""
    if not rows:
        return Markup("")
    height = 30 + 46 * len(rows) + _BOTTOM
    values = [0.0, *(v for row in rows for v in (row.value, row.low, row.high) if v is not None)]
    x = scale(values, 16, WIDTH - 16, marks=4)
    bottom, zero = height - _BOTTOM, x.at(0.0)
    parts = [
        Markup('<text class="axis" x="{}" y="14" text-anchor="start">← {}</text>').format(16, better),
        Markup('<text class="axis" x="{}" y="14" text-anchor="end">{} →</text>').format(WIDTH - 16, worse),
    ]
    for value in x.marks:
        parts.append(Markup('<line class="grid" x1="{x}" x2="{x}" y1="24" y2="{}"/>').format(bottom, x=x.at(value)))
        label = ("+" if value > 1e-12 else "") + mark_text(value, x.marks)
        parts.append(Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(x.at(value), bottom + 15, _minus(label)))
    parts.append(Markup('<line class="zero" x1="{x}" x2="{x}" y1="24" y2="{}"/>').format(bottom, x=zero))
    for i, row in enumerate(rows):
        name_y, y = 42 + 46 * i, 58 + 46 * i
        parts.append(Markup('<text class="name" x="16" y="{}">{}</text>').format(name_y, shown(row.name, 40)))
        parts.append(Markup('<g class="whisker {}"><title>{}</title>').format(row.kind, shown(row.said, 300)))
        if row.low is not None and row.high is not None:
            low, high = x.at(row.low), x.at(row.high)
            parts.append(Markup('<path d="M{} {y}L{} {y}"/>').format(low, high, y=y))
            parts += [Markup('<path d="M{x} {}L{x} {}"/>').format(y - 6, y + 6, x=end) for end in (low, high)]
        parts.append(_dot(row.said, x.at(row.value), y, row.kind, 0))
        parts.append(Markup("</g>"))
    parts.append(
        Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">change in bits per byte</text>').format(WIDTH / 2, height - 4)
    )
    return _svg(title, desc, height, parts)


def share_bar(title: str, desc: str, parts: Sequence[tuple[str, float, str]]) -> Markup:
    """One bar cut into (class, amount, tooltip): how something is divided. No amount gives an empty string."""
    total = sum(amount for _, amount, _ in parts)
    if total <= 0:
        return Markup("")
    out, x = [], 0.0
    for kind, amount, said in parts:
        width = WIDTH * amount / total
        if amount > 0:
            box = Markup('<rect class="share {}" x="{}" y="1" width="{}" height="20"><title>{}</title></rect>')
            out.append(box.format(kind, round(x, 2), round(max(width - 1, 0.8), 2), shown(said, 300)))
        x += width
    return _svg(title, desc, 22, out)


def _svg(title: str, desc: str, height: int, parts: Sequence[Markup]) -> Markup:
    head = Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}"><desc>{}</desc>')
    return head.format(WIDTH, height, shown(title, 200), shown(desc, 2000)) + Markup("").join(parts) + Markup("</svg>")


def shown(text: str, most: int) -> str:
    """Foreign text for a plot: nothing hidden in it, and not endless."""
    return cut(visible(text).replace("\n", " "), most)

"""Which plots the page has: from facts and curves to the shapes that `plots` draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from rewarm.report import plots
from rewarm.report.curves import Line, Probed, smooth
from rewarm.report.figures import count, digits, megabytes, number, signed
from rewarm.report.plots import Curve, Point, Whisker
from rewarm.report.say import meaning, span

MOST_CURVES = 6
"""Curves in one plot; the sources after these are named beside it."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing with its caption, its legend (name, key) and the names of curves that did not fit."""

    drawing: Markup
    caption: str
    legend: Sequence[tuple[str, Markup]] = ()
    left_out: Sequence[str] = ()


def intervals(texts: list[dict[str, Any]]) -> list[Plot]:
    """Learned and forgotten in two panels, each with its own scale: on one, what was learned would hide what was forgotten."""
    out = []
    for role, title, better, worse in (
        ("new", "New text: what was learned", "learned", "got worse"),
        ("old", "Old text: what was forgotten", "got better", "forgot"),
    ):
        mine = [t for t in texts if t["role"] == role and t["delta"] is not None]
        rows = [Whisker(t["name"], role, t["delta"], t["low"], t["high"], f"{t['name']}: {signed(t['delta'])} ({span(t)})") for t in mine]
        drawing = plots.interval_plot(title, " ".join(meaning(t) for t in mine), rows, better, worse)
        if drawing:
            out.append(Plot(drawing, title))
    return out


def divided(source: dict[str, Any]) -> Markup:
    """A source's bytes as one bar: kept, held out, dropped for each reason."""
    kinds = {"kept": "kept", "heldout": "heldout"}
    rows = [row for row in source["funnel"] if row["step"] != "read"]
    rows.sort(key=lambda row: ("kept", "heldout").index(row["step"]) if row["step"] in kinds else 2)
    parts = [
        (kinds.get(r["step"], "dropped"), r["bytes"], f"{r['label']}: {count(r['documents'])} documents, {megabytes(r['bytes'])}")
        for r in rows
    ]
    return plots.share_bar(f"How the text of {source['name']} was divided", "; ".join(said for _, amount, said in parts if amount), parts)


def loss(lines: list[Line]) -> Plot | None:
    """Loss of all tokens together."""
    points = [
        Point(line.step, line.loss, f"step {line.step:,}: {digits(line.loss)} nats a token") for line in lines if line.loss is not None
    ]
    curve = Curve("all sources", "all", 0, points, _smoothed([(line.step, line.loss) for line in lines]))
    drawing = plots.line_plot("Training loss", _ends("Loss", points), [curve], "step", "nats a token")
    return Plot(drawing, "Training loss, nats a token") if drawing else None


def training_bits(lines: list[Line], roles: dict[str, str]) -> Plot | None:
    """Bits per byte of the training text as it is read, by source."""
    names = list(dict.fromkeys(name for line in lines for name in line.sources))
    curves = []
    for name, kind, nth in _styled(names, roles):
        # a step need not read every source: that is no gap, the mean runs on over the steps that did
        values = [(line.step, bits) for line in lines if (bits := line.sources.get(name)) is not None]
        points = [Point(step, bits, f"{name}, step {step:,}: {digits(bits)} bits per byte") for step, bits in values]
        curves.append(Curve(name, kind, nth, points, _smoothed(values)))
    return _plot("Bits per byte of the training text, by source", curves, names)


def probed_bits(looks: list[Probed], roles: dict[str, str]) -> list[Plot]:
    """Bits per byte of a little held-out text during training; new and old apart, old with the base's level."""
    names = list(dict.fromkeys(name for look in looks for name in look.texts))
    out = []
    for role, title in (("new", "Held-out new text during training"), ("old", "Held-out old text during training")):
        mine = [name for name in names if (roles.get(name) == "new") == (role == "new")]
        curves, refs = [], []
        for name, kind, nth in _styled(mine, roles):
            values = [(look.step, number((look.texts.get(name) or {}).get("bits_per_byte"))) for look in looks]
            points = [
                Point(step, bits, f"{name}, step {step:,}: {digits(bits)} bits per byte") for step, bits in values if bits is not None
            ]
            curves.append(Curve(name, kind, nth, points, [(step, bits) if bits is not None else None for step, bits in values]))
            level = base_level(looks, name)
            if level is not None:
                refs.append((f"{name}: the base, {digits(level)}", level))
        plot = _plot(f"{title}, bits per byte", curves, mine, refs)
        if plot:
            out.append(plot)
    return out


def base_level(looks: list[Probed], name: str) -> float | None:
    """The base's bits per byte on the probe's documents of an old text: what was measured less how far it is above the base."""
    for look in looks:
        bits, delta = (number((look.texts.get(name) or {}).get(key)) for key in ("bits_per_byte", "delta"))
        if bits is not None and delta is not None:
            return bits - delta
    return None


def size_curve(curve: list[dict[str, Any]]) -> Plot | None:
    """Bytes a token against the number of new tokens, by language."""
    prefix = "bytes_per_token."
    names = list(dict.fromkeys(key.removeprefix(prefix) for row in curve for key in row if key.startswith(prefix)))
    curves = []
    for nth, name in enumerate(names[:MOST_CURVES]):
        pairs = [(row["new_tokens"], value) for row in curve if (value := number(row.get(prefix + name))) is not None]
        points = [Point(n, value, f"{name}, {n:,} new tokens: {digits(value, 2)} bytes a token") for n, value in pairs]
        curves.append(Curve(name, "new", nth, points, pairs))
    title = "Bytes a token by the number of new tokens"
    drawing = plots.line_plot(title, "More bytes a token mean shorter text for the model.", curves, "new tokens", "bytes a token")
    return Plot(drawing, title, _legend(curves), names[MOST_CURVES:]) if drawing else None


def _plot(title: str, curves: list[Curve], names: list[str], refs: Sequence[tuple[str, float]] = ()) -> Plot | None:
    desc = " ".join(_ends(curve.name, curve.points) for curve in curves)
    drawing = plots.line_plot(title, desc, curves, "step", "bits per byte", refs)
    return Plot(drawing, title, _legend(curves), names[MOST_CURVES:]) if drawing else None


def _styled(names: list[str], roles: dict[str, str]) -> list[tuple[str, str, int]]:
    """(name, kind, place among its kind) of the first MOST_CURVES."""
    seen = {"new": 0, "old": 0}
    out = []
    for name in names[:MOST_CURVES]:
        kind = "new" if roles.get(name) == "new" else "old"
        out.append((name, kind, seen[kind]))
        seen[kind] += 1
    return out


def _legend(curves: Sequence[Curve]) -> list[tuple[str, Markup]]:
    return [(curve.name, plots.key(curve.kind, curve.nth)) for curve in curves]


def _smoothed(values: Sequence[tuple[int, float | None]]) -> list[tuple[float, float] | None]:
    """The running mean over about an eighth of the curve, since single steps jump with what they happen to read."""
    means = smooth([value for _, value in values], max(1, len(values) // 16))
    return [(step, mean) if mean is not None else None for (step, _), mean in zip(values, means)]


def _ends(name: str, points: Sequence[Point]) -> str:
    """`vi_law: from 2.139 at step 0 to 1.205 at step 50.`"""
    if not points:
        return ""
    first, last = points[0], points[-1]
    return f"{name}: from {digits(first.y)} at step {count(first.x)} to {digits(last.y)} at step {count(last.x)}."

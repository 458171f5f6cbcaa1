"""What changed between two models on the same documents, and what may be said about it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rewarm.errors import UserError
from rewarm.evaluate.bits import DocScores, bits_per_byte, shared
from rewarm.evaluate.statistics import LEAST, bootstrap, ratio_interval, ratio_of_sums

CARRIES = 1 / 3
"""Share of the squared interval above which a document is named. Comparing the jackknife's width with the bootstrap's does not find it: one
outlier of 5,000 nats among 60 documents moved them 22 % apart."""


@dataclass(frozen=True, slots=True)
class Delta:
    """Bits per byte before and after on the same n documents. delta = after - before (> 0: forgot), with its 95 % interval (jackknife-t),
    and a percentile bootstrap beside it; all None where there are fewer than ten documents. carriers: documents that each make more than
    a third of the interval, if there are 20 or more."""

    before: float
    after: float
    delta: float
    low: float | None
    high: float | None
    n: int
    bytes: int
    half_width: float | None
    bootstrap: tuple[float, float] | None = None
    carriers: tuple[str, ...] = ()


def compare(base: DocScores, model: DocScores, keep: npt.NDArray[np.bool_] | None = None) -> Delta:
    """The paired difference over documents that both models can be scored on (`keep`: over these). Document order changes nothing."""
    if base.ids != model.ids or not np.array_equal(base.bytes, model.bytes):
        raise UserError("the two models were not scored on the same documents", where="comparison", fix="score both again on one text")
    keep = shared([base, model]) if keep is None else keep
    d = (model.nll[keep] - base.nll[keep]) / math.log(2)
    length = base.bytes[keep].astype(np.float64)
    before, after = bits_per_byte(base, keep), bits_per_byte(model, keep)
    found = ratio_interval(d, length)
    n, total = len(d), int(length.sum())
    if found.low is None or found.high is None:
        return Delta(before, after, found.value, None, None, n, total, None)
    drawn = bootstrap(ratio_of_sums, [d, length])
    pull = (d - found.value * length) ** 2
    names = [name for name, kept in zip(base.ids, keep) if kept]
    carriers = tuple(names[i] for i in np.flatnonzero(pull > CARRIES * pull.sum()).tolist()) if n >= 2 * LEAST else ()
    return Delta(before, after, found.value, found.low, found.high, n, total, (found.high - found.low) / 2, drawn, carriers)


@dataclass(frozen=True, slots=True)
class Verdict:
    """word: `kept`, `over` or `undecided` with a budget; else `learned`, `worse`, `gained`, `forgot`, `no change seen` or `undecided`.
    sentence: the word with its reason and, where it is undecided, the text that would decide it."""

    word: str
    sentence: str


def verdict(delta: Delta, budget: float | None = None, role: str = "old") -> Verdict:
    """What the interval allows to say. budget: bits per byte that may be lost."""
    if delta.low is None or delta.high is None or delta.half_width is None:
        more = max(20_000, delta.bytes * 5)
        return Verdict(
            "undecided",
            f"undecided: {delta.n} document{'s are' if delta.n != 1 else ' is'} too few for an interval;"
            f" give at least {LEAST}, better 50, about {more / 1000:,.0f} KB",
        )
    span = f"{delta.delta:+.4f} bits per byte, 95 %: {delta.low:+.4f} to {delta.high:+.4f}"
    if budget is not None:
        if delta.high <= budget:
            return Verdict("kept", f"kept within {budget:g} ({span})")
        if delta.low > budget:
            return Verdict("over", f"over the budget of {budget:g} ({span})")
        return Verdict("undecided", f"undecided against {budget:g} ({span}); {_needed(delta, budget)}")
    if delta.low > 0:
        word = "forgot" if role == "old" else "worse"
    elif delta.high < 0:
        word = "gained" if role == "old" else "learned"
    else:
        word = "no change seen"
    return Verdict(word, f"{word} ({span})")


def _needed(delta: Delta, budget: float) -> str:
    """An interval narrows with the root of the text: bytes * (half width / distance to the budget)^2 would decide it."""
    assert delta.half_width is not None
    distance = abs(budget - delta.delta)
    if distance == 0:
        return "the change equals the budget: no amount of text decides"
    return f"about {delta.bytes * (delta.half_width / distance) ** 2 / 1000:,.0f} KB of such text would decide"

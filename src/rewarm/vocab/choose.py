"""How many new tokens: from one long run of merging to the extension that is written.

Since merges are appended in order, every smaller extension is a prefix of a larger one. So the size is chosen afterwards: the knee of the
curve, less the tail that training would hardly see, less what changes too much of the protected text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from rewarm.errors import UserError
from rewarm.vocab.base import Base, encode_ids
from rewarm.vocab.coverage import joined
from rewarm.vocab.extension import Extension
from rewarm.vocab.gate import allowed_changes, allowed_share
from rewarm.vocab.kinds import Kind
from rewarm.vocab.merge import Merges
from rewarm.vocab.problem import Problem
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.report import Advice, Curve, advise, auto_uses, knee, min_uses_size, size_curve

Build = Callable[[Merges], Extension]
FRONTIER = (0.0, 0.01, 0.1, 1.0, "off")


@dataclass(frozen=True)
class Choice:
    """An extension, and how its size came about."""

    extension: Extension
    learnt: int
    """New tokens that the text asked for; `extension` may hold repaired bytes beyond."""
    fewest_uses: float
    """Occurrences of the rarest of them in the counted text, as it was chosen; languages weighted."""
    refused: dict[str, int]
    """How many candidates each rule, or the guard, refused."""
    weights: dict[str, int]
    """Language -> weight of one occurrence."""
    curve: Curve
    advice: Advice
    reasons: tuple[str, ...]
    """Why the size is what it is, one line a step."""
    min_uses: int
    tuning: dict[str, Any] | None
    """Changed lines on the tuning part of the protected text, None without one."""


def choose(
    problem: Problem, base: Base, cfg: VocabRecipe, planned_tokens: int | None, tuning: list[str], kind: Kind, build: Build
) -> Choice:
    """Chooses the size. UserError with the frontier over tau if a size that was asked for changes too much protected text.

    build: the extension that these merges make, in `kind`'s way.
    """
    asked = cfg.max_size if cfg.size == "auto" else cfg.size
    merges = problem.solve(asked, cfg.tau)
    curve = size_curve(merges, problem.languages)
    advice = advise(curve, cfg.min_gain, asked)
    reasons = [f"{merges.new:,} tokens can be made" + (f": {_why_fewer(merges, asked)}" if merges.new < asked else "")]
    size = merges.new
    if cfg.size == "auto":
        size = knee(curve, asked, problem.first)
        reasons.append(f"{size:,}: doubling them would add less than 3 % bytes a token")
    uses = auto_uses(planned_tokens) if cfg.min_uses == "auto" else cfg.min_uses
    if cfg.size == "auto" or cfg.min_uses != "auto":
        saved = np.cumsum(merges.saved, axis=0)
        after = problem.weighted_tokens - sum(w * saved[:, column] for column, w in problem.weighted.items())
        used = min_uses_size(merges, curve, np.asarray(after, dtype=np.float64), planned_tokens, problem.unit, uses)
        if used < size:
            size = used
            where = "the counted text" if planned_tokens is None else f"{planned_tokens:,} planned tokens"
            reasons.append(f"{size:,}: the others would be used less than {uses} times in {where}")
    measured = None
    if tuning and size:
        size, measured, reason = _keep_old_text(problem, merges, base, cfg, size, tuning, kind, build)
        reasons += [reason] if reason else []
    merges = merges.cut(size)
    fewest = float(merges.count.min(initial=np.iinfo(np.int64).max)) / problem.unit
    if problem.insist:
        more = problem.insist(base, kind.spec(base, build(merges)), merges)
        merges = joined(merges, more)
        reasons.append(f"{more.new:,} more for {len(cfg.words):,} words of vocab.words")
    return Choice(build(merges), merges.new, fewest, merges.banned, problem.weights, curve, advice, tuple(reasons), uses, measured)


def _why_fewer(merges: Merges, asked: int) -> str:
    banned = ", ".join(f"{n:,} by {name}" for name, n in merges.banned.items()) or "none"
    return f"no pair that may be joined stands twice in the target text (refused: {banned}); {asked:,} were allowed"


def _keep_old_text(
    problem: Problem, merges: Merges, base: Base, cfg: VocabRecipe, size: int, tuning: list[str], kind: Kind, build: Build
) -> tuple[int, dict[str, Any], str | None]:
    """The largest size that keeps the tuning part within `max_changed_lines`; changes only grow with the size, so halving finds it."""
    before = encode_ids(base.tokenizer, tuning)
    share = allowed_share(base, cfg)
    limit = allowed_changes(len(tuning), share, 0.05)

    def changed(some: Merges) -> int:
        new = Tokenizer.from_str(json.dumps(kind.spec(base, build(some))))
        return sum(a != b for a, b in zip(before, encode_ids(new, tuning)))

    count = changed(merges.cut(size))
    measured = {"lines": len(tuning), "limit": limit}
    if count <= limit:
        return size, {**measured, "changed_lines": count}, None
    if cfg.size != "auto":
        raise UserError(_frontier(problem, changed, cfg, count, limit, len(tuning), share), where="vocab.size", fix=_FIX)
    low, high = 0, size
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if changed(merges.cut(middle)) <= limit else (low, middle)
    reason = f"{low:,}: more would change over {limit:,} of {len(tuning):,} protected lines ({count:,} with {size:,}); {_FIX}"
    return low, {**measured, "changed_lines": changed(merges.cut(low))}, reason


_FIX = "give more protected text, lower vocab.tau, or raise vocab.max_changed_lines"


def _frontier(
    problem: Problem, changed: Callable[[Merges], int], cfg: VocabRecipe, count: int, limit: int, lines: int, share: float
) -> str:
    """What other guards would give at the size that was asked for."""
    assert cfg.size != "auto"
    rows = [f"{count:,} of {lines:,} protected lines would change, {limit:,} are allowed (max_changed_lines {share}):"]
    rows.append("tau     new tokens   bytes a token   changed lines")
    for tau in FRONTIER:
        merges = problem.solve(cfg.size, tau)
        curve = size_curve(merges, problem.languages)
        rows.append(f"{tau!s:<7} {merges.new:>10,} {float(curve.bytes_per_token[-1].mean()):>15.3f} {changed(merges):>15,}")
    return "\n".join(rows)

"""How many new tokens, for tokenizers that have no order of merges: one pool of candidates is pruned to smaller and smaller sizes.

No extension is the beginning of a larger one here, so the size curve is measured at some sizes (250, 500, 1,000 ...) and drawn straight
between them on a logarithmic scale. Whatever size it says is then really pruned to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from rewarm.errors import UserError
from rewarm.vocab.balance import language_weights
from rewarm.vocab.base import Base, encode_ids
from rewarm.vocab.choose import FRONTIER, Choice
from rewarm.vocab.count import Counts
from rewarm.vocab.extension import Extension
from rewarm.vocab.gate import allowed_changes, allowed_share
from rewarm.vocab.kinds import Kind
from rewarm.vocab.names import guarded, old_runs
from rewarm.vocab.problem import PROTECTED
from rewarm.vocab.prune import Coder, Kept, Meter, Pool, Texts, prune
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.report import Curve, advise, auto_uses, knee
from rewarm.vocab.rules import Guard, Refusal
from rewarm.vocab.words import forms_of

SMALLEST = 250
SHRINK = 0.7
"""An automatic size that changes too much old text is tried again this much smaller."""
_FIX = "give more protected text, lower vocab.tau, or raise vocab.max_changed_lines"


@dataclass(frozen=True)
class Task:
    """Texts as the pruning sees them, and what of the recipe concerns it."""

    counts: Counts
    languages: list[str]
    weights: dict[str, int]
    """Target group -> weight of one occurrence."""
    texts: Texts
    refusal: Refusal
    """The recipe's rules, and the guard of old words."""

    @property
    def unit(self) -> int:
        return max(self.weights.values())

    @property
    def protect(self) -> str | None:
        return PROTECTED if PROTECTED in self.counts.groups else None

    def guard(self, tau: float | str) -> Guard:
        target = sum(w * self.counts.bytes_of(g) for g, w in self.weights.items())
        return Guard.of(tau, target, self.counts.bytes_of(PROTECTED) if self.protect else 0)


def task_of(counts: Counts, base: Base, languages: list[str], cfg: VocabRecipe, text_of: Callable[[str], str]) -> Task:
    """text_of: a word as text, with the blank before it if it has one. Groups of counts: `target:<language>`, `held:...`, PROTECTED."""
    targets = [f"target:{name}" for name in languages]
    weights = language_weights(counts, targets, cfg.balance)
    none = np.zeros(len(counts.words), dtype=np.int64)
    target = sum((counts.column(g) * w for g, w in weights.items()), start=none)
    protected = counts.column(PROTECTED) if PROTECTED in counts.groups else none
    refusal = base.refusal(cfg.rules)
    if PROTECTED in counts.groups and (limit := cfg.name_guard) != "off":

        @cache
        def runs() -> frozenset[str]:
            groups = [(counts.column(g), counts.bytes_of(g)) for g in [*targets, PROTECTED]]
            return old_runs([text_of(word) for word in counts.words], groups[:-1], groups[-1], float(limit))

        refusal = guarded(refusal, runs)
    return Task(counts, languages, weights, Texts(counts.words, target, protected), refusal)


def insisted(task: Task, base: Base, cfg: VocabRecipe) -> list[str]:
    """`vocab.words` as pre-tokens. They are kept whatever their uses, but UserError for one that a rule forbids."""
    forms = forms_of(cfg.words, base, task.counts, list(task.weights)) if cfg.words else []
    for form in forms:
        if (reason := base.refusal(cfg.rules)(base.surface_of(form))) is not None:
            what = f"`{base.surface_of(form).decode()}` cannot become one token: {reason}"
            raise UserError(what, where="vocab.words", fix="leave the word out, or look at vocab.rules")
    return forms


class Pruner:
    """Prunes one pool to any size; a smaller size starts from what a larger one left."""

    def __init__(self, task: Task, pool: Pool, coder: Coder, tau: float | str) -> None:
        self.task, self.pool, self.coder = task, pool, coder
        self.guard = task.guard(tau)
        self.meter = Meter(task.texts, pool, coder)
        self.done: dict[tuple[int, int], Kept] = {}

    def to(self, k: int, least: int) -> Kept:
        """At most k new tokens of at least `least` weighted uses."""
        if (k, least) not in self.done:
            larger = [(size, uses) for size, uses in self.done if size >= k and uses <= least]
            start = self.done[min(larger)].pool if larger else self.pool
            self.done[k, least] = prune(self.task.texts, start, k, self.guard, least, self.coder, self.meter)
        return self.done[k, least]


def measured_curve(task: Task, meter: Meter, steps: list[Kept]) -> Curve:
    """Bytes a token of held-out text with these extensions, straight lines between them on a logarithmic scale of sizes."""
    held = [f"held:{n}" if task.counts.bytes_of(f"held:{n}") else f"target:{n}" for n in task.languages]
    sizes, rows = [0], [meter.costs(None)[0]]
    for kept in sorted(steps, key=lambda kept: len(kept.uses)):
        if len(kept.uses) > sizes[-1]:
            sizes.append(len(kept.uses))
            rows.append(meter.costs(kept.pool)[0])
    at = np.log1p(np.arange(sizes[-1] + 1))
    columns = []
    for group in held:
        tokens = np.array([int(row @ task.counts.column(group)) for row in rows])
        columns.append(np.exp(np.interp(at, np.log1p(sizes), np.log(task.counts.bytes_of(group) / np.maximum(1, tokens)))))
    return Curve(tuple(task.languages), np.arange(sizes[-1] + 1), np.stack(columns, axis=1))


def choose_pruned(
    task: Task,
    base: Base,
    cfg: VocabRecipe,
    planned_tokens: int | None,
    tuning: list[str],
    kind: Kind,
    coder: Coder,
    pool_of: Callable[[float | str], Pool],
    build: Callable[[Kept], Extension],
) -> Choice:
    """Chooses size and tokens. pool_of: candidates under a guard; build: the extension that is left of them.

    UserError with the frontier over tau if a size that was asked for changes too much protected text.
    """
    auto = cfg.size == "auto"
    asked = cfg.max_size if cfg.size == "auto" else cfg.size
    pool = pool_of(cfg.tau)
    pruner = Pruner(task, pool, coder, cfg.tau)
    least = 2 * task.unit
    kept = pruner.to(asked, least)
    reasons = [f"{len(kept.uses):,} tokens can be made of {len(pool.pieces):,} candidates{_dropped(kept)}"]
    steps = [SMALLEST << i for i in range(12) if SMALLEST << i < len(kept.uses)] if auto else []
    curve = measured_curve(task, pruner.meter, [kept, *(pruner.to(size, least) for size in reversed(steps))])
    advice = advise(curve, cfg.min_gain, asked)
    if auto:
        size = knee(curve, asked, int(kept.pool.fixed.sum()))
        kept = pruner.to(size, least) if size < len(kept.uses) else kept
        reasons.append(f"{size:,}: doubling them would add less than 3 % bytes a token")
    uses = auto_uses(planned_tokens) if cfg.min_uses == "auto" else cfg.min_uses
    if auto or cfg.min_uses != "auto":
        need = uses * task.unit if planned_tokens is None else math.ceil(uses * kept.tokens / planned_tokens)
        before = len(kept.uses)
        kept = pruner.to(before, max(least, need))
        if len(kept.uses) < before:
            where = "the counted text" if planned_tokens is None else f"{planned_tokens:,} planned tokens"
            reasons.append(f"{len(kept.uses):,}: the others would be used less than {uses} times in {where}")
    measured = None
    if tuning and len(kept.uses):
        kept, measured, reason = _keep_old_text(task, pruner, kept, base, cfg, tuning, kind, pool_of, build)
        reasons += [reason] if reason else []
    if lost := _unknown(task, pruner.meter, None):
        now = _unknown(task, pruner.meter, kept)
        reasons.append(f"parts of the target text that cannot be written: {lost:,} with the base, {now:,} with the new tokens")
    extension = build(kept)
    learnt = kept.uses[~kept.pool.fixed]
    fewest = float(learnt.min() if len(learnt) else least) / task.unit  # characters are only added if they stand twice
    weights = {name: task.weights[f"target:{name}"] for name in task.languages}
    return Choice(extension, len(extension.tokens), fewest, kept.refused, weights, curve, advice, tuple(reasons), uses, measured)


def _unknown(task: Task, meter: Meter, kept: Kept | None) -> int:
    """Times that target text holds what cannot be written."""
    lost = meter.costs(kept.pool if kept else None)[1]
    return int(sum(lost @ task.counts.column(group) for group in task.weights))


def _dropped(kept: Kept) -> str:
    return f" (dropped: {', '.join(f'{n:,} {name}' for name, n in kept.refused.items())})" if kept.refused else ""


def _keep_old_text(
    task: Task, pruner: Pruner, kept: Kept, base: Base, cfg: VocabRecipe, tuning: list[str], kind: Kind,
    pool_of: Callable[[float | str], Pool], build: Callable[[Kept], Extension],
) -> tuple[Kept, dict[str, Any], str | None]:  # fmt: skip
    """These tokens, or fewer, so that the tuning part stays within `max_changed_lines`."""
    before = encode_ids(base.tokenizer, tuning)
    share = allowed_share(base, cfg)
    limit = allowed_changes(len(tuning), share, 0.05)

    def changed(some: Kept) -> int:
        new = Tokenizer.from_str(json.dumps(kind.spec(base, build(some))))
        return sum(a != b for a, b in zip(before, encode_ids(new, tuning)))

    count = first = changed(kept)
    asked = len(kept.uses)
    if count > limit and cfg.size != "auto":
        rows = [f"{count:,} of {len(tuning):,} protected lines would change, {limit:,} are allowed (max_changed_lines {share}):"]
        rows.append("tau     new tokens   bytes a token   changed lines")
        for tau in FRONTIER:
            again = Pruner(task, pool_of(tau), pruner.coder, tau)
            other = again.to(cfg.size, 2 * task.unit)
            curve = measured_curve(task, again.meter, [other])
            rows.append(f"{tau!s:<7} {len(other.uses):>10,} {float(curve.bytes_per_token[-1].mean()):>15.3f} {changed(other):>15,}")
        raise UserError("\n".join(rows), where="vocab.size", fix=_FIX)
    while count > limit and len(kept.uses):
        kept = pruner.to(int(SHRINK * len(kept.uses)), 2 * task.unit)
        count = changed(kept)
    measured = {"lines": len(tuning), "limit": limit, "changed_lines": count}
    size = len(kept.uses)
    if size == asked:
        return kept, measured, None
    return (
        kept,
        measured,
        f"{size:,}: more would change over {limit:,} of {len(tuning):,} protected lines ({first:,} with {asked:,}); {_FIX}",
    )

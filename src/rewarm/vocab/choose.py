"""How many new tokens: from one long run of merging to the extension that is written.

Since merges are appended in order, every smaller extension is a prefix of a larger one. So the size is chosen afterwards: the knee of the
curve, less the tail that training would hardly see, less what changes too much of the protected text.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from rewarm.errors import UserError
from rewarm.vocab.base import Base, encode_ids
from rewarm.vocab.cache import Cache
from rewarm.vocab.count import Counts, language_weights, split_words, tokens_of, words_to_merge
from rewarm.vocab.coverage import as_merges, joined
from rewarm.vocab.extension import Extension
from rewarm.vocab.gate import allowed_changes, allowed_share
from rewarm.vocab.kinds import Kind
from rewarm.vocab.merge import Grammar, Merges, continue_merges
from rewarm.vocab.names import guarded, old_runs
from rewarm.vocab.pairs import Words
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.report import Advice, Curve, advise, auto_uses, knee, min_uses_size, size_curve
from rewarm.vocab.rules import Guard, Refusal

Build = Callable[[Merges], Extension]
PROTECTED = "protected"
FRONTIER = (0.0, 0.01, 0.1, 1.0, "off")
_COLUMNS = ("left", "right", "id", "count", "saved")
_REFUSED = "refused "


@dataclass(frozen=True)
class Problem:
    """All that merging needs, from the counts: `solve` is a pure function of it."""

    words: Words
    grammar: Grammar
    refusal: Refusal
    target_bytes: int
    """Weighted like the counts."""
    protected_bytes: int
    unit: int
    """Weight of one occurrence in the smallest language: counts are judged in its multiples."""
    languages: dict[str, tuple[int, int, int]]
    """For `size_curve`: language -> (column, bytes, tokens) of its held-out text."""
    weighted: dict[int, int]
    """Column of a language's counted text -> its weight."""
    weighted_tokens: int
    """Weighted tokens of the counted target text with the base."""
    weights: dict[str, int]
    cache: Cache | None = None
    """Where merges are kept; it stands for all of the above."""
    head: Merges | None = None
    """Characters that come before all merges, and that the words know already; they have the first ids."""

    @property
    def first(self) -> int:
        """New tokens that come before all merges."""
        return self.head.new if self.head else 0

    def solve(self, k: int, tau: float | str) -> Merges:
        """At most k new tokens under this guard."""
        if self.head and k <= self.head.new:
            return self.head.cut(k)
        cache = self.cache.with_more(str(tau)) if self.cache else None
        merges = kept_merges(cache, k - self.first, lambda: self._solve(k - self.first, tau))
        return joined(self.head, merges) if self.head else merges

    def _solve(self, k: int, tau: float | str) -> Merges:
        guard = Guard.of(tau, self.target_bytes, self.protected_bytes)
        return continue_merges(self.words, self.grammar, k, self.refusal, guard, min_count=2 * self.unit)


def kept_merges(cache: Cache | None, k: int, solve: Callable[[], Merges]) -> Merges:
    """The first k merges of a kept run that was as long, or of `solve`, which is then kept: a smaller size is the beginning of a larger."""
    table = cache.read("merges") if cache else None
    if table is not None:
        refused = {name.removeprefix(_REFUSED): array for name, array in table.items() if name.startswith(_REFUSED)}
        columns: dict[str, Any] = {name: table[name] for name in _COLUMNS}
        kept = Merges(**columns, first_id=int(table["first_id"]), refused=refused)
        if int(table["asked"]) >= k or kept.new < int(table["asked"]):
            return kept.cut(k)
    merges = solve()
    if cache:
        table = {name: getattr(merges, name) for name in _COLUMNS}
        table |= {_REFUSED + reason: when for reason, when in merges.refused.items()}
        cache.write("merges", {**table, "asked": np.array(k), "first_id": np.array(merges.first_id)})
    return merges


def pose(
    counts: Counts, base: Base, grammar: Grammar, languages: list[str], cfg: VocabRecipe, characters: Mapping[str, int] | None = None
) -> Problem:
    """The merging problem of these counts. Groups: `target:<language>`, `held:<language>`, PROTECTED.

    characters: character -> tokens an occurrence saves, for those that `base` has been given beforehand, in the order of their ids.
    """
    targets = [f"target:{name}" for name in languages]
    held = {name: f"held:{name}" if counts.bytes_of(f"held:{name}") else f"target:{name}" for name in languages}
    watch = [*held.values(), *targets]
    weights = language_weights(counts, targets)
    split = split_words(counts, base)
    tokens = tokens_of(counts, split)
    head = as_merges(counts, characters, base.next_id - len(characters), weights, list(counts.groups)) if characters else None
    total = dict(zip(counts.groups, (tokens + head.saved.sum(axis=0) if head else tokens).tolist()))
    if head:
        head = replace(head, saved=head.saved[:, [counts.groups.index(group) for group in watch]])
    protect = PROTECTED if PROTECTED in counts.groups else None
    refusal = base.refusal(cfg.rules)
    if protect and cfg.name_guard != "off":
        refusal = guarded(refusal, functools.cache(functools.partial(_old_runs, counts, base, targets, cfg.name_guard)))
    settings = [weights, protect, watch, grammar.first_id, cfg.name_guard, cfg.rules.model_dump()]
    return Problem(
        words=words_to_merge(counts, split, weights, protect, watch),
        grammar=grammar,
        refusal=refusal,
        target_bytes=sum(weights[t] * counts.bytes_of(t) for t in targets),
        protected_bytes=counts.bytes_of(PROTECTED) if protect else 0,
        unit=max(weights.values()),
        languages={name: (i, counts.bytes_of(group), total[group]) for i, (name, group) in enumerate(held.items())},
        weighted={len(held) + i: weights[t] for i, t in enumerate(targets)},
        weighted_tokens=sum(weights[t] * total[t] for t in targets),
        weights={name: weights[f"target:{name}"] for name in languages},
        cache=split.cache.with_more("merges", base.kind, json.dumps(settings)) if split.cache else None,
        head=head,
    )


def _old_runs(counts: Counts, base: Base, targets: list[str], limit: float) -> frozenset[str]:
    """What no new token may hold, by these counts: see `names.py`."""
    texts = [base.surface_of(word).decode(errors="replace") for word in counts.words]
    groups = [(counts.column(group), counts.bytes_of(group)) for group in [*targets, PROTECTED]]
    return old_runs(texts, groups[:-1], groups[-1], limit)


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

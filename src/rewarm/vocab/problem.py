"""The merging problem that a text poses to a tokenizer of BPE type: what is merged, by which weights, rules and guards.

`Problem.solve` is a pure function of it, so that its result can be kept for other sizes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rewarm.vocab.balance import fairness, language_weights
from rewarm.vocab.base import Base, bare_model, encode_ids
from rewarm.vocab.cache import Cache
from rewarm.vocab.count import Counts, split_by, split_words, tokens_of, words_to_merge
from rewarm.vocab.coverage import as_merges, joined
from rewarm.vocab.inputs import must_be_joinable
from rewarm.vocab.merge import Fair, Grammar, Merges, continue_merges
from rewarm.vocab.names import guarded, old_runs
from rewarm.vocab.pairs import Words
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.rules import Guard, Refusal
from rewarm.vocab.words import chain_words, forms_of, grammar_after

PROTECTED = "protected"
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
    fair: Callable[[float | str], Fair] | None = None
    """For `parity`: by tau, what decides which language each merge is for."""
    insist: Callable[[Base, dict[str, Any], Merges], Merges] | None = None
    """For `vocab.words`: base, tokenizer.json with these merges, the merges -> those that make the words."""
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
        fair = self.fair(tau) if self.fair else None
        return continue_merges(self.words, self.grammar, k, self.refusal, guard, 2 * self.unit, fair)


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
    """The merging problem of these counts. Groups: `target:<language>`, `held:<language>`, `parallel:<language>` for `parity`, PROTECTED.

    characters: character -> tokens an occurrence saves, for those that `base` has been given beforehand, in the order of their ids.
    """
    targets = [f"target:{name}" for name in languages]
    held = {name: f"held:{name}" if counts.bytes_of(f"held:{name}") else f"target:{name}" for name in languages}
    parallel = [f"parallel:{name}" for name in languages] if cfg.balance == "parity" else []
    watch = [*held.values(), *targets, *parallel]
    weights = language_weights(counts, targets, cfg.balance)
    split = split_words(counts, base)
    must_be_joinable(counts, split, languages, base)
    tokens = tokens_of(counts, split)
    head = as_merges(counts, characters, base.next_id - len(characters), weights, list(counts.groups)) if characters else None
    total = dict(zip(counts.groups, (tokens + head.saved.sum(axis=0) if head else tokens).tolist()))
    if head:
        head = replace(head, saved=head.saved[:, [counts.groups.index(group) for group in watch]])
    protect = PROTECTED if PROTECTED in counts.groups else None
    refusal = base.refusal(cfg.rules)
    if protect and cfg.name_guard != "off":
        refusal = guarded(refusal, functools.cache(functools.partial(_old_runs, counts, base, targets, cfg.name_guard)))
    target_bytes = sum(weights[t] * counts.bytes_of(t) for t in targets)
    protected_bytes = counts.bytes_of(PROTECTED) if protect else 0
    words = words_to_merge(counts, split, weights, protect, watch)
    left = dict(zip(counts.groups, tokens.tolist()))

    def fair(tau: float | str) -> Fair:
        texts = counts.weight[split.lengths > 1], left
        return fairness(counts, *texts, languages, len(watch) - len(languages), tau, protected_bytes)

    def insist(plain: Base, spec: dict[str, Any], merges: Merges) -> Merges:
        bare = bare_model(spec)
        cut = words_to_merge(counts, split_by(counts.words, bare), weights, protect, watch)
        pieces = {i: plain.surface_of(piece) for piece, i in bare.get_vocab().items()}
        forms = forms_of(cfg.words, plain, counts, targets)
        guard = Guard.of(cfg.tau, target_bytes, protected_bytes)
        now = grammar_after(grammar, merges, pieces.get)
        return chain_words(cut, now, encode_ids(bare, forms), refusal, guard)

    settings = [weights, protect, watch, grammar.first_id, cfg.name_guard, cfg.rules.model_dump()]
    return Problem(
        words=words,
        grammar=grammar,
        refusal=refusal,
        target_bytes=target_bytes,
        protected_bytes=protected_bytes,
        unit=max(weights.values()),
        languages={name: (i, counts.bytes_of(group), total[group]) for i, (name, group) in enumerate(held.items())},
        weighted={len(held) + i: weights[t] for i, t in enumerate(targets)},
        weighted_tokens=sum(weights[t] * total[t] for t in targets),
        weights={name: weights[f"target:{name}"] for name in languages},
        fair=fair if parallel else None,
        insist=insist if cfg.words else None,
        cache=split.cache.with_more("merges", base.kind, json.dumps(settings)) if split.cache else None,
        head=head,
    )


def _old_runs(counts: Counts, base: Base, targets: list[str], limit: float) -> frozenset[str]:
    """What no new token may hold, by these counts: see `names.py`."""
    texts = [base.surface_of(word).decode(errors="replace") for word in counts.words]
    groups = [(counts.column(group), counts.bytes_of(group)) for group in [*targets, PROTECTED]]
    return old_runs(texts, groups[:-1], groups[-1], limit)

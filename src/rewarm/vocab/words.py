"""Words that the user insists on: each becomes one token, however rare it is in the text.

They come after the chosen merges, so they change nothing of what those make. A word's parts are joined two at a time, the pair that is
commonest in the target text first; every token on the way is a new one too, since a merge can join no more than two. Rules and guards hold
for them as for all others. (An added token would need no parts, but such tokens are cut out of the middle of other words too.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from rewarm.errors import UserError
from rewarm.vocab.base import Base
from rewarm.vocab.count import Counts
from rewarm.vocab.merge import Grammar, MergeLog, Merges
from rewarm.vocab.pairs import Line, Words, pair_key
from rewarm.vocab.rules import Guard, Refusal

_FIX = "leave the word out, or look at vocab.rules, vocab.tau and vocab.name_guard"


def forms_of(words: Sequence[str], base: Base, counts: Counts, targets: Sequence[str]) -> list[str]:
    """The words as the vocabulary writes them: at the beginning of a text and after a blank, each only if it stands in the target text so,
    or if neither does. UserError with the parts of a word that the pre-tokenizer cuts, as no token can cross such a cut."""
    found = dict(zip(counts.words, sum((counts.column(t) for t in targets), np.zeros(len(counts.words), dtype=np.int64)).tolist()))
    out: dict[str, None] = {}
    for word in words:
        forms = [base.pretokens(word), base.pretokens(f" {word}")]
        if len(forms[0]) != 1:
            parts = ", ".join(f"`{base.surface_of(p).decode(errors='replace')}`" for p in forms[0])
            raise UserError(
                f"`{word}` cannot be one token: this tokenizer first cuts text into {parts or 'nothing'}",
                where="vocab.words",
                fix="give words without blanks, digits and punctuation, or these parts",
            )
        whole = [form[0] for form in forms if len(form) == 1]
        out |= dict.fromkeys([form for form in whole if found.get(form)] or whole[:1])
    return list(out)


def chain_words(words: Words, grammar: Grammar, chains: list[list[int]], refusal: Refusal, guard: Guard) -> Merges:
    """Merges that make one token of each chain, the commonest pair that may be joined first; ties: smaller ids.

    words: the text as it is cut so far. grammar: all tokens and merges so far. chains: the words' tokens so far. UserError naming word,
    pair and rule if no pair of a word may be joined.
    """
    log = MergeLog(grammar, words.watch.shape[1])
    line = Line(words)
    refused: dict[tuple[int, int], str] = {}

    def join(pair: tuple[int, int], result: int) -> None:
        log.save(line.watched_at(line.join(line.places(*pair), *pair, result)))
        chains[:] = [_joined(ids, pair, result) for ids in chains]

    chains = list(chains)
    while pairs := sorted({pair for ids in chains for pair in pairwise(ids)}):
        ready = [pair for pair in pairs if pair_key(*pair) in log.known]
        if ready:  # a merge that led to an old token can bring an old merge within reach
            pair = min(ready, key=lambda p: (log.known[pair_key(*p)], p))
            join(pair, log.known_result(*pair))
            continue
        counted = [(line.count_at(line.places(*pair), words.target), pair) for pair in pairs if pair not in refused]
        if not counted:
            raise _stuck(next(ids for ids in chains if len(ids) > 1), refused, log)
        count, pair = min(counted, key=lambda item: (-item[0], item[1]))
        every = [pair, *log.other_splits(*pair)]
        here, old = (sum(line.count_at(line.places(*p), weight) for p in every) for weight in (words.target, words.protected))
        if log.refuse(*pair, here, old, refusal, guard):
            reason = next(reason for reason, when in log.refused.items() if len(when))
            refused[pair] = f"{reason}; {old:,} times in the protected text"
            log.refused.clear()
            continue
        result, _ = log.join(*pair, count)
        for p in every:
            join(p, result)
    return log.merges()


def _stuck(ids: list[int], refused: dict[tuple[int, int], str], log: MergeLog) -> UserError:
    """Each pair of this word is refused."""
    text = b"".join(log.surface[i] for i in ids).decode(errors="replace")
    pairs = [(*(log.surface[i].decode(errors="replace") for i in pair), refused[pair]) for pair in pairwise(ids)]
    why = ", ".join(f"`{a}` with `{b}` ({reason})" for a, b, reason in pairs)
    return UserError(f"`{text}` cannot become one token: {why} may not be joined", where="vocab.words", fix=_FIX)


def _joined(ids: list[int], pair: tuple[int, int], result: int) -> list[int]:
    out: list[int] = []
    for i in ids:
        if out and (out[-1], i) == pair:
            out[-1] = result
        else:
            out.append(i)
    return out


def grammar_after(grammar: Grammar, merges: Merges, surface_of: Callable[[int], bytes | None]) -> Grammar:
    """What is known once these merges are: their tokens and their ranks. surface_of: bytes of a new id."""
    more = [surface_of(i) for i in range(grammar.first_id, merges.first_id + merges.new)]
    surfaces = [*grammar.surfaces, *[None] * (grammar.first_id - len(grammar.surfaces)), *more]
    first = max(grammar.known.values(), default=-1) + 1
    pairs = zip(merges.left.tolist(), merges.right.tolist())
    known = grammar.known | {pair_key(a, b): first + i for i, (a, b) in enumerate(pairs) if a >= 0}
    return Grammar(surfaces, merges.first_id + merges.new, known, grammar.every_split)

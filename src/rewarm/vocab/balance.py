"""How several languages share the new tokens.

By weights of their text (`equal`, `proportional`, or a weight for each), or by `parity`: the new tokens go, one by one, to the language
whose lines of parallel text are the longest. Languages have no common byte scale (a Chinese text has fewer bytes than the same in
Vietnamese), so only text that says the same in each can tell who is behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rewarm.errors import UserError
from rewarm.vocab.merge import Fair
from rewarm.vocab.rules import Guard
from rewarm.vocab.text import read_documents

if TYPE_CHECKING:
    from rewarm.vocab.count import Counts

UNIT = 1 << 20
Balance = str | Mapping[str, float]


def language_weights(counts: Counts, targets: Sequence[str], balance: Balance = "equal") -> dict[str, int]:
    """Group (`target:<language>`) -> whole-number weight of one occurrence in it; 1 for a single language.

    `equal`: 2^20 for the smallest, less for the others in proportion to their bytes, so that languages count alike whatever their amount
    of text. A mapping: as `equal`, times these weights. `proportional`, and `parity` (whose merges are chosen otherwise): 1. Whole numbers
    keep sums exact and free of their order. UserError if a mapping names other languages than there are.
    """
    if not isinstance(balance, str):
        names = [target.partition(":")[2] for target in targets]
        if set(names) != set(balance):
            raise UserError(
                f"it names {', '.join(sorted(balance))}; the target languages are {', '.join(names)}",
                where="vocab.balance",
                fix="give one weight for each language, or `equal`",
            )
    if len(targets) == 1 or balance in ("proportional", "parity"):
        return dict.fromkeys(targets, 1)
    share = {t: 1 if isinstance(balance, str) else Fraction(str(balance[t.partition(":")[2]])) for t in targets}
    rate = {t: Fraction(share[t], counts.bytes_of(t)) for t in targets}
    most = max(rate.values())
    return {t: max(1, round(UNIT * rate[t] / most)) for t in targets}


def parallel_lines(files: Mapping[str, Path], languages: Sequence[str]) -> dict[str, list[str]]:
    """Language -> its lines of parallel text: the lines of a .txt file, or the documents of another.

    UserError if a language has no file, or the files have different numbers of lines.
    """
    if set(files) != set(languages):
        raise UserError(
            f"it names {', '.join(sorted(files)) or 'nothing'}; the target languages are {', '.join(languages)}",
            where="vocab.parallel",
            fix="give one file for each language: line n of each says the same",
        )
    lines = {}
    for name in languages:
        texts = list(read_documents(files[name]))
        lines[name] = texts[0].removesuffix("\n").split("\n") if texts and files[name].suffix.lower() == ".txt" else texts
    numbers = ", ".join(f"{name}: {len(found):,}" for name, found in lines.items())
    if len({len(found) for found in lines.values()}) > 1 or not all(any(line.strip() for line in found) for found in lines.values()):
        raise UserError(
            f"parallel texts need the same number of lines, with text in them; found {numbers}",
            where="vocab.parallel",
            fix="line n of each file must say the same as line n of the others",
        )
    return lines


def fairness(
    counts: Counts, weight: NDArray[np.int64], tokens: Mapping[str, int], languages: Sequence[str], column: int, tau: float | str, old: int
) -> Fair:
    """What `parity` needs. weight: [n, G] rows of `counts.weight` of the words to merge. tokens: group -> its tokens before merging.

    column: the first column of `Words.watch` with parallel text. old: bytes of protected text. Groups: `target:<language>`,
    `parallel:<language>`.
    """
    return Fair(
        weight[:, [counts.groups.index(f"target:{name}") for name in languages]],
        tuple(Guard.of(tau, counts.bytes_of(f"target:{name}"), old) for name in languages),
        tuple(range(column, column + len(languages))),
        tuple(int(tokens[f"parallel:{name}"]) for name in languages),
    )

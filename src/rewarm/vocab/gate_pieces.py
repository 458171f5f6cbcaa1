"""What the gate asks of tokenizers whose pieces compete: old text without a new piece's text keeps its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rewarm.vocab.base import Base, encode_ids
from rewarm.vocab.gate import Finding

Holds = Callable[[str], bool]


def old_text(base: Base, new: Base, lines: Sequence[str], holds: Holds) -> Finding:
    """3: a line whose words hold no new piece's text has the tokens it had. holds: whether a word (a pre-token) does."""
    lines = list(lines)
    broken, changed, example = 0, 0, ""
    for line, before, after in zip(lines, encode_ids(base.tokenizer, lines), encode_ids(new.tokenizer, lines)):
        if before == after:
            continue
        changed += 1
        if not any(holds(word) for word in base.pretokens(line)):
            broken += 1
            example = example or line[:200]
    name = f"text without a new piece keeps its tokens ({len(lines):,} texts, {changed:,} changed)"
    return Finding(3, name, not broken, broken, 0, example)


def substrings(word: str, longest: int) -> set[str]:
    """All parts of a word up to this many characters."""
    return {word[i:j] for i in range(len(word)) for j in range(i + 1, min(len(word), i + longest) + 1)}

"""The kinds of tokenizers, and all in which they differ: how a base is opened, extended, written and checked.

The stage knows only this seam. A kind is one module that holds one object with these methods; its `Base` adds what the kind knows of words
and pieces. Kinds are asked in the order of the table, and only the one that answers is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rewarm.registry import Registry

if TYPE_CHECKING:
    from rewarm.vocab.base import Base
    from rewarm.vocab.choose import Choice
    from rewarm.vocab.count import Counts
    from rewarm.vocab.extension import Extension
    from rewarm.vocab.gate import Finding
    from rewarm.vocab.recipe import VocabRecipe


class Kind(Protocol):
    """What every kind can do."""

    title: str
    """For messages: the kind, and well-known models that have it."""
    changed_lines: float
    """What `max_changed_lines: auto` means for it."""

    def opens(self, spec: dict[str, Any]) -> bool:
        """Whether this tokenizer.json is of this kind, told by its structure alone."""
        ...

    def read_old(self, folder: Path) -> dict[str, Any] | None:
        """A tokenizer.json for a folder that holds only this kind's older files; None if they are not there."""
        ...

    def open(self, folder: Path, spec: dict[str, Any], indent: int | None) -> Base:
        """The base. Raises UserError if it is of this kind, but cannot be extended."""
        ...

    def extend(
        self, base: Any, counts: Counts, languages: list[str], cfg: VocabRecipe, planned_tokens: int | None, tuning: list[str]
    ) -> Choice:
        """Chooses the new tokens. Groups of counts: `target:<language>`, `held:<language>`, `protected`. tuning: protected lines that were
        not counted. Raises UserError if a size that was asked for changes too many of them."""
        ...

    def spec(self, base: Any, extension: Extension) -> dict[str, Any]:
        """tokenizer.json of the extended tokenizer, parsed."""
        ...

    def files(self, base: Any, extension: Extension) -> dict[str, bytes]:
        """The tokenizer's files by name: tokenizer.json, and every older file that the base has and this kind can write."""
        ...

    def checks(self, base: Any, new: Any, lines: Sequence[str], cfg: VocabRecipe) -> list[Finding]:
        """The invariants that hold in another way for each kind: 2 (old merges or scores), 3 (old text), 5 (reachable), 8 (older files)."""
        ...


KINDS = Registry(
    "tokenizer",
    byte_bpe="rewarm.vocab.byte_bpe:KIND",
    sp_bpe="rewarm.vocab.sp_bpe:KIND",
    unigram="rewarm.vocab.unigram:KIND",
    wordpiece="rewarm.vocab.wordpiece:KIND",
)


def kind_named(name: str) -> Kind:
    """The kind of `Base.kind`."""
    kind: Kind = KINDS.get(name)
    return kind


def all_kinds() -> list[Kind]:
    """All kinds, in the order of the table."""
    return [kind_named(name) for name in KINDS.names()]


def supported() -> str:
    """The kinds in words, for messages."""
    return ", ".join(kind.title for kind in all_kinds())

"""What an extension is, whatever the kind of tokenizer: new ids with their text, and the merges that make them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class NewToken:
    """One new id."""

    id: int
    surface: bytes
    parts: tuple[int, ...]
    """Old ids it is made of; empty for a repaired byte, which the base could not write."""
    score: float | None = None
    """For kinds whose pieces have scores (Unigram)."""
    special: bool = False
    """A control token: no piece of the model, but cut out of the text before any merge."""


@dataclass(frozen=True)
class Extension:
    """New tokens in order of their ids: first the learnt ones, then the repaired bytes, then control tokens."""

    first_new_id: int
    tokens: tuple[NewToken, ...]
    merges: tuple[tuple[int, int], ...]
    """(left id, right id) of each new merge, in the order in which they were learnt; empty for kinds that know no merges."""
    with_model_file: bool = False
    """Whether a `.model` is written though the base has none."""

    @property
    def pieces(self) -> tuple[NewToken, ...]:
        """The new tokens that text is made of."""
        return tuple(token for token in self.tokens if not token.special)

    @property
    def special(self) -> tuple[NewToken, ...]:
        return tuple(token for token in self.tokens if token.special)

    def with_special(self, contents: Sequence[str]) -> Extension:
        """The same with these control tokens behind all others."""
        more = tuple(NewToken(self.true_vocab + i, text.encode(), (), special=True) for i, text in enumerate(contents))
        return replace(self, tokens=self.tokens + more)

    @property
    def true_vocab(self) -> int:
        """1 + the largest id: the model's loss stops here, rows beyond are padding."""
        return self.first_new_id + len(self.tokens)


def list_special(spec: dict[str, Any], extension: Extension) -> dict[str, Any]:
    """tokenizer.json with the control tokens among the added ones; they stand in the vocabulary too, as a listed id is only then kept."""
    if not extension.special:
        return spec
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    listed = {token.surface.decode(): token.id for token in extension.special}
    added = [*(spec.get("added_tokens") or []), *({"id": i, "content": text, **flags} for text, i in listed.items())]
    return {**spec, "added_tokens": added, "model": {**spec["model"], "vocab": {**spec["model"]["vocab"], **listed}}}


def json_bytes(value: Any, indent: int | None) -> bytes:
    """JSON as tokenizer files are written: no escapes, and the base's own indent."""
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators).encode()

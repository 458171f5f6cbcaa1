"""What an extension is, whatever the kind of tokenizer: new ids with their text, and the merges that make them."""

from __future__ import annotations

import json
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Extension:
    """New tokens in order of their ids: first the learnt ones, then the repaired bytes."""

    first_new_id: int
    tokens: tuple[NewToken, ...]
    merges: tuple[tuple[int, int], ...]
    """(left id, right id) of each new merge, in the order in which they were learnt; empty for kinds that know no merges."""
    with_model_file: bool = False
    """Whether a `.model` is written though the base has none."""

    @property
    def true_vocab(self) -> int:
        """1 + the largest id: the model's loss stops here, rows beyond are padding."""
        return self.first_new_id + len(self.tokens)


def json_bytes(value: Any, indent: int | None) -> bytes:
    """JSON as tokenizer files are written: no escapes, and the base's own indent."""
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators).encode()

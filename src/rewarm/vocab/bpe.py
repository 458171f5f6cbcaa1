"""What the two kinds of BPE share: a vocabulary with merges, and new tokens as the result of continued merging."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rewarm.vocab.base import Base
from rewarm.vocab.merge import Grammar


@dataclass(frozen=True)
class BpeBase(Base):
    """A tokenizer that joins pieces by ranked merges."""

    @property
    def vocab(self) -> dict[str, int]:
        return self.spec["model"]["vocab"]

    @cached_property
    def merges(self) -> list[tuple[str, str]]:
        return [tuple(m.split(" ", 1)) if isinstance(m, str) else (m[0], m[1]) for m in self.spec["model"]["merges"]]  # type: ignore[misc]

    @property
    def merges_are_lists(self) -> bool:
        merges = self.spec["model"]["merges"]
        return not merges or not isinstance(merges[-1], str)

    @abstractmethod
    def grammar(self) -> Grammar:
        """What `continue_merges` has to know of the base."""


def listed_vocab(base: Base, more: dict[str, int]) -> dict[str, int]:
    """The base's vocabulary with new pieces behind it.

    Added tokens that the base lists outside of model.vocab (Llama-3) are also written into it, under their old ids: the library ignores
    the ids it finds in `added_tokens` and numbers such tokens on from the vocabulary's size, so a longer vocabulary would move them all.
    """
    vocab = dict(base.vocab)
    if more:
        for token in sorted(base.added, key=lambda t: t["id"]):
            vocab.setdefault(token["content"], token["id"])
    return vocab | more


def extended_model(base: BpeBase, more: dict[str, int], pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """tokenizer.json with these pieces and merges behind the old ones, merges in the notation that the base uses."""
    new: list[Any] = [list(p) for p in pairs] if base.merges_are_lists else [" ".join(p) for p in pairs]
    model = {**base.spec["model"], "vocab": listed_vocab(base, more), "merges": [*base.spec["model"]["merges"], *new]}
    return {**base.spec, "model": model}

"""An extension of a byte-level BPE tokenizer, and the files that carry it.

New tokens and merges go behind the old ones, in the notation the base uses; every other key of tokenizer.json stays as it was, in its
place. Where the base also ships vocab.json and merges.txt, these are written from the same lists, so all files agree.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rewarm.vocab.base import VERSION_LINE, Base, to_letters
from rewarm.vocab.merge import Grammar, Merges
from rewarm.vocab.pairs import pair_key


@dataclass(frozen=True)
class NewToken:
    """One new id."""

    id: int
    surface: bytes
    parts: tuple[int, ...]
    """Old ids it is made of; empty for a repaired byte, which the base could not write."""


@dataclass(frozen=True)
class Extension:
    """New tokens in order of their ids: first the merged ones, then the repaired bytes."""

    first_new_id: int
    tokens: tuple[NewToken, ...]
    merges: tuple[tuple[int, int], ...]
    """(left id, right id) of each new merge, in rank order."""

    @property
    def true_vocab(self) -> int:
        """1 + the largest id: the model's loss stops here, rows beyond are padding."""
        return self.first_new_id + len(self.tokens)


def grammar_of(base: Base) -> Grammar:
    """What `continue_merges` has to know of the base."""
    surfaces = [None if i in base.special_ids else s for i, s in enumerate(base.surfaces)]
    known = {pair_key(base.vocab[a], base.vocab[b]): rank for rank, (a, b) in enumerate(base.merges)}
    return Grammar(surfaces, base.next_id, known)


def extension_of(base: Base, merges: Merges, repair_bytes: bool) -> Extension:
    """Surfaces, parts and merges of the new tokens; with `repair_bytes` also the single bytes the base lacks, under the last ids."""
    surface: dict[int, bytes] = {i: s for i, s in enumerate(base.surfaces) if s is not None}
    new: list[bytes] = []
    for left, right, result in zip(merges.left.tolist(), merges.right.tolist(), merges.id.tolist()):
        if result not in surface:
            surface[result] = surface[left] + surface[right]
            new.append(surface[result])
    tokens = [NewToken(base.next_id + i, s, tuple(p)) for i, (s, p) in enumerate(zip(new, base.decompose(new)))]
    if repair_bytes:
        tokens += [NewToken(base.next_id + len(new) + i, bytes([byte]), ()) for i, byte in enumerate(base.missing_bytes)]
    return Extension(base.next_id, tuple(tokens), tuple(zip(merges.left.tolist(), merges.right.tolist())))


def extended_spec(base: Base, extension: Extension) -> dict[str, Any]:
    """tokenizer.json of the extended tokenizer.

    Added tokens that the base lists outside of model.vocab (Llama-3) are also written into it, under their old ids: the library ignores
    the ids it finds in `added_tokens` and numbers such tokens on from the vocabulary's size, so a longer vocabulary would move them all.
    """
    vocab = dict(base.vocab)
    if extension.tokens:
        for token in sorted(base.added, key=lambda t: t["id"]):
            vocab.setdefault(token["content"], token["id"])
    vocab |= {to_letters(token.surface): token.id for token in extension.tokens}
    name = _names(base, extension)
    pairs = [(name[left], name[right]) for left, right in extension.merges]
    new: list[Any] = [list(p) for p in pairs] if base.merges_are_lists else [" ".join(p) for p in pairs]
    model = {**base.spec["model"], "vocab": vocab, "merges": [*base.spec["model"]["merges"], *new]}
    return {**base.spec, "model": model}


def _names(base: Base, extension: Extension) -> dict[int, str]:
    """Id -> the string that stands for it in the vocabulary."""
    return {i: text for text, i in base.vocab.items()} | {t.id: to_letters(t.surface) for t in extension.tokens}


def extension_files(base: Base, extension: Extension) -> dict[str, bytes]:
    """The tokenizer's files, by name: tokenizer.json, and vocab.json with merges.txt where the base has them.

    merges.txt always begins with a version line: some readers drop the first line unseen, and the first merge would go with it.
    """
    spec = extended_spec(base, extension)
    files = {"tokenizer.json": _json(spec, base.indent)}
    if (base.folder / "vocab.json").is_file() and (base.folder / "merges.txt").is_file():
        merges = [m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]]
        first = (base.folder / "merges.txt").read_text(encoding="utf-8").split("\n", 1)[0]
        head = first if first.startswith(VERSION_LINE) else f"{VERSION_LINE}: 0.2"
        files["merges.txt"] = "\n".join([head, *merges, ""]).encode()
        files["vocab.json"] = _json(spec["model"]["vocab"], None)
    return files


def _json(value: Any, indent: int | None) -> bytes:
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators).encode()

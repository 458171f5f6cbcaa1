"""Invariant 13: the extended model is the base with more rows, and nothing else.

All tensors but the vocabulary-sized ones must be equal byte for byte, and of those all rows of old ids. From that it follows that the
logits of old ids on old text are the base's own, without running either model.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from rewarm.errors import UserError
from rewarm.vocab.base import Base
from rewarm.vocab.byte_bpe import Extension
from rewarm.vocab.gate import Finding
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.rows import new_tensor, padded_rows, vocab_tensors
from rewarm.vocab.weights import Weights, from_bytes, open_weights, to_bytes

_AT_ONCE = 1 << 26


def check_model(base: Base, new_folder: Path, extension: Extension, cfg: VocabRecipe) -> list[Finding]:
    """Invariant 13 of the model in `new_folder`: shapes, untouched bytes, written rows, the tie, the config."""
    try:
        old = open_weights(base.folder)
        new = open_weights(new_folder)
        tensors = vocab_tensors(base.folder, old)
    except UserError as error:
        return [Finding(13, "the model can be read", False, example=error.render())]
    rows = padded_rows(tensors.rows, extension.true_vocab, cfg.pad_to)
    problems: list[str] = []
    if list(old.entries) != list(new.entries):
        odd = sorted(set(old.entries) ^ set(new.entries))
        problems.append(f"tensors differ: {', '.join(odd[:3]) or 'their order'}")
    for name, entry in old.entries.items():
        if name not in new.entries:
            continue
        there = new.entries[name]
        if there.dtype != entry.dtype:
            problems.append(f"`{name}` was {entry.dtype}, now {there.dtype}")
        elif name not in tensors.all:
            if there.shape != entry.shape or not _equal(old, new, name):
                problems.append(f"`{name}` has changed")
        elif there.shape != (rows, *entry.shape[1:]):
            problems.append(f"`{name}` is {list(there.shape)}, expected {[rows, *entry.shape[1:]]}")
        else:
            problems += _rows_of(name, base, old, new, extension, cfg)
    config = json.loads((new_folder / "config.json").read_text(encoding="utf-8"))
    was = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    for place, before in (("", was), ("text_config.", was.get("text_config") or {})):
        now = config if not place else config.get("text_config") or {}
        if "vocab_size" in before and now.get("vocab_size") != rows:
            problems.append(f"config.json: {place}vocab_size is {now.get('vocab_size')}, expected {rows}")
        if before.get("tie_word_embeddings") != now.get("tie_word_embeddings"):
            problems.append(f"config.json: {place}tie_word_embeddings has changed")
    return [Finding(13, f"the model is the base with {rows:,} rows", not problems, len(problems), 0, "; ".join(problems[:3]))]


def _equal(old: Weights, new: Weights, name: str) -> bool:
    a, b = old.raw(name), new.raw(name)
    return len(a) == len(b) and all(np.array_equal(a[i : i + _AT_ONCE], b[i : i + _AT_ONCE]) for i in range(0, len(a), _AT_ONCE))


def _rows_of(name: str, base: Base, old: Weights, new: Weights, extension: Extension, cfg: VocabRecipe) -> list[str]:
    """Old rows as they were, new rows as the initialisation has them, all finite."""
    entry = new.entries[name]
    row_bytes = (entry.end - entry.start) // entry.shape[0]
    cut = extension.first_new_id * row_bytes
    before, after = old.raw(name), new.raw(name)
    out = []
    if not np.array_equal(before[:cut], after[:cut]):
        out.append(f"`{name}`: rows of old ids have changed")
    if not np.isfinite(from_bytes(after, entry.dtype)).all():
        out.append(f"`{name}`: not all values are finite")
    expected = to_bytes(new_tensor(old.read(name), base, extension, entry.shape[0], cfg.init), entry.dtype)
    if after[cut:].tobytes() != expected:
        wrong = np.frombuffer(expected, np.uint8).reshape(-1, row_bytes) != after[cut:].reshape(-1, row_bytes)
        first = extension.first_new_id + int(np.flatnonzero(wrong.any(axis=1))[0])
        out.append(f"`{name}`: row {first} is not what the initialisation gives")
    return out

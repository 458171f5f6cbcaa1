"""Invariant 13, from the files: the extended model is the base with more rows, and nothing else.

All tensors but the vocabulary-sized ones must be equal byte for byte, and of those all rows of old ids; the configs must differ in the
number of rows alone. From that it follows that the logits of old ids on old text are the base's own. `gate_bits.py` runs both models.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from rewarm.errors import UserError
from rewarm.vocab.base import Base
from rewarm.vocab.extension import Extension
from rewarm.vocab.gate import Finding
from rewarm.vocab.initialise import Start
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.rows import new_blocks, old_blocks, padded_rows, plan_rows, resized_config
from rewarm.vocab.tensors import VocabTensors, vocab_tensors
from rewarm.vocab.weights import Table, Weights, open_weights

_AT_ONCE = 1 << 26


def check_model(base: Base, new_folder: Path, extension: Extension, cfg: VocabRecipe, start: Start) -> list[Finding]:
    """Invariant 13 of a model this package extended: also that each new row is what the initialisation gives."""
    try:
        old, new, tensors = _opened(base, new_folder)
    except UserError as error:
        return [Finding(13, "the model can be read", False, example=error.render())]
    rows = padded_rows(tensors.rows, extension.true_vocab, cfg.pad_to)
    problems = _problems(base, old, new, tensors, new_folder, extension.first_new_id, rows)
    for name, (table, mix, mean) in plan_rows(old, tensors, base, start).items():
        if name in new.entries and new.entries[name].shape == (rows, *table.shape[1:]) and new.entries[name].dtype == table.dtype:
            written = new.table(name)
            for first, raw in new_blocks(table, mix, mean, extension.first_new_id, rows):
                expected = np.frombuffer(raw, np.uint8).reshape(-1, table.raw.shape[1])
                wrong = np.flatnonzero((expected != written.raw[first : first + len(expected)]).any(axis=1))
                if len(wrong):
                    problems.append(f"`{name}`: row {first + int(wrong[0])} is not what the initialisation gives")
                    break
    return [_finding(rows, problems)]


def audit_model(base: Base, new_folder: Path, new_ids: list[int]) -> list[Finding]:
    """Invariant 13 of anybody's extension: old rows, untouched tensors, the tie, sizes, and that somebody wrote the rows of `new_ids`."""
    if not (base.folder / "config.json").is_file() or not (new_folder / "config.json").is_file():
        return [Finding(13, "the model is the base with more rows", True, "not judged: a folder holds no model")]
    try:
        old, new, tensors = _opened(base, new_folder)
        now = vocab_tensors(new_folder, new)
    except UserError as error:
        return [Finding(13, "the model can be read", False, example=error.render())]
    first = min(new_ids, default=base.next_id)
    problems = _problems(base, old, new, tensors, new_folder, first, now.rows)
    if now.rows < tensors.rows:
        problems.append(
            f"the matrices shrank from {tensors.rows:,} to {now.rows:,} rows: adapters and tied heads of the base no longer fit"
        )
    for name in tensors.all:
        if name in new.entries and new.entries[name].dtype == old.entries[name].dtype and new.entries[name].shape[0] >= now.rows:
            problems += _unwritten(name, old.table(name), new.table(name), new_ids)
    return [_finding(now.rows, problems)]


def _opened(base: Base, new_folder: Path) -> tuple[Weights, Weights, VocabTensors]:
    old, new = open_weights(base.folder), open_weights(new_folder)
    return old, new, vocab_tensors(base.folder, old)


def _finding(rows: int, problems: list[str]) -> Finding:
    return Finding(13, f"the model is the base with {rows:,} rows", not problems, len(problems), 0, "; ".join(problems[:3]))


def _problems(base: Base, old: Weights, new: Weights, tensors: VocabTensors, folder: Path, first_new_id: int, rows: int) -> list[str]:
    """What is wrong whoever made the model, in plain words."""
    out: list[str] = []
    if sorted(old.entries) != sorted(new.entries):
        out.append(f"tensors differ: {', '.join(sorted(set(old.entries) ^ set(new.entries))[:3])}")
    for name, entry in old.entries.items():
        if name not in new.entries:
            continue
        there = new.entries[name]
        if there.dtype != entry.dtype:
            out.append(f"`{name}` was {entry.dtype}, now {there.dtype}")
        elif name not in tensors.all:
            if there.shape != entry.shape or not _equal(old, new, name):
                out.append(f"`{name}` has changed")
        elif there.shape != (rows, *entry.shape[1:]):
            out.append(f"`{name}` is {list(there.shape)}, expected {[rows, *entry.shape[1:]]}")
        else:
            out += _rows_of(name, old.table(name), new.table(name), first_new_id)
    largest = _largest_id(folder)
    if largest >= rows:
        out.append(f"the tokenizer gives id {largest}, the matrices have {rows} rows")
    now: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    wanted = resized_config(base.folder, tensors, rows)
    out += [f"config.json: {line}" for line in _differences(wanted, now, "")]
    return out


def _largest_id(folder: Path) -> int:
    file = folder / "tokenizer.json"
    return max(Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True).values()) if file.is_file() else -1


_NO_MATTER = ("transformers_version", "_name_or_path")


def _differences(wanted: dict[str, Any], now: dict[str, Any], place: str) -> list[str]:
    """`vocab_size is 49152, expected 57344`, for every key that differs; not for who wrote the file."""
    out = []
    for key in sorted({*wanted, *now} - set(_NO_MATTER)):
        a, b = wanted.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            out += _differences(a, b, f"{place}{key}.")
        elif a != b:
            out.append(f"{place}{key} is {b}, expected {a}")
    return out


def _equal(old: Weights, new: Weights, name: str) -> bool:
    a, b = old.raw(name), new.raw(name)
    return len(a) == len(b) and all(np.array_equal(a[i : i + _AT_ONCE], b[i : i + _AT_ONCE]) for i in range(0, len(a), _AT_ONCE))


def _rows_of(name: str, old: Table, new: Table, first_new_id: int) -> list[str]:
    """Rows of old ids as they were, and all rows finite."""
    out = []
    at = 0
    for block in old_blocks(old, first_new_id):
        expected = np.frombuffer(block, np.uint8).reshape(-1, old.raw.shape[1])[: max(0, new.rows - at)]
        wrong = np.flatnonzero((expected != new.raw[at : at + len(expected)]).any(axis=1))
        if len(wrong):
            out.append(f"`{name}`: rows of old ids have changed, first row {at + int(wrong[0])}")
            break
        at += len(expected)
    for first, raw in new.blocks():
        finite = np.isfinite(new.values(raw).reshape(len(raw), -1)).all(axis=1)
        if not finite.all():
            out.append(f"`{name}`: not all values are finite, first in row {first + int(np.argmin(finite))}")
            break
    return out


def _unwritten(name: str, old: Table, new: Table, new_ids: list[int]) -> list[str]:
    """New ids whose row is still the base's spare row, or zero."""
    for i in new_ids:
        if i < new.rows and (not new.take(np.array([i])).any() or (i < old.rows and np.array_equal(old.raw[i], new.raw[i]))):
            return [f"`{name}`: nobody wrote the row of the new id {i}"]
    return []

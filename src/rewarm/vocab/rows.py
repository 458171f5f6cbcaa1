"""Embedding rows for new tokens, written into a model's files by tensor name and token id.

Every old row stays as bytes, every new id's row is written, wherever it falls: behind the old matrix or on spare rows the base has. No
matrix ever shrinks. The files are streamed: not even one vocabulary matrix stands in memory as a whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewarm.atomic import disk_full, free_bytes, write_json
from rewarm.errors import UserError
from rewarm.vocab.base import Base
from rewarm.vocab.extension import Extension
from rewarm.vocab.initialise import Mix, Start, is_reserved, mix_rows, refuse_split_start
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.tensors import VocabTensors, vocab_tensors
from rewarm.vocab.weights import Replacement, Table, Weights, open_weights, to_bytes, write_changed

_ROWS_AT_ONCE = 1024
_KEPT = (".json", ".jinja", ".txt")
_STALE = ("tokenizer.model", "tekken.json", "tokenizer.tiktoken", "original")
_LEAST_NORM, _MOST_NORM = 0.2, 5.0


def padded_rows(old_rows: int, true_vocab: int, pad_to: int) -> int:
    """Rows of the extended model: the old ones if they hold all ids (adapters of the base then still fit), else a multiple of pad_to."""
    return old_rows if true_vocab <= old_rows else -(-true_vocab // pad_to) * pad_to


def trained_rows(table: Table, base: Base) -> NDArray[np.int64]:
    """Ids of rows that training has reached: no control or reserved tokens, and no norm outside 0.2 to 5 times the median."""
    ordinary = np.array(
        [
            i
            for i, surface in enumerate(base.surfaces[: table.rows])
            if surface is not None and i not in base.special_ids and not is_reserved(surface)
        ],
        dtype=np.int64,
    )
    norm = np.zeros(table.rows)
    for first, raw in table.blocks():
        norm[first : first + len(raw)] = np.sqrt(np.square(table.values(raw).reshape(len(raw), -1), dtype=np.float64).sum(axis=1))
    norm = norm[ordinary]
    middle = np.median(norm)
    return ordinary[(norm >= _LEAST_NORM * middle) & (norm <= _MOST_NORM * middle)]


def mean_row(table: Table, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean of these rows, summed in float64."""
    wanted = np.zeros(table.rows, dtype=bool)
    wanted[ids] = True
    total = np.zeros(table.shape[1:])
    for first, raw in table.blocks():
        total += table.values(raw[wanted[first : first + len(raw)]]).sum(axis=0, dtype=np.float64)
    return (total / len(ids)).astype(np.float32)


def new_blocks(table: Table, mix: Mix, mean: NDArray[np.float32], first_new_id: int, rows: int) -> Iterator[tuple[int, bytes]]:
    """(first row, bytes) of rows first_new_id .. rows-1 in the tensor's dtype: the new tokens, then the mean row as padding."""

    def take(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return table.take(np.where(ids < table.rows, ids, 0))  # as `old_blocks`

    for start in range(0, len(mix), _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, len(mix))
        yield first_new_id + start, to_bytes(mix_rows(take, mix, mean, start, stop), table.dtype)
    padding = to_bytes(mean, table.dtype)
    for start in range(first_new_id + len(mix), rows, _ROWS_AT_ONCE):
        yield start, padding * (min(start + _ROWS_AT_ONCE, rows) - start)


def old_blocks(table: Table, first_new_id: int) -> Iterator[bytes]:
    """Bytes of the rows of all old ids. Where an embedding of every layer ends before them (Gemma-3n), such ids read its row 0; so the
    rows that now become theirs are row 0."""
    for _, raw in table.blocks(0, min(first_new_id, table.rows)):
        yield raw.tobytes()
    yield table.raw[0].tobytes() * max(0, first_new_id - table.rows)


def plan_rows(weights: Weights, tensors: VocabTensors, base: Base, start: Start) -> dict[str, tuple[Table, Mix, NDArray[np.float32]]]:
    """What the new rows of each tensor are made from: the old ones, the mix, the mean row. A bias follows the matrix it belongs to."""
    head = weights.table((tensors.outputs or tensors.inputs)[0])
    of_head = trained_rows(head, base)
    out = {}
    for name in tensors.all:
        table = weights.table(name)
        ids = of_head if name in tensors.biases or name == (tensors.outputs or tensors.inputs)[0] else trained_rows(table, base)
        out[name] = (table, start.input if name in tensors.inputs else start.output, mean_row(table, ids))
    return out


def extend_model(base: Base, extension: Extension, out: Path, cfg: VocabRecipe, start: Start) -> tuple[VocabTensors, int]:
    """Writes config and weights of the extended model to `out`, which holds the tokenizer's files already; (tensors, rows).

    Rows of old ids are copied as bytes. All rows from first_new_id on are written, also where the base has spare ones. UserError where a
    tensor cannot be extended; MachineError where the disk is full.
    """
    weights = open_weights(base.folder)
    tensors = vocab_tensors(base.folder, weights, base.next_id)
    if base.next_id > tensors.rows:
        raise UserError(f"the tokenizer has ids up to {base.next_id - 1:,}, the model only {tensors.rows:,} rows", where=str(base.folder))
    refuse_split_start(cfg, tensors.tied, str(base.folder))
    rows = padded_rows(tensors.rows, extension.true_vocab, cfg.pad_to)
    changed: dict[str, Replacement] = {}
    for name, (table, mix, mean) in plan_rows(weights, tensors, base, start).items():

        def blocks(table: Table = table, mix: Mix = mix, mean: NDArray[np.float32] = mean) -> Iterator[bytes]:
            yield from old_blocks(table, extension.first_new_id)
            for _, raw in new_blocks(table, mix, mean, extension.first_new_id, rows):
                yield raw

        changed[name] = Replacement((rows, *table.shape[1:]), blocks)
    _check_room(weights, changed, out)
    write_changed(weights, changed, out)
    write_json(out / "config.json", resized_config(base.folder, tensors, rows))
    return tensors, rows


def _check_room(weights: Weights, changed: dict[str, Replacement], out: Path) -> None:
    """Before the first byte: a disk that fills up after an hour of copying helps nobody."""
    grown = sum((new.shape[0] - weights.entries[name].shape[0]) * weights.table(name).raw.shape[1] for name, new in changed.items())
    needed = round((weights.bytes + grown) * 1.02)
    if free_bytes(out) < needed:
        raise disk_full(out, needed)


def resized_config(folder: Path, tensors: VocabTensors, rows: int) -> dict[str, Any]:
    """config.json with the new number of rows, wherever the architecture reads it; all other keys in their order."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for *within, name in tensors.sizes:
        part = config
        for key in within:
            part[key] = dict(part.get(key) or {})
            part = part[key]
        part[name] = rows
    return config


def copy_beside(base: Base, out: Path) -> list[str]:
    """Copies what belongs to the model whatever its vocabulary: chat template, generation config, tokenizer settings, licence.

    Files that `out` has already are left. Returns the names of tokenizer files that were left behind because they no longer agree.
    """
    left = []
    for path in sorted(base.folder.iterdir()):
        name = path.name
        if name in _STALE and not (out / name).exists():
            left.append(name)
        elif path.is_dir():
            if name == "additional_chat_templates":
                shutil.copytree(path, out / name, dirs_exist_ok=True)
        elif name.endswith(".index.json") or (out / name).exists():
            continue
        elif path.suffix in _KEPT or name.upper().startswith(("LICENSE", "LICENCE", "NOTICE")):
            shutil.copyfile(path, out / name)
    return left

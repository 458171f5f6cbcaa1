"""Embedding rows for new tokens, written into a model's files by tensor name.

A new row starts as the mean of the rows of its old tokens, weighted by their bytes: before any training this loses least among the simple
starts. Which tensors have vocabulary rows is asked of the architecture itself: it is built twice on the meta device, with two vocabulary
sizes, and the tensors whose shapes differ are the ones.
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rewarm.atomic import write_json
from rewarm.errors import UserError
from rewarm.vocab.base import Base
from rewarm.vocab.byte_bpe import Extension
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.weights import Weights, open_weights, to_bytes, write_changed

_AT_ONCE = 4096
_KEPT = (".json", ".jinja", ".txt")
_STALE = ("tokenizer.model", "tekken.json", "tokenizer.tiktoken", "original")


@dataclass(frozen=True)
class VocabTensors:
    """The vocabulary-sized tensors of a checkpoint, by their names in it."""

    matrices: tuple[str, ...]
    """[V, D]: input embedding, output embedding unless it is the same tensor, per-layer embeddings."""
    biases: tuple[str, ...]
    """[V]: output bias."""
    tied: bool
    """Whether the model uses the input embedding as its output embedding."""
    rows: int

    @property
    def all(self) -> tuple[str, ...]:
        return self.matrices + self.biases


def vocab_tensors(folder: Path, weights: Weights) -> VocabTensors:
    """Finds them by building the architecture twice without memory. UserError names a tensor that cannot be extended."""
    import torch
    import transformers

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("quantization_config"):
        raise UserError(
            "the weights are quantised (config.json has quantization_config)", where=str(folder), fix="start from the unquantised model"
        )
    try:
        settings = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise UserError(f"transformers does not know this model: {str(error).splitlines()[0]}", where=str(folder)) from None
    names = settings.architectures or []
    kind = getattr(transformers, names[0], None) if names else None
    kind = kind or transformers.AutoModelForCausalLM._model_mapping.get(type(settings), None)
    if kind is None:
        raise UserError(f"no model class for {names or settings.model_type}", where=str(folder), fix="set config.json's `architectures`")

    def built(more: int) -> Any:
        mine = copy.deepcopy(settings)
        text = mine.get_text_config()
        text.vocab_size += more
        if mine is not text and getattr(mine, "vocab_size", None) is not None:
            mine.vocab_size += more
        with torch.device("meta"):
            return kind._from_config(mine), text.vocab_size

    model, rows = built(0)
    larger, _ = built(128)
    shapes = dict(larger.named_parameters(remove_duplicate=False)) | dict(larger.named_buffers())
    parameters = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    output = model.get_output_embeddings()
    tied = output is not None and output.weight is model.get_input_embeddings().weight
    matrices, biases, known = [], [], set()
    for name, tensor in parameters.items():
        stored = _stored_name(name, weights, getattr(model, "base_model_prefix", ""))
        if stored is None:
            continue
        known.add(stored)
        if shapes[name].shape == tensor.shape:
            continue
        entry = weights.entries[stored]
        if tuple(entry.shape) != tuple(tensor.shape):
            raise UserError(
                f"tensor `{stored}` is {list(entry.shape)}, but config.json asks for {list(tensor.shape)}",
                where=str(entry.file),
                fix="mend vocab_size in config.json",
            )
        if tensor.dim() == 2 and tensor.shape[0] == rows:
            matrices.append(stored)
        elif tensor.dim() == 1:
            biases.append(stored)
        else:
            raise UserError(
                f"tensor `{stored}` {list(tensor.shape)} depends on the vocabulary in a way that is not known", where=str(folder)
            )
    for name, entry in weights.entries.items():
        if name not in known and rows in entry.shape:
            raise UserError(
                f"tensor `{name}` {list(entry.shape)} has the vocabulary's size, but the architecture does not name it",
                where=str(entry.file),
                fix="remove this tensor (a draft head or an older copy) or choose another base",
            )
    if not matrices:
        raise UserError("no embedding found among the tensors", where=str(folder), fix="check that the safetensors hold this model")
    return VocabTensors(tuple(dict.fromkeys(matrices)), tuple(dict.fromkeys(biases)), tied, int(rows))


def _stored_name(name: str, weights: Weights, prefix: str) -> str | None:
    """The checkpoint's name of a parameter: checkpoints may or may not carry the base model's prefix."""
    for candidate in (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"):
        if candidate in weights.entries:
            return candidate
    return None


def padded_rows(old_rows: int, true_vocab: int, pad_to: int) -> int:
    """Rows of the extended model: a multiple of pad_to that holds all ids, and never fewer than before."""
    return max(old_rows, -(-true_vocab // pad_to) * pad_to)


def trained_rows(E: NDArray[np.float32], base: Base) -> NDArray[np.int64]:
    """Ids of rows that training has reached: no control tokens, and no row whose norm is outside 0.2 to 5 times the median."""
    ordinary = np.array(
        [i for i, s in enumerate(base.surfaces) if s is not None and i not in base.special_ids and i < len(E)], dtype=np.int64
    )
    norm = np.linalg.norm(E[ordinary].reshape(len(ordinary), -1), axis=1)
    middle = np.median(norm)
    return ordinary[(norm >= 0.2 * middle) & (norm <= 5 * middle)]


def init_rows(
    E: NDArray[np.float32],
    parts: list[tuple[int, ...]],
    lengths: NDArray[np.int64],
    mean: NDArray[np.float32],
    method: Literal["length_mean", "mean"],
) -> NDArray[np.float32]:
    """First rows of K new tokens: [K, D], or [K] for a bias.

    E: [V, D] (or [V]) old rows. parts: old ids of each new token. lengths: [V] bytes of each old id. mean: row for tokens without parts,
    and for all of them with `mean`. `length_mean`: sum(len_i E_i) / sum(len_i), in float32.
    """
    out = np.broadcast_to(mean, (len(parts), *E.shape[1:])).astype(np.float32)
    if method == "mean":
        return out
    filled = [i for i, p in enumerate(parts) if p]
    for start in range(0, len(filled), _AT_ONCE):
        some = filled[start : start + _AT_ONCE]
        ids = np.concatenate([parts[i] for i in some]).astype(np.int64)
        sizes = np.array([len(parts[i]) for i in some])
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        weight = lengths[ids].astype(np.float32)
        weight /= np.repeat(np.add.reduceat(weight, starts), sizes)
        out[some] = np.add.reduceat(E[ids] * weight.reshape(-1, *[1] * (E.ndim - 1)), starts, axis=0)
    return out


def new_tensor(
    E: NDArray[np.float32], base: Base, extension: Extension, rows: int, method: Literal["length_mean", "mean"]
) -> NDArray[np.float32]:
    """Rows first_new_id .. rows-1 of an extended tensor: the new tokens' rows, then the mean of the trained rows as padding."""
    lengths = np.array([len(s) if s is not None else 0 for s in base.surfaces], dtype=np.int64)
    mean = E[trained_rows(E, base)].mean(axis=0, dtype=np.float64).astype(np.float32)
    fresh = init_rows(E, [t.parts for t in extension.tokens], lengths, mean, method)
    padding = np.broadcast_to(mean, (rows - extension.true_vocab, *E.shape[1:]))
    return np.concatenate([fresh, padding])


def extend_model(base: Base, extension: Extension, out: Path, cfg: VocabRecipe) -> tuple[VocabTensors, int]:
    """Writes config and weights of the extended model to `out`, which holds the tokenizer's files already; (tensors, rows).

    Rows of old ids are copied as bytes. All ids from first_new_id on are written, also where they fall on spare rows the base has.
    Needs memory for two vocabulary matrices in float32, never for the model.
    """
    weights = open_weights(base.folder)
    tensors = vocab_tensors(base.folder, weights)
    if base.next_id > tensors.rows:
        raise UserError(f"the tokenizer has ids up to {base.next_id - 1:,}, the model only {tensors.rows:,} rows", where=str(base.folder))
    rows = padded_rows(tensors.rows, extension.true_vocab, cfg.pad_to)
    free = shutil.disk_usage(out).free
    if free < weights.bytes * 1.1:
        raise UserError(
            f"{weights.bytes * 1.1 / 1e9:,.1f} GB are needed, {free / 1e9:,.1f} GB are free", where=str(out), fix="free some space"
        )
    changed: dict[str, tuple[tuple[int, ...], bytes]] = {}
    for name in tensors.all:
        entry = weights.entries[name]
        E = weights.read(name)
        row_bytes = (entry.end - entry.start) // entry.shape[0]
        old = weights.raw(name)[: extension.first_new_id * row_bytes].tobytes()
        changed[name] = ((rows, *entry.shape[1:]), old + to_bytes(new_tensor(E, base, extension, rows, cfg.init), entry.dtype))
    write_changed(weights, changed, out)
    write_json(out / "config.json", resized_config(base.folder, rows))
    return tensors, rows


def resized_config(folder: Path, rows: int) -> dict[str, Any]:
    """config.json with the new number of rows, wherever the base states it; all other keys in their order."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config")
    if isinstance(text, dict):
        config["text_config"] = {**text, "vocab_size": rows}
    if "vocab_size" in config or not isinstance(text, dict):
        config["vocab_size"] = rows
    return config


def copy_beside(base: Base, out: Path) -> list[str]:
    """Copies what belongs to the model whatever its vocabulary: chat template, generation config, tokenizer settings, licence.

    Files that `out` has already are left. Returns the names of tokenizer files that were left behind because they no longer agree.
    """
    left = []
    for path in sorted(base.folder.iterdir()):
        name = path.name
        if name in _STALE:
            left.append(name)
        elif path.is_dir():
            if name == "additional_chat_templates":
                shutil.copytree(path, out / name, dirs_exist_ok=True)
        elif name.endswith(".index.json") or (out / name).exists():
            continue
        elif path.suffix in _KEPT or name.upper().startswith(("LICENSE", "LICENCE", "NOTICE")):
            shutil.copyfile(path, out / name)
    return left

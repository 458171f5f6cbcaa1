"""Which tensors of a checkpoint have vocabulary rows, asked of the architecture itself.

It is built twice on the meta device, with two vocabulary sizes, and the tensors whose shapes differ are the ones. So nothing hangs on a
table of names, and a tensor of the vocabulary's size that the architecture does not explain is refused by name instead of left short.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewarm.errors import UserError
from rewarm.vocab.weights import Weights

_QUANTISED = (".qweight", ".qzeros", ".weight_scale", ".weight_scale_inv", ".weight_packed", ".quant_state", ".SCB", ".absmax")
_MORE = 128


@dataclass(frozen=True)
class VocabTensors:
    """The vocabulary-sized tensors of a checkpoint, by their names in it."""

    inputs: tuple[str, ...]
    """[V, D]: input embedding, per-layer embeddings, and an output embedding that is the same tensor."""
    outputs: tuple[str, ...]
    """[V, D]: output embedding, if it is a tensor of its own."""
    biases: tuple[str, ...]
    """[V]: output bias."""
    tied: bool
    """Whether the model uses the input embedding as its output embedding."""
    rows: int
    """Of the input embedding, by config.json and by the checkpoint."""
    sizes: tuple[tuple[str, ...], ...]
    """Where config.json must state the number of rows, as paths of keys."""

    @property
    def all(self) -> tuple[str, ...]:
        return self.inputs + self.outputs + self.biases


def vocab_tensors(folder: Path, weights: Weights, next_id: int | None = None) -> VocabTensors:
    """Finds them. UserError names what cannot be extended: quantised weights, a tensor that nothing explains, an id that is taken.

    next_id: first id the tokenizer leaves free; ids above it that the config gives a meaning (an image's place) are then refused too.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _refuse_quantised(config, weights, folder)
    settings, kind = _architecture(folder)
    if next_id is not None:
        _refuse_taken(settings, next_id, folder)
    model, larger = _built(settings, kind, 0), _built(settings, kind, _MORE)
    rows = int(settings.get_text_config().vocab_size)
    shapes = {name: tuple(tensor.shape) for name, tensor in _named(larger).items()}
    parameters = _named(model)
    stored = _stored_names(model, parameters, weights)
    output = model.get_output_embeddings()
    tied = output is not None and output.weight is model.get_input_embeddings().weight
    inputs: list[str] = []
    outputs: list[str] = []
    biases: list[str] = []
    for name, tensor in parameters.items():
        shape = tuple(tensor.shape)
        if shapes[name] == shape:
            continue
        for there in stored.get(name, []):
            found = weights.entries[there]
            if found.shape != shape:
                raise UserError(
                    f"tensor `{there}` is {list(found.shape)}, but config.json asks for {list(shape)}",
                    where=str(found.file),
                    fix="mend vocab_size in config.json",
                )
            if shapes[name] != (shape[0] + _MORE, *shape[1:]) or len(shape) > 2:
                raise UserError(
                    f"tensor `{there}` {list(shape)} depends on the vocabulary in a way that is not known",
                    where=str(folder),
                    fix="choose another base, or set vocab.extend: false",
                )
            if len(shape) == 1:
                biases.append(there)
            else:
                (outputs if output is not None and not tied and tensor is output.weight else inputs).append(there)
    _refuse_unknown(weights, {there for names in stored.values() for there in names}, rows)
    if not inputs:
        raise UserError("no embedding found among the tensors", where=str(folder), fix="check that the safetensors hold this model")
    return VocabTensors(
        tuple(dict.fromkeys(inputs)), tuple(dict.fromkeys(outputs)), tuple(dict.fromkeys(biases)), tied, rows, _places(settings, config)
    )


def _architecture(folder: Path) -> tuple[Any, Any]:
    """(configuration, model class)."""
    import transformers

    try:
        settings = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError, KeyError) as error:
        raise UserError(f"transformers does not know this model: {str(error).splitlines()[0]}", where=str(folder)) from None
    names = settings.architectures or []
    kind = getattr(transformers, names[0], None) if names else None
    kind = kind or transformers.AutoModelForCausalLM._model_mapping.get(type(settings), None)
    if kind is None:
        raise UserError(f"no model class for {names or settings.model_type}", where=str(folder), fix="set config.json's `architectures`")
    return settings, kind


def _size_names(text: Any) -> list[str]:
    """The sizes a text config has: `vocab_size`, and of models with a vector a token in every layer `vocab_size_per_layer_input`."""
    names = ["vocab_size"]
    if getattr(text, "hidden_size_per_layer_input", 0) and isinstance(getattr(text, "vocab_size_per_layer_input", None), int):
        names.append("vocab_size_per_layer_input")
    return names


def _built(settings: Any, kind: Any, more: int) -> Any:
    """The model with `more` vocabulary rows, without memory for its weights."""
    import torch

    mine = copy.deepcopy(settings)
    text = mine.get_text_config()
    for name in _size_names(text):
        setattr(text, name, getattr(text, name) + more)
    if mine is not text and getattr(mine, "vocab_size", None) is not None:
        mine.vocab_size += more
    with torch.device("meta"):
        return kind._from_config(mine)


def _named(model: Any) -> dict[str, Any]:
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def _stored_names(model: Any, parameters: dict[str, Any], weights: Weights) -> dict[str, list[str]]:
    """Parameter -> names of the tensors that are loaded into it, by the rules with which transformers reads older checkpoints."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    prefix = getattr(model, "base_model_prefix", "")
    out: dict[str, list[str]] = {}
    for stored in weights.entries:
        renamed, _ = rename_source_key(stored, renamings, converters, prefix, parameters)
        for name in (stored, renamed, stored.removeprefix(f"{prefix}."), f"{prefix}.{stored}"):
            if name in parameters:
                out.setdefault(name, []).append(stored)
                break
    return out


def _places(settings: Any, config: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Where config.json states the number of rows, or must from now on."""
    text = settings.get_text_config()
    inner = next((name for name in getattr(settings, "sub_configs", {}) if getattr(settings, name, None) is text), None)
    within = () if text is settings or inner is None else (inner,)
    names = [(text.attribute_map or {}).get(name, name) for name in _size_names(text)]
    places = [(*within, name) for name in names]
    if within and "vocab_size" in config:
        places.append(("vocab_size",))
    return tuple(places)


def _refuse_quantised(config: dict[str, Any], weights: Weights, folder: Path) -> None:
    found = next(
        (key for part in (config, *(v for v in config.values() if isinstance(v, dict))) for key in part if _is_quantised(key, part)), None
    )
    name = next((name for name in weights.entries if any(mark in name for mark in _QUANTISED)), None)
    if found or name:
        what = f"config.json has {found}" if found else f"tensor `{name}` belongs to quantised ones"
        raise UserError(f"the weights are quantised ({what})", where=str(folder), fix="start from the unquantised model")


def _is_quantised(key: str, part: dict[str, Any]) -> bool:
    return key in ("quantization_config", "compression_config") and bool(part[key])


def _refuse_taken(settings: Any, next_id: int, folder: Path) -> None:
    """Ids that the model gives a meaning although its tokenizer does not name them: a new token there would be read as a picture."""
    parts = {"": settings} | {f"{name}.": getattr(settings, name, None) for name in getattr(settings, "sub_configs", {})}
    for place, part in parts.items():
        for name, value in sorted(vars(part).items()) if part is not None else ():
            if name == "vocab_offset" and isinstance(value, int):
                raise UserError(
                    f"config.json: {place}{name} is {value:,}: this model reads all ids from there on as something else than text",
                    where=str(folder),
                    fix="extend the text-only model (its ...ForCausalLM checkpoint)",
                )
            ids = value if isinstance(value, list) else [value]
            if name.endswith(("_token_id", "_token_index")) and any(isinstance(i, int) and i >= next_id for i in ids):
                raise UserError(
                    f"config.json: {place}{name} is {value}, which the tokenizer does not name: a new token would get this id",
                    where=str(folder),
                    fix="add that token to the base's tokenizer first (tokenizer.add_tokens, then save_pretrained)",
                )


def _refuse_unknown(weights: Weights, known: set[str], rows: int) -> None:
    for name, entry in weights.entries.items():
        if name not in known and rows in entry.shape:
            raise UserError(
                f"tensor `{name}` {list(entry.shape)} has the vocabulary's size, but the architecture does not name it",
                where=str(entry.file),
                fix="remove this tensor (a draft head or an older copy) or choose another base",
            )

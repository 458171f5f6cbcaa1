"""A model folder that transformers 4.46 to 5 and the servers built on them load the same way.

What transformers 5 saves, older versions read without a warning and wrongly: the rotary base under a new name (they take 10,000), the type
under a new name (they take fp32), a tokenizer class they do not know, end tokens that chats need. So both spellings are written, side by
side, and the weights are copied byte by byte where their type is already the one asked for.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from rewarm.atomic import disk_errors, read_json, sync_files, sync_folder, temporary, write_json
from rewarm.errors import UserError

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
STORED = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""Names in a config, and in the header of a safetensors file."""
FLOATS = {"F64", "F32", "F16", "BF16"}
UNSET_LENGTH = 10**9
"""A tokenizer's length limit above this is transformers' stand-in for `not set`."""


def write_hf(model_dir: Path, out: Path, dtype: str = "bf16", readme: str | None = None) -> dict[str, Any]:
    """Writes the folder `out` from the folder `model_dir`, whole or not at all; returns {dtype, bytes, weights: {file: how}}.

    dtype: `bf16`, `fp16` or `fp32`. Weights that have it already are copied byte by byte (`copied`), others are rounded to it (`cast`).
    readme: text of the model card. An `out` of an earlier call is replaced, any other folder is a UserError, as is a `model_dir` without
    config.json, tokenizer.json or safetensors.
    """
    if dtype not in DTYPES:
        raise UserError(f"unknown type `{dtype}`; known: {', '.join(DTYPES)}", where="export")
    for name in ("config.json", "tokenizer.json"):
        if not (model_dir / name).is_file():
            raise UserError(f"{name} is missing", where=str(model_dir), fix="export a folder that a run wrote")
    weights = sorted(model_dir.glob("*.safetensors"))
    if not weights:
        raise UserError("no *.safetensors in this folder", where=str(model_dir), fix="export a folder that a run wrote")
    if out.exists() and not (out / "config.json").is_file():
        raise UserError("there already, and no model: nothing was written", where=str(out), fix="choose another folder")
    part = temporary(out)
    shutil.rmtree(part, ignore_errors=True)
    with disk_errors(out, sum(file.stat().st_size for file in weights)):
        try:
            part.mkdir(parents=True)
            how = {file.name: _copy_weights(file, part / file.name, DTYPES[dtype]) for file in weights}
            _write_index(model_dir, part)
            config = config_for_all(read_json(model_dir / "config.json"), DTYPES[dtype])
            write_json(part / "config.json", config)
            settings, template = tokenizer_config_for_all(model_dir, config)
            write_json(part / "tokenizer_config.json", settings)
            if template is not None:
                (part / "chat_template.jinja").write_text(template, encoding="utf-8")
            (part / "tokenizer.json").write_text(tokenizer_json_for_all(model_dir / "tokenizer.json"), encoding="utf-8")
            write_json(part / "generation_config.json", generation_config(model_dir, config, settings))
            for name in ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE"):
                if (model_dir / name).is_file():
                    shutil.copyfile(model_dir / name, part / name)
            if readme is not None:
                (part / "README.md").write_text(readme, encoding="utf-8")
            mode = 0o666 & ~_umask()
            for file in part.iterdir():
                file.chmod(mode)  # safetensors writes 0600: a server under another account could not read it
            sync_files(part)
            if out.exists():
                shutil.rmtree(out)
            part.replace(out)
            sync_folder(out.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return {"dtype": dtype, "bytes": sum(file.stat().st_size for file in out.glob("*.safetensors")), "weights": how}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# --- weights


def header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file: tensor name to {dtype, shape, data_offsets}, and `__metadata__`."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        parsed: dict[str, Any] = json.loads(stream.read(size))
    return parsed


def _copy_weights(source: Path, target: Path, dtype: str) -> str:
    """A copy and no hard link: who saves over the exported file must not change the run's own folder."""
    kinds = {entry["dtype"] for name, entry in header(source).items() if name != "__metadata__"}
    if kinds & FLOATS <= {STORED[dtype]}:
        shutil.copyfile(source, target)
        return "copied"
    import torch
    from safetensors.torch import load_file, save_file

    wanted = getattr(torch, dtype)
    tensors = {name: tensor.to(wanted) if tensor.is_floating_point() else tensor for name, tensor in load_file(source).items()}
    save_file(tensors, target, metadata={"format": "pt"})
    return "cast"


def _write_index(model_dir: Path, out: Path) -> None:
    """The index of a model in several files, with the sizes as they are now."""
    path = model_dir / "model.safetensors.index.json"
    if not path.is_file():
        return
    index = read_json(path)
    total = 0
    for file in out.glob("*.safetensors"):
        total += sum(end - start for name, e in header(file).items() if name != "__metadata__" for start, end in [e["data_offsets"]])
    index["metadata"] = {**(index.get("metadata") or {}), "total_size": total}
    write_json(out / path.name, index)


# --- config.json


def config_for_all(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The same configuration with the rotary base and the type under their new and their old names.

    Before version 5, transformers reads `rope_theta` and `rope_scaling` and knows no `rope_parameters`; up to 4.51 it reads `torch_dtype`.
    """
    out = {key: value for key, value in config.items() if key not in ("_name_or_path", "quantization_config")}
    out["dtype"] = out["torch_dtype"] = dtype
    rope = out.get("rope_parameters")
    if not isinstance(rope, dict):
        return out
    kinds = {key: value for key, value in rope.items() if isinstance(value, dict)}  # one set for each kind of layer, as Gemma-3 has
    main = kinds.get("full_attention") or next(iter(kinds.values())) if kinds else rope
    scaling = {key: value for key, value in main.items() if key not in ("rope_theta", "partial_rotary_factor")}
    if "rope_theta" in main:
        out["rope_theta"] = main["rope_theta"]
    if "partial_rotary_factor" in main:
        out["partial_rotary_factor"] = main["partial_rotary_factor"]
    out["rope_scaling"] = scaling if scaling.get("rope_type", "default") != "default" else None
    if "rope_theta" in kinds.get("sliding_attention", {}):
        out["rope_local_base_freq"] = kinds["sliding_attention"]["rope_theta"]
    return out


# --- tokenizer


def tokenizer_config_for_all(model_dir: Path, config: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """(tokenizer_config.json, chat template or None). The class is one that 4.x and 5 both know and that takes tokenizer.json as it is."""
    path = model_dir / "tokenizer_config.json"
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    names = model_dir / "special_tokens_map.json"
    out = {**(read_json(names) if names.is_file() else {}), **found}
    for key in ("backend", "is_local", "local_files_only", "added_tokens_decoder", "tokenizer_file", "name_or_path", "auto_map"):
        out.pop(key, None)
    if isinstance(out.get("extra_special_tokens"), list):  # 4.x expects a mapping under this name and a list under the old one
        out.setdefault("additional_special_tokens", out.pop("extra_special_tokens"))
    out["tokenizer_class"] = "PreTrainedTokenizerFast"
    if any(str(name).endswith("ForCausalLM") for name in config.get("architectures") or []):
        out.setdefault("model_input_names", ["input_ids", "attention_mask"])  # 4.x adds token types, which generate() then refuses
    out["clean_up_tokenization_spaces"] = False  # true would take the blank before punctuation out of what is decoded
    limit = config.get("max_position_embeddings")
    if not isinstance(out.get("model_max_length"), int | float) or out["model_max_length"] > UNSET_LENGTH:
        out.pop("model_max_length", None)
        if isinstance(limit, int):
            out["model_max_length"] = limit
    template_file = model_dir / "chat_template.jinja"
    template = template_file.read_text(encoding="utf-8") if template_file.is_file() else out.get("chat_template")
    if isinstance(template, str):  # several named templates stay where they are
        out["chat_template"] = template
        return out, template
    return out, None


def tokenizer_json_for_all(path: Path) -> str:
    """tokenizer.json with merges as strings, which tokenizers before 0.20 needs, if no token holds a blank; else as it is.

    The pair form was made for tokens with blanks; for all others it doubles the file and shuts old readers out. The tokenizer that comes
    out is the same object, which is checked.
    """
    from tokenizers import Tokenizer

    text = path.read_text(encoding="utf-8")
    tree = json.loads(text)
    merges = tree["model"].get("merges")
    if not isinstance(merges, list) or any(" " in part for pair in merges if not isinstance(pair, str) for part in pair):
        return text
    tree["model"]["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    short = json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
    return short if Tokenizer.from_str(short).to_str() == Tokenizer.from_str(text).to_str() else text


# --- generation_config.json


def generation_config(model_dir: Path, config: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The base's generation settings as they are, also those that transformers would refuse to save, with every end token in a list.

    A chat that knows only one of two ends never stops. The order is the base's own, ends from elsewhere after it.
    """
    path = model_dir / "generation_config.json"
    out: dict[str, Any] = read_json(path) if path.is_file() else {}
    ends: list[int] = []
    for source in (out.get("eos_token_id"), config.get("eos_token_id"), _id_of(model_dir, settings.get("eos_token"))):
        ends += [i for i in (source if isinstance(source, list) else [source]) if isinstance(i, int) and i not in ends]
    if ends:
        out["eos_token_id"] = ends
    for key in ("bos_token_id", "pad_token_id"):
        if out.get(key) is None and config.get(key) is not None:
            out[key] = config[key]
    return out


def _id_of(model_dir: Path, token: Any) -> int | None:
    """The id of a special token of tokenizer_config.json, which names it by a string or by an object with `content`."""
    from tokenizers import Tokenizer

    surface = token.get("content") if isinstance(token, dict) else token
    if not isinstance(surface, str):
        return None
    found: int | None = Tokenizer.from_file(str(model_dir / "tokenizer.json")).token_to_id(surface)
    return found

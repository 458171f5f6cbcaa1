"""A Hugging Face folder to a model that can be trained, and back to a folder.

Whatever can be known before gigabytes are read is checked first (`files.py`). Only safetensors are read (a pickle runs code), and no code
out of a model's folder. What is written is the base's own configuration with the few values that changed, so nothing of this machine or
of the way we trained gets into it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from rewarm.atomic import disk_errors, sync_files, sync_folder, temporary, write_json
from rewarm.errors import UserError
from rewarm.model.attention import NAME
from rewarm.model.family import Family, family_of
from rewarm.model.files import SIDE_FILES, check_rows, check_weights, find_folder, read_object


@dataclass(frozen=True, slots=True)
class Base:
    """A loaded model. path: the local folder it came from. report: counts for logs and cards (JSON values)."""

    model: PreTrainedModel
    family: Family
    path: Path
    report: dict[str, Any]


def load_base(path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Base:
    """A causal language model with document-isolating attention, no dropout and no noise in its routers, in `dtype` on `device`.

    path: a folder with safetensors, or a name on the hub. Rotary frequencies stay fp32 in every dtype. UserError for whatever is missing,
    damaged or does not fit together: before the weights are read, as far as that can be.
    """
    folder = find_folder(path)
    header = check_weights(folder)
    config = read_config(folder)
    if getattr(config, "quantization_config", None) is not None:
        raise UserError("quantised weights cannot be trained", where=str(folder), fix="use the model's 16-bit weights as the base")
    for name, value in vars(config).items():
        if ("drop" in name or "jitter" in name) and isinstance(value, float):
            setattr(config, name, 0.0)
    generation = read_generation(folder, config)
    try:
        with _quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                generation_config=generation,
                dtype=dtype,
                device_map={"": str(device)} if torch.device(device).type == "cuda" else None,
                attn_implementation=NAME,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"cannot load this model: {error}", where=str(folder), fix="it must be a causal language model") from error
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"{len(missing)} weights are not in the files, first `{missing[0]}`", where=str(folder), fix="download the model again"
        )
    family = family_of(model)
    check_rows(folder, family.embedding.weight.shape[0])
    model.train()
    return Base(model, family, folder, {**header, **_report(model, family), "unexpected": sorted(info["unexpected_keys"])})


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers between ours."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def read_config(folder: Path) -> PreTrainedConfig:
    """The model's configuration. UserError where there is none, or its type is not known."""
    if not (folder / "config.json").is_file():
        raise UserError("config.json is missing: this is no Hugging Face model", where=str(folder))
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError) as error:
        kind = read_object(folder / "config.json").get("model_type")
        told = "" if "does not recognize this architecture" in str(error) else f": {str(error).splitlines()[0]}"
        raise UserError(
            f"transformers does not know the model type `{kind}`, and code out of a model's folder is never run{told}",
            where=str(folder / "config.json"),
            fix="update transformers, or use another base",
        ) from error
    return config


def read_generation(folder: Path, config: PreTrainedConfig) -> GenerationConfig:
    """The ids of begin, end and padding out of generation_config.json, else out of the configuration; nothing else of that file.

    The file itself is copied as it is. A model that held its other settings would have them judged again at every save, after hours of
    training, by whatever the library finds wrong with them by then (temperature without sampling, for one). UserError, before anything is
    trained, where the file is damaged, or says what the installed transformers refuses to read, as then nothing could load the result.
    """
    file = folder / "generation_config.json"
    said = read_object(file) if file.is_file() else {}
    fix = "correct the file in a copy of the base's folder, or remove it there"
    if not isinstance(said, dict):
        raise UserError("generation settings are a JSON object, this is something else", where=str(file), fix=fix)
    try:
        GenerationConfig.from_dict(said)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"transformers refuses these generation settings: {str(error).splitlines()[0]}", where=str(file), fix=fix
        ) from error
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return GenerationConfig(**{name: _ids(said.get(name, getattr(config, name, None))) for name in names})


def _ids(said: Any) -> list[int] | int | None:
    """One id or several; not the -1 that some configurations write for "none" and no library saves."""
    ids = [i for i in (said if isinstance(said, list) else [said]) if isinstance(i, int) and i >= 0]
    return ids if isinstance(said, list) and ids else ids[0] if ids else None


def _report(model: PreTrainedModel, family: Family) -> dict[str, Any]:
    return {
        "model_type": family.kind,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "embedding_parameters": family.embedding.weight.numel() * (1 if family.tied else 2),
        "layers": len(family.layers),
        "rows": family.rows,
        "tied": family.tied,
        "experts": family.experts,
    }


def save_hf(model: PreTrainedModel, base_dir: str | Path, out: str | Path, dtype: torch.dtype | None = None) -> None:
    """Writes `out` as a plain Hugging Face folder, whole or not at all: weights in `dtype` (None: as they are), the files of `base_dir`.

    config.json is the base's with the rows, the type and the class of this model. Tied weights are written once and stay tied; the layout
    of the checkpoint is the family's published one. A folder that an earlier call wrote is replaced; any other folder is an error.
    """
    base_dir, out = Path(base_dir), Path(out)
    if out.exists() and not _is_model(out):
        raise UserError("this folder is there already and holds no model: nothing was written", where=str(out), fix="choose another folder")
    part = temporary(out)
    shutil.rmtree(part, ignore_errors=True)
    needed = sum(p.numel() * (p.element_size() if dtype is None else dtype.itemsize) for p in model.parameters())
    with disk_errors(out, needed):  # around the removal of the half folder: it tells what is free after that
        try:
            part.mkdir(parents=True)
            _write_weights(model, part, dtype)
            for name in SIDE_FILES:
                (part / name).unlink(missing_ok=True)
                if (base_dir / name).is_file():
                    shutil.copyfile(base_dir / name, part / name)
            write_json(part / "config.json", _config(model, base_dir, dtype))
            _sync(part)
            if out.exists():
                old = out.with_name(f"{out.name}-old.tmp-{os.getpid()}")
                out.replace(old)
                part.replace(out)
                shutil.rmtree(old)
            else:
                part.replace(out)
            sync_folder(out.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _write_weights(model: PreTrainedModel, folder: Path, dtype: torch.dtype | None) -> None:
    """Parameters once each, so that a tied head is left out, and the buffers that belong to a checkpoint."""
    kept = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    state = {name: tensor for name, tensor in model.state_dict().items() if name in kept}
    if dtype is not None:
        state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    with _quiet():
        model.save_pretrained(folder, state_dict=state, max_shard_size="5GB")


def _config(model: PreTrainedModel, base_dir: Path, dtype: torch.dtype | None) -> dict[str, Any]:
    config = read_object(base_dir / "config.json")
    for name in ("_name_or_path", "auto_map", "_attn_implementation", "attn_implementation"):
        config.pop(name, None)
    config["architectures"] = [type(model).__name__]
    config["vocab_size"] = model.get_input_embeddings().weight.shape[0]
    tied = family_of(model).tied
    if model.config.tie_word_embeddings != tied or "tie_word_embeddings" in config:
        config["tie_word_embeddings"] = tied
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    config[key] = str(dtype or next(model.parameters()).dtype).removeprefix("torch.")
    return config


def _sync(folder: Path) -> None:
    """Every file on disk, and with the permissions of the configuration: safetensors writes files that only their owner can read."""
    mode = (folder / "config.json").stat().st_mode
    for path in folder.iterdir():
        path.chmod(mode)
    sync_files(folder)

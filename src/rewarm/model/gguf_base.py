"""A GGUF file as a plain Hugging Face folder: bf16 safetensors, a tokenizer that splits as the file says, no trace of quantisation.

transformers reads the weights (it knows how llama.cpp permutes and names them); the tokenizer is built by `gguf_tokenizer`, since the
reader loses splits. The folder appears whole or not at all. A file of 4 bits gives weights of 4 bits' worth: training on them also heals
what quantisation broke, which is why the run says so.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewarm.atomic import disk_errors, read_json, sha256_file, sync_folder, temporary, write_json
from rewarm.errors import MachineError, UserError
from rewarm.progress import Reporter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rewarm.model.gguf_tokenizer import GgufTokenizer

RECORD = "gguf.json"
ANEW = "the file is damaged: get it anew and compare its sha256"
LINES = (
    "Điều 1. Phạm vi điều chỉnh: năm 2015, 100 000 đồng.",
    "  two blanks,\ttabs and 12,345.678 digits",
    "안녕하세요 你好 こんにちは 👋🏽",
)
"""Text on which transformers and tokenizers alone must agree."""
PROMPT = "The capital of France is"
LEFT_OUT = ("_name_or_path", "_model_name_or_path", "quantization_config", "unk_token_id")  # of the reader, not of the model


def convert_gguf(gguf_file: str | Path, out: Path, reporter: Reporter) -> dict[str, Any]:
    """Writes `out` as a Hugging Face folder and returns what the file was, also kept as `gguf.json` in it.

    Done already from the same bytes: returns the record. `out` of another origin: UserError. Also raises UserError for a file that is not
    there, is damaged or split, names an unknown split of text, scales its rotary frequencies (the reader drops that), or holds an
    architecture that transformers does not read. Checked before the folder appears: the saved tensors are the read ones, bit for bit, ids
    survive a reload, and the reloaded model generates.
    """
    path = Path(gguf_file)
    where = str(path)
    if not path.is_file():
        raise UserError("no such file", where=where, fix="model.gguf is the path of one .gguf file")
    digest = sha256_file(path)
    if out.exists():
        record = read_json(out / RECORD) if (out / RECORD).is_file() else {}
        if record.get("sha256") == digest:
            return dict(record)
        raise UserError(
            "already there, and not made from this GGUF file", where=str(out), fix="choose another folder or move this one away"
        )

    from rewarm.model.gguf_tokenizer import build_tokenizer

    metadata, tensors = read_header(path)
    words = build_tokenizer(metadata, where)
    part = temporary(out)
    shutil.rmtree(part, ignore_errors=True)
    try:
        with disk_errors(out):
            part.mkdir(parents=True)
            model = _read_model(path, metadata)
            _check_sizes(model, words, where)
            _write_model(model, words, part)
            _write_tokenizer(words, metadata, part)
            _check_saved(model, part)
            record = {
                "format": 1,
                "file": path.name,
                "sha256": digest,
                "name": metadata.get("general.name"),
                "architecture": metadata["general.architecture"],
                "stored_as": tensors,
                "pre": words.pre,
                "tokens": words.tokenizer.get_vocab_size(),
                "rows": model.get_input_embeddings().weight.shape[0],
                "parameters": sum(p.numel() for p in model.parameters()),
                "tied": bool(model.config.tie_word_embeddings),
                "licence": metadata.get("general.license"),
                "languages": list(metadata.get("general.languages") or []),
                "ends": list(words.ends),
            }
            del model
            record["prompt"], record["continuation"] = PROMPT, _generate(part)
            write_json(part / RECORD, record)
            part.replace(out)
            sync_folder(out.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    kinds = ", ".join(f"{n} {kind}" for kind, n in tensors.items())
    reporter.say(f"base model read from {path.name} ({kinds}; words split as `{words.pre}`): {PROMPT!r} -> {record['continuation']!r}")
    return record


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """(metadata: key to plain value, tensors by storage type: count). Refuses damaged and split files, and scaled rotary frequencies."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise UserError(f"not a whole GGUF file ({error})", where=str(path), fix=ANEW) from None
    metadata = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    if metadata.get("split.count", 1) > 1:
        raise UserError("one part of a split file", where=str(path), fix="merge the parts with llama.cpp's gguf-split first")
    kind = metadata.get("general.architecture")
    names = {tensor.name for tensor in reader.tensors}
    scaling = metadata.get(f"{kind}.rope.scaling.type", "none")
    if "rope_freqs.weight" in names or scaling not in ("none", ""):
        raise UserError(
            f"the file scales its rotary frequencies ({scaling if scaling != 'none' else 'rope_freqs.weight'}), which is lost on reading",
            where=str(path),
            fix="take this model's Hugging Face folder as model.base instead",
        )
    counts: dict[str, int] = {}
    for tensor in reader.tensors:
        counts[tensor.tensor_type.name] = counts.get(tensor.tensor_type.name, 0) + 1
    return metadata, dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _read_model(path: Path, metadata: dict[str, Any]) -> PreTrainedModel:
    """The model in bf16, as transformers reads the file."""
    import torch
    import transformers

    extra: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):  # from 5.2x on weights stay quantised unless told otherwise, and cannot be saved
        extra["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # two progress bars of the reader
            model = transformers.AutoModelForCausalLM.from_pretrained(
                str(path.parent), gguf_file=path.name, dtype=torch.float32, trust_remote_code=False, **extra
            )
    except (ValueError, NotImplementedError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"architecture `{metadata.get('general.architecture')}` could not be read: {reason}",
            where=str(path),
            fix="take this model's Hugging Face folder as model.base instead",
        ) from error
    model = model.to(torch.bfloat16)
    return model.eval()


def _check_sizes(model: PreTrainedModel, words: GgufTokenizer, where: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(words.tokenizer.get_vocab().values())
    if largest >= rows:
        raise UserError(
            f"the largest token id is {largest:,}, but there are {rows:,} embedding rows", where=where, fix="the file is damaged"
        )


def _write_model(model: PreTrainedModel, words: GgufTokenizer, out: Path) -> None:
    """config.json, model.safetensors and generation_config.json, without the reader's leftovers."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(bos_token_id=words.bos, eos_token_id=list(words.ends), pad_token_id=words.pad)
    for name in LEFT_OUT:
        if hasattr(model.config, name):
            with contextlib.suppress(AttributeError):  # a property of the class
                delattr(model.config, name)
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
        model.save_pretrained(out)
    config = {key: value for key, value in read_json(out / "config.json").items() if key not in LEFT_OUT}
    config |= {"bos_token_id": words.bos, "eos_token_id": words.eos, "pad_token_id": words.pad}
    write_json(out / "config.json", _short_floats(config))
    mode = 0o666 & ~_umask()
    for file in out.glob("*.safetensors"):
        file.chmod(mode)  # safetensors writes 0600: a server under another account could not read it


def _short_floats(value: Any) -> Any:
    """GGUF keeps numbers in 32 bits: 1e-5 comes back as 9.999999747378752e-06. The shortest decimal with the same 32 bits is meant."""
    import numpy as np

    if isinstance(value, dict):
        return {key: _short_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_short_floats(item) for item in value]
    return float(str(np.float32(value))) if isinstance(value, float) and float(np.float32(value)) == value else value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_tokenizer(words: GgufTokenizer, metadata: dict[str, Any], out: Path) -> None:
    words.tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    context = metadata.get(f"{metadata['general.architecture']}.context_length")
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # the name that transformers 4 and 5 both know; reads tokenizer.json as it is
        "model_input_names": ["input_ids", "attention_mask"],  # else transformers 4 adds token types, which generate() refuses
        "clean_up_tokenization_spaces": False,
        "add_bos_token": words.add_bos,
        **words.special,
    }
    if context:
        settings["model_max_length"] = context
    if words.chat_template:
        settings["chat_template"] = words.chat_template
        (out / "chat_template.jinja").write_text(words.chat_template, encoding="utf-8")
    (out / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _check_saved(model: PreTrainedModel, folder: Path) -> None:
    """The folder holds every weight of `model`, bit for bit; a tied head may be left out."""
    import torch
    from safetensors import safe_open

    state = model.state_dict()
    seen = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as saved:
            for name in sorted(saved.keys()):
                seen.add(name)
                if not torch.equal(saved.get_tensor(name), state[name]):
                    raise MachineError(f"{name} was not saved as it was read", where=str(file), fix="check the disk and run again")
    kept = {state[name].data_ptr() for name in seen}
    missing = [name for name, tensor in state.items() if name not in seen and tensor.data_ptr() not in kept]
    if missing:
        raise MachineError(f"not saved: {', '.join(missing[:5])}", where=str(folder), fix="report this with the file's name")


def _generate(folder: Path, tokens: int = 12) -> str:
    """What the reloaded folder writes after the prompt, greedily: the last proof that it is a model and not only files."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    alone = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for line in (PROMPT, *LINES):
        if words(line)["input_ids"] != alone.encode(line).ids:
            raise MachineError(f"transformers reads {line!r} otherwise than tokenizers does", where=str(folder), fix="report this file")
    with contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(str(folder), trust_remote_code=False, dtype=torch.float32).eval()
    with torch.no_grad():
        inputs = words(PROMPT, return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        logits = model(**inputs).logits
    if not bool(torch.isfinite(logits).all()):
        raise MachineError("the model's logits are not finite", where=str(folder), fix=ANEW)
    return str(words.decode(written, skip_special_tokens=True))

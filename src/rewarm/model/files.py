"""A model's folder, before any weight is read: where it is, what it must hold, whether its files are whole and fit together."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rewarm.atomic import read_json
from rewarm.errors import UserError

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
SIDE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
"""What a model folder holds beside weights and configuration: copied byte by byte, also where a library would find fault with it."""


def find_folder(path: str | Path, weights: bool = True) -> Path:
    """The folder of a model: a local one as it is, a name on the hub after downloading what is not in its cache yet.

    weights: False leaves them on the hub, for what only looks at a tokenizer.
    """
    if not str(path):
        raise UserError("an empty name where a model's folder should be", fix="give a model's folder, or its name on the hub as owner/name")
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if folder.is_file():
        raise UserError("a model is a folder, this is a file", where=str(path), fix="a GGUF file goes into model.gguf")
    if not re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", str(path)):
        raise UserError("no such folder", where=str(path), fix="give a model's folder, or its name on the hub as owner/name")
    return _download(str(path), weights)


def _download(name: str, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        more = [INDEX, "*.safetensors"] if weights else ["spiece.model", "sentencepiece.bpe.model", "tekken.json", "vocab.txt"]
        return Path(snapshot_download(name, allow_patterns=["config.json", *more, *SIDE_FILES]))
    except GatedRepoError as error:
        raise UserError(
            "this model asks for a consent on the hub first", where=name, fix="accept it there, then `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError("neither a folder here nor a model on the hub", where=name, fix="check the spelling") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            "no such folder, the model is not in the hub's cache, and the hub cannot be reached from here",
            where=name,
            fix="download it elsewhere and give its folder",
        ) from error


def check_folder(folder: Path) -> dict[str, Any]:
    """config.json of a model's folder, after everything that can be known of the folder without reading weights was checked.

    UserError for a missing or damaged file, or quantised weights.
    """
    if not (folder / "config.json").is_file():
        raise UserError("there is no config.json: this is no model folder", where=str(folder), fix="give a Hugging Face folder")
    config = read_object(folder / "config.json")
    if config.get("quantization_config") is not None:
        raise UserError("quantised weights cannot be trained", where=str(folder), fix="use the model's 16-bit weights as the base")
    check_weights(folder)
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(
            "there is no tokenizer.json",
            where=str(folder),
            fix="write one: AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of transformers does",
        )
    try:
        Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises the bare class
        raise UserError(f"tokenizers cannot read this file: {error}", where=str(file), fix="download the model again") from None
    return config


def read_object(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ValueError as error:
        raise UserError(f"not valid JSON: {error}", where=str(path), fix="download the model again") from error


def check_weights(folder: Path) -> dict[str, Any]:
    """Counts of the safetensors files, from the index and their headers alone. UserError names a missing or cut file."""
    if (folder / INDEX).is_file():
        wanted = read_object(folder / INDEX).get("weight_map", {})
        files = sorted(set(wanted.values()))
    elif (folder / WEIGHTS).is_file():
        wanted, files = {}, [WEIGHTS]
    else:
        others = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
        if others:
            raise UserError(
                f"only {others[0]} is here, and a pickle can run any code when it is read: only safetensors are loaded",
                where=str(folder),
                fix="convert it with transformers on a machine you trust, or use a base with safetensors",
            )
        raise UserError(f"no weights: neither {WEIGHTS} nor {INDEX}", where=str(folder), fix="download the model again")
    if absent := [name for name in files if not (folder / name).is_file()]:
        raise UserError(
            f"{len(absent)} of {len(files)} weight files are missing, first {absent[0]}",
            where=str(folder),
            fix="download the model again; what is here is kept",
        )
    types: Counter[str] = Counter()
    names: set[str] = set()
    for name in files:
        for tensor, entry in _header(folder / name).items():
            names.add(tensor)
            first, last = entry["data_offsets"]
            types[entry["dtype"]] += last - first
    if lost := sorted(set(wanted) - names):
        raise UserError(f"the index names `{lost[0]}`, which {wanted[lost[0]]} does not hold", where=str(folder / INDEX))
    return {"files": len(files), "bytes": sum(types.values()), "stored_as": types.most_common(1)[0][0] if types else None}


def _header(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file: 8 bytes of length, JSON, then the data up to the end of the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        raw = file.read(length) if length <= size - 8 else b""
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise UserError("this file is damaged: it has no header of safetensors", where=str(path), fix="download it again") from error
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end != size:
        raise UserError(f"this file is cut or damaged: {size:,} bytes, its header says {end:,}", where=str(path), fix="download it again")
    return header


def check_rows(folder: Path, rows: int) -> None:
    """Every id that the folder's tokenizer can give has a row in the embedding. No tokenizer.json, nothing to check."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return
    largest = max(Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= rows:
        raise UserError(
            f"the tokenizer gives ids up to {largest:,}, the model has {rows:,} rows",
            where=str(folder),
            fix="tokenizer and weights are not of one model: use the folder as it was published, or run `rewarm vocab extend` again",
        )

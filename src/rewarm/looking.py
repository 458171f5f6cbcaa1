"""What lies there before a run: the base by its headers, and each source by its first megabytes."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewarm.corpus.language import look, told
from rewarm.corpus.plan import PACKED
from rewarm.corpus.read import Tally, read_file
from rewarm.recipe import Loaded
from rewarm.rooms import checked_base
from rewarm.tokens.positions import positions_of

SAMPLE_BYTES = 2_000_000
SAMPLE_FILES = 16


@dataclass(frozen=True)
class SourcePlan:
    """A source as it lies there. tokens: of the base's tokenizer, end tokens included; `exact` if all of it was read. wrong: how much does
    not look like its languages, in words; None if little."""

    name: str
    role: str
    languages: list[str]
    files: int
    documents: int
    bytes: int
    tokens: int
    exact: bool
    sample: tuple[str, ...] = field(default=(), repr=False)
    wrong: str | None = None


def base_facts(loaded: Loaded) -> dict[str, Any]:
    """Name, parameters, layers, width and positions of the base, and its encoder; weights are not read."""
    from tokenizers import Tokenizer

    model = loaded.recipe.model
    if model.gguf is not None:
        from rewarm.model.gguf_base import read_header
        from rewarm.model.gguf_tokenizer import build_tokenizer

        path = loaded.root / model.gguf
        metadata, _ = read_header(path)
        kind = metadata["general.architecture"]
        config = {"model_type": kind, "max_position_embeddings": metadata.get(f"{kind}.context_length")}
        layers, width = metadata[f"{kind}.block_count"], metadata[f"{kind}.embedding_length"]
        tokenizer = build_tokenizer(metadata, str(path)).tokenizer
        name, parameters = path.stem, _gguf_parameters(path)
    else:
        folder, config = checked_base(loaded.recipe, loaded.root)
        text = config.get("text_config") or config
        layers = text.get("num_hidden_layers") or text.get("n_layer") or 1
        width = text.get("hidden_size") or text.get("n_embd") or 1
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        name, parameters = folder.name, _parameters(folder)
    positions = positions_of(config)
    return {
        "name": name, "parameters": parameters, "layers": int(layers), "width": int(width), "positions": positions,
        "encode": lambda texts: sum(len(e.ids) + 1 for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)),
    }  # fmt: skip


def _gguf_parameters(path: Path) -> int:
    from gguf import GGUFReader

    return sum(int(t.n_elements) for t in GGUFReader(path).tensors)


def _parameters(folder: Path) -> int:
    """Elements of all tensors, from the headers of the safetensors files."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as f:
            header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        for key, entry in header.items():
            if key != "__metadata__":
                elements = 1
                for side in entry["shape"]:
                    elements *= side
                total += elements
    return total


def look_at(source: Any, files: list[Any], encode: Any) -> SourcePlan:
    """Reads a source's first megabytes and scales up by file size."""
    texts: list[str] = []
    taken = size = 0
    whole = sum(f.path.stat().st_size for f in files)
    exact = True
    for file in files:
        if taken >= SAMPLE_BYTES:
            exact = False
            break
        before, tally = taken, Tally()
        for row in read_file(file, source, tally):
            if taken >= SAMPLE_BYTES:
                exact = False
                break
            texts.append(row.text)
            taken += len(row.text.encode())
        # how far a file was read is known by its bytes on disk where it is packed, else by the text that came of it: blocks read ahead
        packed = file.format == "parquet" or file.path.suffix.lower() in PACKED
        size += file.bytes if exact else min(file.bytes, tally.place if packed else taken - before)
    wrong = told(look(texts if exact or len(files) == 1 else _beginnings(source, files), source.languages), source.languages)
    tokens = encode(texts) if texts else 0
    scale = 1.0 if exact else max(1.0, whole / max(1, size))
    documents, size_bytes, tokens = round(len(texts) * scale), round(taken * scale), round(tokens * scale)
    return SourcePlan(
        source.name, source.role, list(source.languages), len(files), documents, size_bytes, tokens, exact, tuple(texts), wrong
    )  # fmt: skip


def _beginnings(source: Any, files: list[Any]) -> list[str]:
    """The beginnings of files spread over the source, as long together as the sample: a language may change from file to file."""
    picked = [files[i * len(files) // SAMPLE_FILES] for i in range(SAMPLE_FILES)] if len(files) > SAMPLE_FILES else files
    texts: list[str] = []
    for file in picked:
        left = SAMPLE_BYTES // len(picked)
        for row in read_file(file, source, Tally()):
            texts.append(row.text[:left])
            left -= len(row.text)
            if left <= 0:
                break
    return texts

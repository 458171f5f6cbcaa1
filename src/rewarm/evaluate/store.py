"""Scores as files: what was scored once, in this folder or by this user, is not scored again.

A file holds a part of a text (some documents under one model) and is named by a hash of all that its numbers depend on: weights,
tokenizer, protocol, the documents and the kind of device. Parts are cut at fixed places, because the rows that share a batch move the last
bits: so the numbers are the same whether an evaluation ran through, went on after a kill, or found them in the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rewarm.atomic import open_atomic, sha256_file
from rewarm.errors import UserError
from rewarm.evaluate.bits import DocScores
from rewarm.evaluate.documents import Documents
from rewarm.evaluate.protocol import Protocol

FORMAT = 3
"""Raised when kept numbers change their meaning. 2: bf16 over fp32 weights. 3: bf16 on a CPU in batches of few widths."""
PART_BYTES = {"cpu": 16_384, "cuda": 262_144}
"""Text of a part: what a kill may cost, 20 seconds of a CPU."""


def user_cache() -> Path:
    """Where base scores are kept between runs: REWARM_CACHE, else `rewarm` in XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("REWARM_CACHE"):
        return Path(chosen).expanduser() / "scores"
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "rewarm" / "scores"


def usable(cache: Path) -> bool:
    """Whether files can be kept there: a home that cannot be written, as in many containers, must not stop a measurement."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(cache, os.W_OK | os.X_OK)


def weights_sha256(folder: Path) -> str:
    """Of the safetensors files of a model, by name and content."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError("no safetensors here: this is no model that can be scored", where=str(folder))
    parts = [f"{file.name}\0{_sha256(file, file.stat().st_size, file.stat().st_mtime_ns)}" for file in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@lru_cache(maxsize=256)
def _sha256(file: Path, size: int, modified: int) -> str:
    return sha256_file(file)


def device_kind(device: torch.device) -> str:
    """Numbers of two kinds of processor differ in their last bits; kept ones are used only on the same kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu-{torch.backends.cpu.get_cpu_capability()}"


def cut_parts(documents: Documents, part_bytes: int) -> list[slice]:
    """Documents in parts of at most `part_bytes` (one larger document is a part), at places that only the documents before decide."""
    parts, begin, held = [], 0, 0
    for i, text in enumerate(documents.texts):
        size = len(text.encode())
        if i > begin and held + size > part_bytes:
            parts.append(slice(begin, i))
            begin, held = i, 0
        held += size
    return [*parts, slice(begin, len(documents.texts))]


def key_of(model: tuple[str, str], protocol: Protocol, documents: Documents, device: str) -> str:
    """model: sha256 of its weights and of its tokenizer. 24 hex digits."""
    return hashlib.sha256(json.dumps([FORMAT, *model, protocol.hash, documents.sha256, device]).encode()).hexdigest()[:24]


def write_scores(path: Path, scores: DocScores) -> None:
    columns = ("nll", "bytes", "chars", "tokens", "lossy", "bad_at")
    table = pa.table({"id": list(scores.ids), **{name: getattr(scores, name) for name in columns}})
    with open_atomic(path) as file:
        pq.write_table(table, file, compression="zstd")


def read_scores(paths: list[Path], documents: Documents) -> DocScores | None:
    """The scores of these documents from the first file that is there, None if there is none. The names are the documents' own."""
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    table = pq.read_table(path)
    column = {name: table.column(name).to_numpy() for name in table.column_names if name != "id"}
    assert len(table) == len(documents.ids), f"{path}: its name says other documents"
    return DocScores(
        documents.ids, column["nll"], column["bytes"], column["chars"], column["tokens"], column["lossy"].astype(bool), column["bad_at"]
    )


def joined(parts: list[DocScores]) -> DocScores:
    return DocScores(
        tuple(identity for part in parts for identity in part.ids),
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("nll", "bytes", "chars", "tokens", "lossy", "bad_at")),
    )

"""Token shards on disk: readable in ten lines of numpy, by anybody.

    index = json.load(open("index.json"))                              # dtype, vocab, eos, bos, sources
    ids = np.memmap("law/00000.bin", dtype=index["dtype"], mode="r")   # "<u2" or "<u4": documents end to end
    ends = np.load("law/00000.ends.npy")                               # i64: document i is ids[ends[i-1]:ends[i]]
    bytes_of = np.load("byte_lengths.npy")                             # i32 by id: UTF-8 bytes of its surface, 0 for special tokens

`00000.docs.parquet` has id, tokens and UTF-8 bytes of every document. It is written last: where it stands, the shard is whole.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rewarm.atomic import open_atomic, read_json, write_atomic
from rewarm.errors import UserError

Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shard:
    """ids: memory-mapped u16 or u32 [tokens]; ends: exclusive end of each document in tokens, its EOS counted."""

    name: str
    ids: npt.NDArray[Any]
    ends: Lengths

    @property
    def lengths(self) -> Lengths:
        """Tokens of each document."""
        return np.diff(self.ends, prepend=0)


@dataclass(frozen=True, slots=True)
class SourceTokens:
    """A source's shards. tokens count separators; bytes are UTF-8 bytes of the documents' text."""

    name: str
    role: str
    shards: tuple[Shard, ...]
    tokens: int
    bytes: int
    documents: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """An opened folder of shards. vocab: size of the id space; byte_lengths: int32 [vocab]; index: index.json as it is."""

    folder: Path
    vocab: int
    eos: int
    bos: int | None
    byte_lengths: npt.NDArray[np.int32]
    sources: tuple[SourceTokens, ...]
    index: dict[str, Any]


def dtype_for(vocab: int) -> str:
    """Little-endian u16, or u32 where the id space exceeds 65,536."""
    return "<u2" if vocab <= 1 << 16 else "<u4"


class ShardWriter:
    """Collects a shard; made by `write_shard`."""

    def __init__(self, file: BinaryIO, dtype: str) -> None:
        self._file, self._dtype = file, dtype
        self._ids: list[str] = []
        self._lengths: list[Lengths] = []
        self._bytes: list[Lengths] = []

    def add(self, ids: npt.NDArray[np.uint32], lengths: Lengths, names: list[str], sizes: Lengths) -> None:
        """Appends documents: their ids end to end, and for each its tokens, its id in the corpus and its UTF-8 bytes."""
        assert len(lengths) == len(names) == len(sizes) and int(lengths.sum()) == len(ids), "one length, name and size a document"
        self._file.write(ids.astype(self._dtype).tobytes())
        self._ids += names
        self._lengths.append(lengths)
        self._bytes.append(sizes)

    def columns(self) -> tuple[list[str], Lengths, Lengths]:
        """Ids, tokens and bytes of all documents so far."""
        none = np.zeros(0, dtype=np.int64)
        return self._ids, np.concatenate([none, *self._lengths]), np.concatenate([none, *self._bytes])


@contextmanager
def write_shard(folder: Path, name: str, dtype: str) -> Iterator[ShardWriter]:
    """Writes `name`.bin, .ends.npy and .docs.parquet into `folder`, whole or not at all, if the block ends without an error."""
    with open_atomic(folder / f"{name}.bin") as file:
        writer = ShardWriter(file, dtype)
        yield writer
    names, lengths, sizes = writer.columns()
    ends = io.BytesIO()
    np.save(ends, np.cumsum(lengths), allow_pickle=False)
    write_atomic(folder / f"{name}.ends.npy", ends.getvalue())
    table = pa.table({"id": pa.array(names, pa.string()), "tokens": pa.array(lengths), "bytes": pa.array(sizes)})
    with open_atomic(folder / f"{name}.docs.parquet") as file:
        pq.write_table(table, file, compression="zstd")


@dataclass(frozen=True, slots=True)
class ShardCounts:
    tokens: int
    bytes: int
    documents: int


def finished_shard(folder: Path, name: str, dtype: str) -> ShardCounts | None:
    """Counts of a shard that is whole, or None if it has to be written."""
    docs, ids, ends = (folder / f"{name}{ending}" for ending in (".docs.parquet", ".bin", ".ends.npy"))
    if not (docs.is_file() and ids.is_file() and ends.is_file()):
        return None
    table = pq.read_table(docs, columns=["tokens", "bytes"])
    tokens, size = (int(table[c].to_numpy().sum()) for c in ("tokens", "bytes"))
    if ids.stat().st_size != tokens * np.dtype(dtype).itemsize:
        return None
    return ShardCounts(tokens, size, table.num_rows)


def open_tokens(folder: Path) -> Tokens:
    """Opens what the tokens stage wrote, without reading the ids. UserError if it is not there or a file has the wrong size."""
    if not (folder / "index.json").is_file():
        raise UserError(
            "no token shards here (index.json is missing)", where=str(folder), fix="run the tokens stage first: rewarm tokenize"
        )
    index = read_json(folder / "index.json")
    sources = tuple(
        SourceTokens(
            name=s["name"],
            role=s["role"],
            shards=tuple(_open_shard(folder, shard["name"], index["dtype"]) for shard in s["shards"]),
            tokens=s["tokens"],
            bytes=s["bytes"],
            documents=s["documents"],
        )
        for s in index["sources"]
    )
    lengths = np.load(folder / index["byte_lengths"], allow_pickle=False)
    return Tokens(folder, index["vocab"], index["eos"], index["bos"], lengths, sources, index)


def _open_shard(folder: Path, name: str, dtype: str) -> Shard:
    path = folder / f"{name}.bin"
    ends = np.load(folder / f"{name}.ends.npy", allow_pickle=False)
    count, width = (int(ends[-1]) if len(ends) else 0), np.dtype(dtype).itemsize
    found = path.stat().st_size if path.is_file() else 0
    if found != count * width:
        raise UserError(
            f"{found:,} bytes, expected {count * width:,}: the shard is damaged or was changed",
            where=str(path),
            fix=f"remove the folder {folder.name} and run again",
        )
    # A view without np.memmap's own __getitem__, which costs microseconds a slice; an empty file cannot be mapped.
    ids = np.memmap(path, dtype=dtype, mode="r").view(np.ndarray) if count else np.zeros(0, dtype=dtype)
    return Shard(name, ids, ends)

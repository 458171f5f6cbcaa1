"""Safetensors by name, without loading a model: headers are read, changed tensors replaced, all other bytes copied through.

Written here and not with the library's writer because that one wants every tensor of a file in memory, and sorts them anew. A replaced
tensor comes as a stream of blocks, so that not even one vocabulary matrix has to stand in memory.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewarm.atomic import disk_errors, open_atomic, write_json
from rewarm.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_WIDTH = {"F32": 4, "F16": 2, "BF16": 2}
_COPY_BYTES = 1 << 24
_BLOCK_BYTES = 1 << 22
"""Rows that are looked at together; their float64 squares take up to eight times as much."""


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    end: int


@dataclass(frozen=True)
class Weights:
    """All tensors of a model folder."""

    folder: Path
    files: tuple[Path, ...]
    entries: dict[str, Entry]

    @property
    def bytes(self) -> int:
        return sum(e.end - e.start for e in self.entries.values())

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes, mapped, not read."""
        entry = self.entries[name]
        return np.memmap(entry.file, dtype=np.uint8, mode="r", offset=entry.start, shape=(entry.end - entry.start,))

    def table(self, name: str) -> Table:
        """The tensor as rows. UserError if it is no plain float tensor (quantised weights)."""
        entry = self.entries[name]
        if entry.dtype not in _WIDTH:
            raise UserError(
                f"tensor `{name}` is stored as {entry.dtype}; supported: {', '.join(_WIDTH)}",
                where=str(entry.file),
                fix="start from the unquantised model",
            )
        return Table(self.raw(name).reshape(entry.shape[0], -1), entry.dtype, entry.shape)


@dataclass(frozen=True)
class Table:
    """A stored tensor seen as rows; nothing is read before it is asked for."""

    raw: NDArray[np.uint8]
    """[rows, bytes of a row], mapped."""
    dtype: str
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        return self.shape[0]

    def take(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 rows of these ids: [n, D], or [n] for a bias."""
        return from_bytes(self.raw[ids].reshape(-1), self.dtype).reshape(len(ids), *self.shape[1:])

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """(first row, raw rows) of rows start .. stop - 1, at most 4 MB at a time."""
        step = max(1, _BLOCK_BYTES // max(1, self.raw.shape[1]))
        stop = self.rows if stop is None else stop
        for first in range(start, stop, step):
            yield first, self.raw[first : min(first + step, stop)]

    def values(self, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 values of a block of raw rows."""
        return from_bytes(np.ascontiguousarray(raw).reshape(-1), self.dtype).reshape(len(raw), *self.shape[1:])


@dataclass(frozen=True)
class Replacement:
    """A tensor's new shape and bytes, in the dtype it had."""

    shape: tuple[int, ...]
    blocks: Callable[[], Iterable[bytes]]
    """Gives all bytes in order."""


def open_weights(folder: Path) -> Weights:
    """Reads the headers of a folder's safetensors files. UserError if there are none."""
    index = folder / INDEX
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = tuple(folder / name for name in names)
    else:
        files = (folder / SINGLE,)
    for file in files:
        if not file.is_file():
            other = next((p.name for p in sorted(folder.glob("*")) if p.suffix in (".bin", ".gguf", ".pt", ".pth")), None)
            raise UserError(
                f"{file.name} is missing{f' (there is {other})' if other else ''}; only safetensors are read",
                where=str(folder),
                fix="convert the model first: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)",
            )
    entries: dict[str, Entry] = {}
    for file in files:
        start, header = _header(file)
        for name, item in header.items():
            if name != "__metadata__":
                begin, end = item["data_offsets"]
                entries[name] = Entry(file, item["dtype"], tuple(item["shape"]), start + begin, start + end)
    return Weights(folder, files, entries)


def _header(file: Path) -> tuple[int, dict[str, Any]]:
    """(offset of the data, header) of a safetensors file."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        return 8 + size, json.loads(stream.read(size))


def write_changed(weights: Weights, changed: dict[str, Replacement], out: Path) -> None:
    """Writes all files to `out` with some tensors replaced, by name.

    Files without a changed tensor are copied byte for byte; the index keeps its order and gets the new total size. MachineError names the
    file where the disk is full.
    """
    grown = 0
    for file in weights.files:
        here = {name: changed[name] for name, entry in weights.entries.items() if entry.file == file and name in changed}
        if here:
            grown += _rewrite(file, here, out / file.name)
        else:
            with disk_errors(out / file.name):
                shutil.copyfile(file, out / file.name)
    index = weights.folder / INDEX
    if index.is_file():
        table = json.loads(index.read_text(encoding="utf-8"))
        if "total_size" in table.get("metadata", {}):
            table["metadata"]["total_size"] += grown
        if "total_parameters" in table.get("metadata", {}):
            table["metadata"]["total_parameters"] += sum(
                math.prod(new.shape) - math.prod(weights.entries[name].shape) for name, new in changed.items()
            )
        write_json(out / INDEX, table)


def _rewrite(file: Path, changed: dict[str, Replacement], to: Path) -> int:
    """Writes one file anew; returns by how many bytes its tensors grew."""
    start, header = _header(file)
    tensors = sorted((item["data_offsets"][0], name) for name, item in header.items() if name != "__metadata__")
    at = 0
    new: dict[str, Any] = {name: dict(item) for name, item in header.items()}
    for _, name in tensors:
        begin, end = header[name]["data_offsets"]
        size = end - begin
        if name in changed:
            new[name]["shape"] = list(changed[name].shape)
            size = math.prod(changed[name].shape) * _WIDTH[header[name]["dtype"]]
        new[name]["data_offsets"] = [at, at + size]
        at += size
    head = json.dumps(new, ensure_ascii=False, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with file.open("rb") as source, open_atomic(to) as target:
        target.write(len(head).to_bytes(8, "little") + head)
        for begin, name in tensors:
            if name in changed:
                written = sum(target.write(block) for block in changed[name].blocks())
                assert written == new[name]["data_offsets"][1] - new[name]["data_offsets"][0], f"`{name}`: {written} bytes"
                continue
            source.seek(start + begin)
            left = header[name]["data_offsets"][1] - begin
            while left:
                block = source.read(min(left, _COPY_BYTES))
                if not block:
                    raise UserError(f"tensor `{name}` ends before its length", where=str(file), fix="fetch the file again")
                target.write(block)
                left -= len(block)
    return at - sum(item["data_offsets"][1] - item["data_offsets"][0] for name, item in header.items() if name != "__metadata__")


def from_bytes(raw: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """Float32 values of little-endian F32, F16 or BF16 bytes."""
    if dtype == "BF16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return raw.view({"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


def to_bytes(values: NDArray[np.float32], dtype: str) -> bytes:
    """The bytes of these values in F32, F16 or BF16, rounded to nearest, ties to even."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    if dtype == "BF16":
        bits = values.view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()

"""Second reading: parts become shards of clean documents, without copies, held-out documents and what shares a passage with these.

A shard is planned from columns alone: row groups of parts, in order, until 64 MB of surviving text. Like parts, shards do not depend on
each other, and a shard with its facts beside it is finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rewarm.atomic import open_atomic, write_json
from rewarm.corpus.decide import Columns
from rewarm.corpus.decontaminate import NgramIndex, hits, passage
from rewarm.corpus.parts import finished, part_paths
from rewarm.corpus.recipe import CorpusRecipe, Source
from rewarm.corpus.samples import Samples, shown
from rewarm.corpus.units import scan
from rewarm.signals import check_stop

SHARD_BYTES = 64_000_000
DOCS = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("licence", pa.string()),
        ("bytes", pa.int64()),
    ]
)
DUPLICATE, HELDOUT = 1, 2
"""What `fate` says of a document; 0: it stays, if it shares no passage with held-out text."""


@dataclass(frozen=True, slots=True)
class Group:
    """One row group of a part: the numbers of its documents are first .. first+rows-1."""

    part: int
    group: int
    first: int
    rows: int


@dataclass(frozen=True, slots=True)
class ShardTask:
    """A shard of one source: its number in the source and the row groups it is made of."""

    source: int
    number: int
    groups: tuple[Group, ...]


def load_columns(folder: Path, sources_of_parts: list[int]) -> tuple[Columns, list[Group]]:
    """The number columns of all parts (their text stays on disk), and where each row group's documents are."""
    pieces: list[dict[str, NDArray[Any]]] = []
    groups: list[Group] = []
    first = 0
    for part, source in enumerate(sources_of_parts):
        table = pq.ParquetFile(part_paths(folder, part).table)
        read = table.read(columns=["hi", "lo", "ord", "bytes"])
        count = read.num_rows
        pieces.append({name: read.column(name).to_numpy() for name in read.column_names})
        pieces[-1] |= {"source": np.full(count, source, np.int32), "part": np.full(count, part, np.int32), "row": np.arange(count)}
        for group in range(table.metadata.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            groups.append(Group(part, group, first, rows))
            first += rows
    joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    order = joined.pop("ord")
    return Columns(order=order, **joined), groups


def plan_shards(columns: Columns, groups: list[Group], fate: NDArray[np.uint8]) -> list[ShardTask]:
    """Row groups in order, a new shard at each source and at SHARD_BYTES of surviving text."""
    shards: list[ShardTask] = []
    number: Counter[int] = Counter()
    open_groups: list[Group] = []
    size = 0

    def close(source: int) -> None:
        nonlocal size
        shards.append(ShardTask(source, number[source], tuple(open_groups)))
        number[source] += 1
        open_groups.clear()
        size = 0

    for group in groups:
        source = int(columns.source[group.first])
        if open_groups and (int(columns.source[open_groups[0].first]) != source or size >= SHARD_BYTES):
            close(int(columns.source[open_groups[0].first]))
        rows = slice(group.first, group.first + group.rows)
        size += int(columns.bytes[rows][fate[rows] == 0].sum())
        open_groups.append(group)
    if open_groups:
        close(int(columns.source[open_groups[0].first]))
    return shards


def documents_at(folder: Path, groups: list[Group], numbers: NDArray[np.int64], columns: list[str]) -> Iterator[dict[str, Any]]:
    """The documents with these ascending numbers, in order; only row groups that hold one are read."""
    for group in groups:
        a, b = np.searchsorted(numbers, [group.first, group.first + group.rows])
        if a < b:
            table = pq.ParquetFile(part_paths(folder, group.part).table).read_row_group(group.group, columns=columns)
            yield from table.take(numbers[a:b] - group.first).to_pylist()


def write_documents(path: Path, tables: Iterator[pa.Table], source: Source) -> tuple[int, int]:
    """Writes documents (columns id, text, bytes) under the corpus's schema; (documents, bytes). None at all: no file."""
    documents = size = 0
    language = source.languages[0] if len(source.languages) == 1 else None
    first = next(tables, None)
    if first is None:
        return 0, 0
    with open_atomic(path) as file, pq.ParquetWriter(file, DOCS, compression="zstd", compression_level=3) as writer:
        table: pa.Table | None = first
        while table is not None:
            count = table.num_rows
            fixed = [pa.array([value] * count, pa.string()) for value in (source.name, language, source.licence)]
            writer.write_table(pa.table([table["id"], table["text"], *fixed, table["bytes"]], schema=DOCS))
            documents += count
            size += int(np.sum(table["bytes"].to_numpy()))
            table = next(tables, None)
    return documents, size


def write_shard(
    task: ShardTask,
    cfg: CorpusRecipe,
    folder: Path,
    out: Path,
    columns: Columns,
    fate: NDArray[np.uint8],
    index: NgramIndex | None,
    key: str,
) -> dict[str, Any]:
    """Writes `out`/docs/<source>/<number>.parquet and returns its counts and samples; does nothing if that was done under this key."""
    source = cfg.sources[task.source]
    name = f"docs/{source.name}/{task.number:05d}.parquet"
    facts_path = folder / f"shard-{source.name}-{task.number:05d}.json"
    known = finished(facts_path, key)
    if known is not None and (known["file"] is None or (out / name).is_file()):
        return known
    dropped, samples = Counter[str](), Samples()

    def surviving() -> Iterator[pa.Table]:
        for group in task.groups:
            check_stop()
            table = pq.ParquetFile(part_paths(folder, group.part).table).read_row_group(group.group, columns=["id", "text", "bytes"])
            fates = fate[group.first : group.first + group.rows]
            for i in np.flatnonzero(fates == DUPLICATE).tolist():
                rank = int(columns.hi[group.first + i])
                if samples.wanted("exact_duplicate", rank):
                    entry = {
                        "id": table["id"][i].as_py(),
                        "source": source.name,
                        "number": group.first + i,
                        "text": shown(table["text"][i].as_py()),
                    }
                    samples.add("exact_duplicate", rank, entry)
            table = table.filter(pa.array(fates == 0))
            numbers = group.first + np.flatnonzero(fates == 0)
            texts = table["text"].to_pylist() if index is not None else []
            found = hits(scan(texts), index) if index is not None else {}
            clean = np.ones(len(numbers), np.bool_)
            for i, hit in found.items():
                clean[i] = False
                dropped["contaminated"] += 1
                dropped["contaminated_bytes"] += int(columns.bytes[numbers[i]])
                rank = int(columns.hi[numbers[i]])
                if index is not None and samples.wanted("contaminated", rank):
                    entry = {"id": table["id"][i].as_py(), "source": source.name, "heldout": hit.owner}
                    entry |= {"passage": passage(texts[i], hit.position, index.n), "text": shown(texts[i])}
                    samples.add("contaminated", rank, entry)
            if clean.any():
                yield table.filter(pa.array(clean))

    documents, size = write_documents(out / name, surviving(), source)
    facts = {
        "key": key, "source": source.name, "file": name if documents else None, "documents": documents, "bytes": size,
        "counts": dict(sorted(dropped.items())), "samples": samples.as_dict(),
    }  # fmt: skip
    write_json(facts_path, facts)
    return facts

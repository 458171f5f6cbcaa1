"""First reading: the files of one task become one part, clean documents with their hashes as columns.

A part is a parquet file and, written after it, a small JSON file with its counts; a part with both is finished and not made again. Parts do
not know of each other.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rewarm.atomic import open_atomic, read_json, write_json
from rewarm.corpus.language import Looks, blocks, judge
from rewarm.corpus.normalise import normalise
from rewarm.corpus.plan import Task
from rewarm.corpus.read import read_file
from rewarm.corpus.recipe import CorpusRecipe, Source
from rewarm.corpus.rows import Reject, Row, Tally
from rewarm.corpus.samples import Samples, shown
from rewarm.corpus.units import content_hashes, scan
from rewarm.errors import UserError
from rewarm.signals import check_stop

BATCH_CHARS = 2_000_000
"""Characters of text in memory at a time; also about a row group of a part."""
ALWAYS_TOLERATED = 10
"""So many broken rows never stop a run."""
OTHER_LANGUAGE = "other_language"
"""Samples of text that was kept, and looks like another language than the source's."""

SCHEMA = pa.schema(
    [("id", pa.string()), ("text", pa.string()), ("hi", pa.uint64()), ("lo", pa.uint64()), ("ord", pa.uint64()), ("bytes", pa.int64())]
)


@dataclass(frozen=True, slots=True)
class PartPaths:
    """Where the part of a task lies."""

    table: Path
    facts: Path


def part_paths(folder: Path, task: int) -> PartPaths:
    return PartPaths(folder / f"{task:05d}.parquet", folder / f"{task:05d}.json")


def finished(facts: Path, key: str) -> dict[str, Any] | None:
    """The facts of a finished part or shard that was made under the same key, else None."""
    try:
        known = read_json(facts)
    except (OSError, ValueError):
        return None
    return known if known.get("key") == key else None


def read_task(task: Task, cfg: CorpusRecipe, folder: Path, key: str, at: Callable[[int], None] = lambda place: None) -> dict[str, Any]:
    """Reads, cleans and hashes the documents of a task; writes its part and returns the part's facts.

    `key` names everything the part depends on: a part under another key is made again. `at` is told how many bytes of the task's files were
    read so far. Raises UserError where a file cannot be read, or
    where most of it is broken.
    """
    paths = part_paths(folder, task.index)
    known = finished(paths.facts, key)
    if known is not None and paths.table.is_file():
        return known
    source = cfg.sources[task.source]
    tally, changed, dropped, samples = Tally(), Counter[str](), Counter[str](), Samples()
    looks = Looks()
    empty: list[str] = []
    with open_atomic(paths.table) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd", compression_level=1) as writer:
        for rows in _batches(task, source, tally, empty):
            check_stop()
            at(sum(file.bytes for file in task.files[: tally.files]) + tally.place)
            _stop_if_hopeless(source, task, tally)
            ids, texts, sizes = [], [], []
            for name, row in rows:
                text = normalise(row.text, cfg.normalise, changed)
                size = len(text.encode())
                dropped["read"] += 1
                dropped["read_bytes"] += size
                reason = "empty" if not text.strip() else "short" if len(text) < cfg.min_chars else None
                if reason is None:
                    ids.append(document_id(source, name, row))
                    texts.append(text)
                    sizes.append(size)
                    continue
                dropped[reason] += 1
                dropped[f"{reason}_bytes"] += size
                rank = order_of(document_id(source, name, row))
                if reason == "short" and samples.wanted(reason, rank):
                    entry = {"id": document_id(source, name, row), "source": source.name, "chars": len(text), "text": shown(text)}
                    samples.add(reason, rank, entry)
            pieces = [blocks(text) for text in texts]
            counts = np.array([len(of_text) for of_text in pieces], np.int64)
            scanned = scan([block for of_text in pieces for block in of_text])
            found, other = judge(scanned.scripts, source.languages)
            looks += found
            _sample_other(samples, source, ids, pieces, counts, other)
            units = scanned.joined(counts)
            hashes = content_hashes(units, texts) if texts else np.zeros((0, 2), np.uint64)
            orders = np.array([order_of(i) for i in ids], np.uint64)
            if ids:
                writer.write_table(pa.table([ids, texts, hashes[:, 0], hashes[:, 1], orders, sizes], schema=SCHEMA))
    facts = {
        "key": key, "source": source.name, "rows": tally.rows, "rejected": tally.rejected, "rejects": [asdict(r) for r in tally.rejects],
        "left_out_chars": tally.left_out_chars, "empty_files": empty, "normalised": dict(sorted(changed.items())),
        "counts": dict(sorted(dropped.items())), "looks": asdict(looks), "samples": samples.as_dict(),
    }  # fmt: skip
    write_json(paths.facts, facts)
    return facts


def _sample_other(
    samples: Samples, source: Source, ids: list[str], pieces: list[list[str]], counts: NDArray[np.int64], other: NDArray[np.bool_]
) -> None:
    """Keeps the first block in another language of some documents, so that somebody can see what it is."""
    owner = np.repeat(np.arange(len(counts)), counts)
    for number in np.unique(owner[other]).tolist():
        rank = order_of(ids[number])
        if samples.wanted(OTHER_LANGUAGE, rank):
            block = next(b for b, mine in zip(pieces[number], other[owner == number]) if mine)
            samples.add(OTHER_LANGUAGE, rank, {"id": ids[number], "source": source.name, "text": shown(block.strip())})


def _batches(task: Task, source: Source, tally: Tally, empty: list[str]) -> Iterator[list[tuple[str, Row]]]:
    """(file name, row) of all files of a task, about BATCH_CHARS characters at a time."""
    rows: list[tuple[str, Row]] = []
    size = 0
    for file in task.files:
        before = tally.rows
        for row in read_file(file, source, tally):
            rows.append((file.name, row))
            size += len(row.text)
            if size >= BATCH_CHARS:
                yield rows
                rows, size = [], 0
        tally.files, tally.place = tally.files + 1, 0
        if tally.rows == before:
            empty.append(file.name)
    yield rows


def document_id(source: Source, file: str, row: Row) -> str:
    """The user's id, or a 128-bit hash of source, file and row; `#k` for the k-th piece of a row."""
    base = row.id or hashlib.blake2b(f"{source.name}\0{file}\0{row.row}".encode(), digest_size=16).hexdigest()
    return base if row.part is None else f"{base}#{row.part}"


def order_of(identity: str) -> int:
    """64 bits of the id's hash: every tie between documents is broken by it."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "big")


def _stop_if_hopeless(source: Source, task: Task, tally: Tally) -> None:
    """Stops inside a big file of which nearly all is broken, instead of at its end."""
    if tally.rejected > 1000 and tally.rejected > max(0.5, source.max_bad_share) * tally.rows:
        raise too_many_bad(source, task.source, tally.rejected, tally.rows, tally.rejects)


def bad_rows_allowed(source: Source, rows: int) -> int:
    return max(ALWAYS_TOLERATED, int(source.max_bad_share * rows))


def told(rejects: list[Reject]) -> str:
    """Where each of these rows stands, and what is wrong with it: a line each."""
    return "\n".join(
        f"{r.file}, row {r.row:,}" + (f" (byte {r.offset:,})" if r.offset is not None else "") + f": {r.error}" for r in rejects
    )


def too_many_bad(source: Source, number: int, rejected: int, rows: int, rejects: list[Reject]) -> UserError:
    """The error for a source with too many broken rows: the first three of them, and the likely fix."""
    field = f"corpus.sources[{number}]"
    kinds = Counter(r.kind for r in rejects)
    likely = {
        "field": f"set {field}.text_field to the field that holds the text",
        "type": f"set {field}.text_field to the field that holds the text",
        "encoding": "convert the files to UTF-8, for example with iconv",
        "binary": f"leave files that are no text out of {field}.paths; convert UTF-16 to UTF-8",
        "json": f"is this JSON with one object a line? If not, set {field}.format",
        "object": f"is this JSON with one object a line? If not, set {field}.format",
        "article": f"set {field}.txt_unit to blank_line or file: this is no statute",
    }
    return UserError(
        f"{rejected:,} of {rows:,} rows cannot be used, above max_bad_share {source.max_bad_share:g}; the first:\n{told(rejects[:3])}",
        where=f"{field} ({source.name})",
        fix=f"{likely[kinds.most_common(1)[0][0]]}\nor raise {field}.max_bad_share to leave such rows out",
    )

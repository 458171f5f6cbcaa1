"""The corpus stage: raw text files in, clean documents, held-out documents and a report out.

    read     a task per some files: bytes -> rows -> clean documents and their hashes (a part)
    decide   columns of numbers only: copies, held-out documents
    write    a task per shard: parts -> documents without copies, held-out ones and what shares a passage with these

Source files are read once and parts once; for the held-out documents, at most some megabytes a source, row groups of the parts are opened
in between. Parts and shards are whole files with their facts beside them, so a killed run goes on where it was and ends with the same
bytes. The work folder goes when `corpus.json` stands.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rewarm.atomic import read_json, write_atomic, write_json
from rewarm.corpus.decide import Columns, choose_heldout, copies, repeated_ids
from rewarm.corpus.decontaminate import NgramIndex, build_index
from rewarm.corpus.language import Looks
from rewarm.corpus.parts import OTHER_LANGUAGE, bad_rows_allowed, finished, read_task, told, too_many_bad
from rewarm.corpus.plan import Task, plan
from rewarm.corpus.recipe import CorpusRecipe
from rewarm.corpus.report import SourceFacts, data_card, funnel, report, warnings
from rewarm.corpus.rows import Reject
from rewarm.corpus.samples import KEPT
from rewarm.corpus.shards import DUPLICATE, HELDOUT, Group, documents_at, load_columns, plan_shards, write_documents, write_shard
from rewarm.errors import UserError
from rewarm.progress import Reporter
from rewarm.signals import check_stop

FORMAT = 2


def corpus_stage(cfg: CorpusRecipe, root: Path, out: Path, reporter: Reporter) -> dict[str, Any]:
    """Makes the corpus of a recipe in `out`; returns what `corpus.json` holds. Relative paths of the recipe start from `root`.

    Writes docs/<source>/*.parquet, heldout/<source>.parquet, removed/<reason>.jsonl, rejected/<source>.jsonl,
    other_language.jsonl, report.md, DATACARD.md and, last, corpus.json. The bytes depend on the files and the recipe only. Raises UserError
    for missing, broken or empty input.
    """
    tasks = plan(cfg, root)
    key = _key(cfg, tasks)
    work = out / "work"
    known = finished(out / "corpus.json", key)
    if known is None:
        parts = _read(cfg, tasks, work, key, reporter)
        _check_rejects(cfg, tasks, parts, out)
        columns, groups = load_columns(work, [task.source for task in tasks])
        dup_of = copies(columns)
        fate, heldout = _fates(cfg, columns, dup_of)
        index, unchecked = _write_heldout(cfg, work, out, groups, heldout)
        shards = _write(cfg, work, out, columns, groups, fate, index, key, reporter)
        facts = _facts(cfg, tasks, parts, columns, fate, shards, unchecked)
        _write_removed(out, work, [*parts, *shards], groups, columns, dup_of, heldout)
        _check_survivors(facts, cfg, tasks, parts)
        lines = [
            line
            for i, f in enumerate(facts)
            for line in warnings(
                f, [name for t, p in zip(tasks, parts) if t.source == i for name in p["empty_files"]], repeated_ids(columns, i), cfg
            )
        ]
        write_atomic(out / "report.md", report(facts, lines, cfg))
        write_atomic(out / "DATACARD.md", data_card(facts, cfg))
        known = {"key": key, "sources": [_record(f) for f in facts], "funnel": funnel(facts), "warnings": lines}
        write_json(out / "corpus.json", known)
    for line in known["warnings"]:
        reporter.warn(line)
    shutil.rmtree(work, ignore_errors=True)
    return read_json(out / "corpus.json")


def _key(cfg: CorpusRecipe, tasks: list[Task]) -> str:
    """Names everything the output depends on, file contents by name and size: the caller's folder stands for the contents themselves."""
    files = [[task.source, file.name, file.format, file.bytes] for task in tasks for file in task.files]
    return hashlib.blake2b(json.dumps([FORMAT, cfg.model_dump(), files], sort_keys=True).encode(), digest_size=16).hexdigest()


def _read(cfg: CorpusRecipe, tasks: list[Task], work: Path, key: str, reporter: Reporter) -> list[dict[str, Any]]:
    parts = []
    with reporter.bar("read", sum(task.bytes for task in tasks), "B") as bar:
        done = told = 0
        for task in tasks:
            check_stop()

            def at(place: int, before: int = done) -> None:
                nonlocal told
                bar.advance(before + place - told)
                told = before + place

            parts.append(read_task(task, cfg, work, key, at))
            at(task.bytes)
            done += task.bytes
    return parts


def _check_rejects(cfg: CorpusRecipe, tasks: list[Task], parts: list[dict[str, Any]], out: Path) -> None:
    """Writes rejected/<source>.jsonl; UserError for the first source with too many broken rows."""
    for number, source in enumerate(cfg.sources):
        mine = [part for task, part in zip(tasks, parts) if task.source == number]
        rejects = [reject for part in mine for reject in part["rejects"]]
        if rejects:
            write_atomic(out / "rejected" / f"{source.name}.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rejects))
        rejected, rows = sum(part["rejected"] for part in mine), sum(part["rows"] for part in mine)
        if rejected > bad_rows_allowed(source, rows):
            raise too_many_bad(source, number, rejected, rows, [Reject(**r) for r in rejects])


def _fates(cfg: CorpusRecipe, columns: Columns, dup_of: NDArray[np.int64]) -> tuple[NDArray[np.uint8], list[NDArray[np.int64]]]:
    """What becomes of every document before passages are compared, and the held-out documents of each source."""
    fate = np.where(dup_of >= 0, DUPLICATE, 0).astype(np.uint8)
    heldout = []
    for number in range(len(cfg.sources)):
        chosen = choose_heldout(columns, np.flatnonzero((columns.source == number) & (fate == 0)), cfg.heldout, cfg.seed)
        fate[chosen] = HELDOUT
        heldout.append(chosen)
    return fate, heldout


def _write_heldout(
    cfg: CorpusRecipe, work: Path, out: Path, groups: list[Group], heldout: list[NDArray[np.int64]]
) -> tuple[NgramIndex | None, list[int]]:
    """Writes heldout/<source>.parquet; the index of all their passages, and how many of each source are too short to have one."""
    texts: list[str] = []
    unchecked = []
    n = cfg.decontaminate.ngram
    for source, numbers in zip(cfg.sources, heldout):
        documents = list(documents_at(work, groups, numbers, ["id", "text", "bytes"]))
        if documents:
            write_documents(out / "heldout" / f"{source.name}.parquet", iter([pa.Table.from_pylist(documents)]), source)
        mine = [document["text"] for document in documents]
        unchecked.append(build_index(mine, n).unchecked if n else 0)
        texts += mine
    return build_index(texts, n) if n and texts else None, unchecked


def _write(
    cfg: CorpusRecipe, work: Path, out: Path, columns: Columns, groups: list[Group], fate: NDArray[np.uint8], index: NgramIndex | None,
    key: str, reporter: Reporter,
) -> list[dict[str, Any]]:  # fmt: skip
    shards = []
    with reporter.bar("write", float(columns.bytes.sum()), "B") as bar:
        for task in plan_shards(columns, groups, fate):
            check_stop()
            shards.append(write_shard(task, cfg, work, out, columns, fate, index, key))
            bar.advance(sum(int(columns.bytes[g.first : g.first + g.rows].sum()) for g in task.groups))
    return shards


def _facts(
    cfg: CorpusRecipe, tasks: list[Task], parts: list[dict[str, Any]], columns: Columns, fate: NDArray[np.uint8],
    shards: list[dict[str, Any]], unchecked: list[int],
) -> list[SourceFacts]:  # fmt: skip
    facts = []
    for number, source in enumerate(cfg.sources):
        mine = [part for task, part in zip(tasks, parts) if task.source == number]
        written = [shard for shard in shards if shard["source"] == source.name]
        counts: Counter[str] = Counter()
        normalised: Counter[str] = Counter()
        for piece in [*mine, *written]:
            counts.update(piece["counts"])
        for part in mine:
            normalised.update(part["normalised"])
        steps = {step: (counts[step], counts[f"{step}_bytes"]) for step in ("read", "empty", "short", "contaminated")}
        for step, value in (("exact_duplicate", DUPLICATE), ("heldout", HELDOUT)):
            rows = (columns.source == number) & (fate == value)
            steps[step] = (int(rows.sum()), int(columns.bytes[rows].sum()))
        steps["kept"] = (sum(shard["documents"] for shard in written), sum(shard["bytes"] for shard in written))
        facts.append(
            SourceFacts(
                source=source,
                files=sum(len(task.files) for task in tasks if task.source == number),
                steps=steps,
                rows=sum(part["rows"] for part in mine),
                rejected=sum(part["rejected"] for part in mine),
                left_out_chars=sum(part["left_out_chars"] for part in mine),
                normalised=dict(normalised),
                looks=sum((Looks(**part["looks"]) for part in mine), Looks()),
                shards=tuple(shard["file"] for shard in written if shard["file"]),
                unchecked=unchecked[number],
            )
        )
    return facts


def _check_survivors(facts: list[SourceFacts], cfg: CorpusRecipe, tasks: list[Task], parts: list[dict[str, Any]]) -> None:
    """UserError for a source of which nothing is left, with the step that took most and what to do."""
    for number, f in enumerate(facts):
        if f.steps["kept"][0]:
            continue
        field = f"corpus.sources[{number}]"
        where = f"{field} ({f.source.name})"
        if not f.steps["read"][0]:
            rejects = [Reject(**r) for task, part in zip(tasks, parts) if task.source == number for r in part["rejects"]]
            first = f", none of which can be used; the first:\n{told(rejects[:3])}" if rejects else ""
            files = f"{f.files:,} file" if f.files == 1 else f"{f.files:,} files"
            raise UserError(
                f"no document in {files}, {f.rows:,} rows{first}", where=where, fix=f"mend {field}.paths, or take the source out"
            )
        worst = max(("empty", "short", "exact_duplicate", "heldout", "contaminated"), key=lambda step: f.steps[step][0])
        fixes = {
            "empty": "the text field holds only white space; set text_field to another one",
            "short": f"lower corpus.min_chars ({cfg.min_chars})",
            "exact_duplicate": "an earlier source holds the same text; take this one out",
            "heldout": "lower corpus.heldout.min_mb",
            "contaminated": "hold out less (corpus.heldout.max_mb), or give text that repeats itself less",
        }
        counts = ", ".join(f"{step.replace('_', ' ')} {f.steps[step][0]:,}" for step in fixes if f.steps[step][0])
        raise UserError(f"none of its {f.steps['read'][0]:,} documents is left for training: {counts}", where=where, fix=fixes[worst])


def _write_removed(
    out: Path, work: Path, pieces: list[dict[str, Any]], groups: list[Group], columns: Columns, dup_of: NDArray[np.int64],
    heldout: list[NDArray[np.int64]],
) -> None:  # fmt: skip
    """removed/<reason>.jsonl: of every source the samples with the smallest rank; copies name what they are a copy of."""
    held = np.concatenate(heldout)
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for reason in sorted({reason for piece in pieces for reason in piece["samples"]}):
        for name in dict.fromkeys(piece["source"] for piece in pieces):
            mine = [entry for piece in pieces if piece["source"] == name for entry in piece["samples"].get(reason, [])]
            by_reason.setdefault(reason, []).extend(sorted(mine, key=lambda entry: (entry["rank"], entry["id"]))[:KEPT])
    asked = {int(dup_of[e["number"]]) for e in by_reason.get("exact_duplicate", [])} | {
        int(held[e["heldout"]]) for e in by_reason.get("contaminated", [])
    }
    numbers = np.array(sorted(asked), np.int64)
    names = dict(zip(numbers.tolist(), (document["id"] for document in documents_at(work, groups, numbers, ["id"]))))
    for reason, entries in by_reason.items():
        lines = []
        for entry in entries:
            shown = {k: v for k, v in entry.items() if k not in ("rank", "number", "heldout")}
            if reason == "exact_duplicate":
                shown["copy_of"] = names[int(dup_of[entry["number"]])]
            if reason == "contaminated":
                shown["heldout"] = names[int(held[entry["heldout"]])]
            lines.append(json.dumps(shown, ensure_ascii=False) + "\n")
        path = out / f"{reason}.jsonl" if reason == OTHER_LANGUAGE else out / "removed" / f"{reason}.jsonl"  # such text is kept
        write_atomic(path, "".join(lines))


def _record(f: SourceFacts) -> dict[str, Any]:
    return {
        "name": f.source.name, "role": f.source.role, "languages": f.source.languages, "licence": f.source.licence, "files": list(f.shards),
        "documents": f.steps["kept"][0], "bytes": f.steps["kept"][1],
        "heldout": f"heldout/{f.source.name}.parquet" if f.steps["heldout"][0] else None,
        "heldout_documents": f.steps["heldout"][0], "heldout_bytes": f.steps["heldout"][1],
        "rows": f.rows, "rejected": f.rejected, "left_out_chars": f.left_out_chars,
        "letters_judged": f.looks.letters, "letters_other_language": f.looks.other,
    }  # fmt: skip

"""Claim: 8,000 new tokens reach at least 98 % of an unguarded extension's bytes a token and change at most an eighth of the English
paragraphs that it changes; no new token is unreachable, and no old text gets more tokens.

    python benchmarks/vocab.py DATA CACHE [--parts extend joint growth encoder fresh] [--bases ..] [--languages ..] [--systems ..]

DATA     folder with train/ and heldout/ (parquet and JSONL, field `text`); CACHE: packages, bases, and a folder to work in
Systems  rewarm; add_tokens, fresh_bpe, score0 (SentencePiece bases only), bpe_continue (see vocab_systems.py); base = nothing done
Method   six real tokenizers (bases.py) x vi, zh, ja, ko; trained on train/<language>, train/en_* protected, measured on heldout/;
         each extension in a process of its own; wall and CPU seconds, memory of the process and all its workers
Fair     same text and size; files that a peer wants are prepared before its time; the base's own normalizer and pre-tokenizer for all
Output   benchmarks/results/vocab.json, row by row as parts end: a part that is there is skipped (--again does it anew);
         docs/vocabulary.md is rendered from it
Growth, several languages at once, the fast encoder and fresh tokenizers are parts of their own: see vocab_more.py."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import bases
from results import FOLDER, commit, processor, save
from vocab_measure import (
    HELDOUT,
    PROTECT,
    TARGETS,
    Encoded,
    Texts,
    change_rows,
    encode_all,
    fertility_rows,
    read_texts,
    unreachable,
)
from vocab_process import run_child
from vocab_systems import STAGE

SYSTEMS = ("rewarm", "add_tokens", "fresh_bpe", "score0", "bpe_continue")
PARTS = ("extend", "joint", "growth", "encoder", "fresh")
NEW = 8_000


@dataclass
class Bench:
    """The run: where things lie, what is done already."""

    data: Path
    cache: Path
    again: bool
    remeasure: bool
    machine: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    parts: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.work = self.cache / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.read()

    def read(self) -> None:
        if (FOLDER / "vocab.json").is_file():
            known = json.loads((FOLDER / "vocab.json").read_text(encoding="utf-8"))
            self.rows, self.parts = known["rows"], known["parts"]

    @cached_property
    def texts(self) -> Texts:
        return read_texts(self.data)

    def train(self, names: tuple[str, ...]) -> list[str]:
        return [str(self.data / "train" / f"{name}.parquet") for name in names]

    def plain(self, language: str) -> list[str]:
        """The language's training text as one plain file, for systems that read no parquet."""
        from rewarm.vocab.text import read_documents

        file = self.work / f"{language}.txt"
        if not file.is_file():
            part = file.with_suffix(".part")
            with part.open("w", encoding="utf-8") as out:
                out.writelines(f"{text}\n" for path in self.train(TARGETS[language]) for text in read_documents(Path(path)))
            part.rename(file)
        return [str(file)]

    def wanted(self, part: str) -> bool:
        return self.again or self.remeasure or part not in self.parts

    def child(self, job: dict[str, Any]) -> dict[str, Any]:
        """What the job's process made; with --remeasure what it made the last time, if that is still there."""
        out = Path(job["out"])
        record = out / "made.json"
        if self.remeasure and record.is_file():
            return json.loads(record.read_text(encoding="utf-8"))
        shutil.rmtree(out, ignore_errors=True)
        made = run_child("vocab_systems.py", job)
        record.write_text(json.dumps(made), encoding="utf-8")
        return made

    def put(self, part: str, rows: list[dict[str, Any]]) -> None:
        """Replaces the part's rows and saves all; what another run saved meanwhile is kept."""
        self.read()
        self.rows = [r for r in self.rows if r["part"] != part] + [{**r, "part": part} for r in rows]
        self.rows.sort(key=lambda r: (r["part"], r["metric"], json.dumps(r["case"]), r["system"]))
        now = datetime.now(UTC).strftime("%Y-%m-%d")
        if not (self.remeasure and part in self.parts):
            self.parts[part] = {"date": now, "commit": commit(), "device": processor(), "machine": self.machine}
        save("vocab", self.rows, parts=dict(sorted(self.parts.items())), sources=bases.SOURCES)


def row(metric: str, value: Any, unit: str, system: str, case: dict[str, Any]) -> dict[str, Any]:
    return {"metric": metric, "value": value, "unit": unit, "system": system, "case": case, "runs": [value]}


def time_rows(made: dict[str, Any], system: str, case: dict[str, Any]) -> list[dict[str, Any]]:
    """Seconds and memory; of rewarm also the seconds until the tokenizer is written, its gate and the model's rows left out."""
    rows = [row(name, made[name], "s", system, case) for name in ("seconds", "cpu_seconds")]
    rows.append(row("peak_memory_gib", made["peak_memory_gib"], "GiB", system, case))
    rows += [row(name, value, "s", system, {**case, "step": "tokenizer written"}) for name, value in (made.get("written") or {}).items()]
    return rows


def extend(bench: Bench, base: str, language: str, systems: list[str]) -> None:
    """All systems on one base and language."""
    folder = bases.ensure(bench.cache, (base,))[base]
    peers = bases.peers(bench.cache)
    if str(peers) not in sys.path:
        sys.path.append(str(peers))
    case = {"base": base, "language": language, "new": NEW}
    before: Encoded | None = None

    def encoded_base() -> Encoded:
        nonlocal before
        before = before or encode_all(folder / "tokenizer.json", bench.texts, language)
        return before

    if bench.wanted(name := f"extend {base} {language} base"):
        bench.put(name, fertility_rows(encoded_base(), bench.texts, language, "base", case))
    for system in systems:
        out = bench.work / f"{base}-{language}-{system}"
        name = f"extend {base} {language} {system}"
        if (system == "score0" and base not in bases.SENTENCEPIECE) or not bench.wanted(name):
            continue
        ours = bench.work / f"{base}-{language}-rewarm"
        if system == "add_tokens" and not (ours / STAGE / "extension.json").is_file():
            print(f"{name}: needs rewarm's tokens; left out")
            continue
        job = {
            "system": system, "base": str(folder), "new": NEW, "out": str(out), "peers": str(peers), "rewarm": str(ours),
            "targets": {language: bench.train(TARGETS[language])}, "protect": bench.train(PROTECT), "files": bench.plain(language),
        }  # fmt: skip
        made = bench.child(job)
        if "refused" in made:
            print(f"{name}: {made['refused']}")
            bench.put(name, [row("refused", made["refused"], "", system, case)])
            continue
        file = Path(made["file"])
        new = encode_all(file, bench.texts, language)
        rows = fertility_rows(new, bench.texts, language, system, case) + change_rows(encoded_base(), new, system, case)
        tokens, lost = unreachable(folder, file)
        rows += [row("unreachable", lost, "tokens", system, case), row("new_tokens", tokens, "tokens", system, case)]
        bench.put(name, rows + time_rows(made, system, case))
        show = {r["metric"]: r["value"] for r in rows if "text" not in r["case"]}
        print(f"{name}: {show} {made['seconds']} s, CPU {made['cpu_seconds']} s, {made['peak_memory_gib']} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--bases", nargs="+", default=list(bases.NAMES), choices=bases.NAMES)
    parser.add_argument("--languages", nargs="+", default=list(HELDOUT), choices=list(HELDOUT))
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--again", action="store_true", help="measure parts anew that are in the results already")
    parser.add_argument("--remeasure", action="store_true", help="measure the tokenizers of the last run again; times stay as they were")
    parser.add_argument("--machine", default="quiet", choices=("quiet", "shared"), help="noted beside every time: was the machine shared?")
    args = parser.parse_args()
    bench = Bench(args.data.absolute(), args.cache.absolute(), args.again, args.remeasure, args.machine)
    if "extend" in args.parts:
        for base in args.bases:
            for language in args.languages:
                extend(bench, base, language, args.systems)
    import vocab_more

    for part in PARTS[1:]:
        if part in args.parts:
            getattr(vocab_more, part)(bench)


if __name__ == "__main__":
    main()

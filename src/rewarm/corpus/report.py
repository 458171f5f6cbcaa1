"""What was read, dropped and kept, for people: the funnel, a report and a data card. Pure text from counts, without a date."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rewarm.corpus.language import Looks, told
from rewarm.corpus.recipe import CorpusRecipe, Source

STEPS = ("read", "empty", "short", "exact_duplicate", "heldout", "contaminated", "kept")
"""The funnel: `read` is the sum of all the others, in documents and in bytes."""
_LABELS = {
    "read": "read", "empty": "empty", "short": "too short", "exact_duplicate": "exact duplicates", "heldout": "held out",
    "contaminated": "share a passage with held-out text", "kept": "kept for training",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """All counts of one source: documents and bytes of each step, and what the reading met."""

    source: Source
    files: int
    steps: dict[str, tuple[int, int]]
    rows: int
    rejected: int
    left_out_chars: int
    normalised: dict[str, int]
    looks: Looks
    shards: tuple[str, ...]
    unchecked: int


def funnel(facts: Sequence[SourceFacts]) -> list[dict[str, Any]]:
    """A row for each source and step."""
    return [
        {"source": f.source.name, "step": step, "documents": f.steps[step][0], "bytes": f.steps[step][1]} for f in facts for step in STEPS
    ]


def warnings(facts: SourceFacts, empty_files: Sequence[str], repeated_ids: int, cfg: CorpusRecipe) -> list[str]:
    """What somebody should look at in one source."""
    name = f"source `{facts.source.name}`"
    out = []
    if empty_files:
        out.append(f"{name}: {len(empty_files)} file(s) without any row, the first {empty_files[0]}")
    if facts.rejected:
        out.append(f"{name}: {facts.rejected:,} of {facts.rows:,} rows could not be used; listed in rejected/{facts.source.name}.jsonl")
    if repeated_ids:
        out.append(f"{name}: ids of {repeated_ids:,} document(s) are used more than once; all are kept")
    if facts.source.licence is None:
        out.append(f"{name}: licence unknown; set `licence` if you know it, as a published model needs it")
    if wrong := told(facts.looks, facts.source.languages):
        out.append(f"{name}: {wrong}; nothing was dropped for that, examples are in other_language.jsonl")
    survivors = facts.steps["contaminated"][0] + facts.steps["kept"][0]
    if facts.steps["contaminated"][0] > 0.3 * survivors:
        share = facts.steps["contaminated"][0] / survivors
        out.append(
            f"{name}: {share:.0%} of its documents share {cfg.decontaminate.ngram} words in a row with held-out text and were "
            "dropped; if that is boilerplate, take it out of the text or hold out less (corpus.heldout.max_mb)"
        )
    if cfg.heldout.max_mb > 0 and not facts.steps["heldout"][0]:
        why = "it has fewer than 10 documents" if survivors < 10 else "no document fits into heldout.max_mb"
        out.append(f"{name}: nothing is held out ({why}), so what is learned or forgotten of it cannot be measured")
    if facts.unchecked:
        out.append(f"{name}: {facts.unchecked:,} held-out documents are too short to be looked for in training text")
    return out


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(f"{c:,}" if isinstance(c, int) else str(c) for c in cells) + " |"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return [_row(head), "|" + "---|" * len(head), *map(_row, rows)]


def report(facts: Sequence[SourceFacts], warned: Sequence[str], cfg: CorpusRecipe) -> str:
    """report.md: the funnel, what was changed in the text, and what to look at."""
    names = [f.source.name for f in facts]
    out = ["# Corpus", "", "## From raw text to training documents", "", "Documents (million bytes of clean text):", ""]
    rows = [[_LABELS[step], *(f"{f.steps[step][0]:,} ({f.steps[step][1] / 1e6:.2f})" for f in facts)] for step in STEPS]
    out += _table(["", *names], rows)
    out += [
        "",
        "Samples of what was dropped are in `removed/`, one file a reason: the smallest content hashes, so the same in every run.",
        "",
    ]
    out += ["## Rows and characters", ""]
    counts: list[list[Any]] = [
        ["files", *(f.files for f in facts)],
        ["rows", *(f.rows for f in facts)],
        ["rows that could not be used", *(f.rejected for f in facts)],
    ]
    counts += [["characters of headings left out of statutes", *(f.left_out_chars for f in facts)]]
    kinds = sorted({kind for f in facts for kind in f.normalised})
    counts += [[f"changed: {kind.replace('_', ' ')}", *(f.normalised.get(kind, 0) for f in facts)] for kind in kinds]
    counts += [["letters whose language was judged by script", *(f.looks.letters for f in facts)]]
    counts += [["of these, in text that looks like another language", *(f.looks.other for f in facts)]]
    out += _table(["", *names], counts)
    out += ["", "`nfc` counts documents, the other changes count places.", "", "## To look at", ""]
    out += [f"- {line}" for line in warned] or ["Nothing."]
    n = cfg.decontaminate.ngram
    out += ["", "## Settings", "", f"- shortest document: {cfg.min_chars:,} characters; unicode: {cfg.normalise.unicode}; seed {cfg.seed}"]
    out += [f"- held out: {cfg.heldout.share:.2%} of the bytes, {cfg.heldout.min_mb:g} to {cfg.heldout.max_mb:g} MB a source"]
    out += [f"- a passage counts as repeated from {n} words" if n else "- training text was not compared with held-out text", ""]
    return "\n".join(out)


def data_card(facts: Sequence[SourceFacts], cfg: CorpusRecipe) -> str:
    """DATACARD.md: what the training text is, for whoever gets the model."""
    out = ["# Data card", "", "Training text after cleaning; held-out documents are in none of these figures.", ""]
    rows = [
        [
            f.source.name, f.source.role, ", ".join(f.source.languages) or "not stated", f.source.licence or "unknown",
            f.steps["kept"][0], f"{f.steps['kept'][1] / 1e6:.2f}", f.steps["heldout"][0], f"{f.steps['heldout'][1] / 1e6:.2f}",
        ]
        for f in facts
    ]  # fmt: skip
    out += _table(["source", "role", "languages", "licence", "documents", "MB", "held out", "MB held out"], rows)
    out += [
        "",
        "Cleaning: line ends, control and invisible characters, trailing spaces"
        + (", NFC" if cfg.normalise.unicode == "NFC" else "")
        + ".",
    ]
    out += [f"Dropped: documents under {cfg.min_chars:,} characters, exact duplicates (case, punctuation and spaces ignored)."]
    if cfg.decontaminate.ngram:
        out += [f"Dropped too: documents that share {cfg.decontaminate.ngram} words in a row with any held-out text."]
    out += ["Not done: near duplicates, quality rules, personal data, language filtering.", ""]
    return "\n".join(out)

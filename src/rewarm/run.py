"""A recipe from raw text to a proven model: the stages in order, and what is told at the end.

base -> corpus -> vocab -> tokens -> rows -> train -> mixback -> evaluate -> export. Each reads the folders of those before it, writes one
of its own and is never run twice (see `rewarm.stages`); how they fit together is in `rewarm.rooms`.
"""

from __future__ import annotations

import resource
import shlex
import sys
from pathlib import Path
from typing import Any

from rewarm import rooms
from rewarm.atomic import read_json, write_atomic, write_json
from rewarm.console import Console
from rewarm.corpus.read_back import Corpus, open_corpus
from rewarm.planning import check_guard, check_recipe
from rewarm.recipe import Loaded
from rewarm.report.page import report_page
from rewarm.rooms import House
from rewarm.stages import Done, RunFolder, versions
from rewarm.summary import show_summary, summarise


def run_recipe(loaded: Loaded, out: Path, console: Console, until: str | None = None, notes: tuple[str, ...] = ()) -> dict[str, Any] | None:
    """Runs the stages up to `until` (`corpus`, `vocab`, `rows`, `train`; all if None) in folder `out`; returns the summary of a whole run.

    notes: sentences that belong beside the result. Raises UserError (exit 2), MachineError (1) or Stopped (130); whatever was finished is
    reused by the next call.
    """
    with RunFolder(out, console).locked() as run:
        house = House(loaded.recipe, loaded.root, run, console)
        write_atomic(out / "recipe.json", loaded.recipe.model_dump_json(indent=2) + "\n")
        return _stages(house, console, until, notes)


def _stages(house: House, console: Console, until: str | None, notes: tuple[str, ...]) -> dict[str, Any] | None:
    if until == "corpus":
        _ended(console, "corpus", rooms.corpus_stage(house).folder / "report.md")
        return None
    rooms.measured_texts(house)
    check_recipe(house.recipe)
    if until != "vocab":
        rooms.device_of(house.recipe)
    base = rooms.base_stage(house)
    rooms.check_rope(house, base)
    if not rooms.little_text(house):  # else the corpus takes seconds, and that the text is too little should be said first
        check_guard(house.recipe)
    corpus_done = rooms.corpus_stage(house)
    corpus = open_corpus(corpus_done.folder)
    rooms.check_text(house, base, corpus)
    check_guard(house.recipe)
    vocab_done, start = rooms.vocab_stage(house, base, corpus_done, corpus)
    if until == "vocab":
        _ended(console, "model with the extended tokenizer", start.folder)
        return None
    start = rooms.rope_stage(house, start)
    tokens_done, rows_done = rooms.rows_stage(house, start, corpus_done, corpus)
    feed = rooms.feed(house, tokens_done, rows_done, corpus)
    console.say(f"replay: {100 * feed.replay:.0f} % of the tokens ({feed.why})")
    if until == "rows":
        _ended(console, "rows of tokens", rows_done.folder)
        return None
    train_done = rooms.train_stage(house, base, start, corpus_done, corpus, rows_done, feed)
    reads = feed.mixture.describe(train_done.facts["steps"])
    for source in reads:
        if source["warning"]:
            console.warn(source["warning"])
    if until == "train":
        _ended(console, "trained model", train_done.folder / "model")
        return None
    mixed = rooms.mixback_stage(house, base, start, train_done, corpus_done, corpus)
    evaluated = rooms.evaluate_stage(house, base, start, mixed, corpus_done, corpus)
    results = read_json(evaluated.folder / "results.json")
    exported = rooms.export_stage(house, base, corpus, vocab_done, train_done, mixed, evaluated, results, list(notes))
    return _finish(house, console, results, corpus, reads, vocab_done, train_done, mixed, exported, notes)


def _ended(console: Console, what: str, where: Path) -> None:
    console.say(f"{what}: {where}")


def _finish(
    house: House,
    console: Console,
    results: dict[str, Any],
    corpus: Corpus,
    reads: list[dict[str, Any]],
    vocab_done: Done | None,
    train_done: Done,
    mixed: Done,
    exported: Done,
    notes: tuple[str, ...],
) -> dict[str, Any]:
    """Writes summary.json, prints the table and the two lines that a user goes on with."""
    folder = house.run.folder
    model = exported.folder / exported.facts["model"]
    facts = {
        "seconds": {done.name: done.seconds for done in house.run.done},
        "tokens_per_second": train_done.facts["tokens_per_second"],
        "peak_memory_gib": _peak_memory_gib(train_done, folder),
        "tokens": train_done.facts["tokens"],
        "steps": train_done.facts["steps"],
        "sources": reads,
        "vocabulary": vocab_done.facts if vocab_done else {"extended": False},
        "mixback": mixed.facts["alpha"],
        "notes": list(notes),
        "warnings": list(dict.fromkeys(console.warnings)),
        "model": str(model.relative_to(folder)),
        "report": "report.html",
        "stages": {done.name: done.folder.name for done in house.run.done},
        "recipe": house.recipe.model_dump(mode="json"),
        "versions": versions(),
    }
    summary = summarise(results, facts)
    write_json(folder / "summary.json", summary)
    report_page(folder, folder / "report.html")
    show_summary(summary, console, console.warnings)
    if all(done.reused for done in house.run.done):
        console.say("All stages were done before; nothing was trained again.")
    prompt = exported.facts["prompt"]
    console.say(f"Report: {folder / 'report.html'}")
    console.say(f"Model: {model}")
    console.say(f"Try it: {shlex.quote(sys.executable)} -m rewarm.export.generate {shlex.quote(str(model))} {shlex.quote(prompt)}")
    return summary


def _peak_memory_gib(train_done: Done, folder: Path) -> float:
    """The largest resident memory of this run's processes so far, GiB: kept in the run folder, since a later call trains nothing."""
    file = folder / "memory.json"
    before = read_json(file)["peak_memory_gib"] if file.is_file() else 0.0
    unit = 2**30 if sys.platform == "darwin" else 2**20
    here = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / unit
    peak = round(max(before, here, train_done.facts["peak_memory_gib"]), 3)
    write_json(file, {"peak_memory_gib": peak})
    return peak

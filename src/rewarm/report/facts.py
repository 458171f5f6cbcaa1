"""All that the page shows, as plain values, from a run's files. What a stage did not write is empty or None here, and said on the page."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from rewarm.report.curves import Line, Probed, probes, training_lines
from rewarm.report.figures import cut, number
from rewarm.report.files import RunFiles
from rewarm.report.words import Cut, cut_sentences, sentences

MOST_SOURCES, MOST_TEXTS, MOST_SAMPLES, MOST_EXAMPLES, MOST_WARNINGS, MOST_TOKENS = 40, 100, 16, 3, 60, 60
"""How many of each are shown at most: a page stays a page. What is left out is said."""
LEAST_OTHER = 0.01
"""Less text than this share that looks like another language is not told."""
SAMPLE_CHARS, EXAMPLE_CHARS, FILE_CHARS = 2_000, 400, 60_000
REASONS = {
    "empty": "empty",
    "short": "too short",
    "exact_duplicate": "exact duplicate",
    "contaminated": "repeats held-out text",
}
"""Steps of the funnel that drop documents, and what they are called."""
PRECISIONS = {"mixed": "products in bf16 over fp32 weights"}
LABELS = {"read": "read", "heldout": "held out for measuring", "kept": "kept for training", **REASONS}


def texts(run: RunFiles) -> list[dict[str, Any]]:
    """The measured texts, new ones first: name, role, languages, documents, bytes, and before, extended, after, delta, low, high in bits
    per byte, bytes a token, verdict, budget."""
    found = run.fields("evaluate", "results.json").get("texts") or run.summary.get("texts") or {}
    languages = {s.get("name"): s.get("languages") or [] for s in run.fields("corpus", "corpus.json").get("sources") or []}
    out = []
    for name, text in found.items():
        bits, density = text.get("bits_per_byte") or {}, text.get("bytes_per_token") or {}
        out.append(
            {
                "name": name, "role": text.get("role"), "languages": languages.get(name, []), "documents": text.get("documents") or 0,
                "bytes": text.get("bytes") or 0, "half": text.get("half"), "verdict": text.get("verdict") or "undecided",
                "budget": number(text.get("budget")), "bytes_per_token": {k: number(density.get(k)) for k in ("before", "after")},
                **{k: number(bits.get(k)) for k in ("before", "extended", "after", "delta", "low", "high")},
            }
        )  # fmt: skip
    return sorted(out, key=lambda text: text["role"] != "new")


def sources(run: RunFiles) -> list[dict[str, Any]]:
    """Each source from raw text to what training read: funnel, tokens, rows and reads; None where a stage is not there."""
    corpus = run.fields("corpus", "corpus.json")
    steps: dict[str, dict[str, dict[str, Any]]] = {}
    for row in corpus.get("funnel") or []:
        steps.setdefault(row["source"], {})[row["step"]] = row
    tokens = _by_name(run.fields("tokens", "index.json").get("sources"))
    table = run.fields("rows", "rows.json")
    rows, reads = _by_name(table.get("sources")), _by_name(run.summary.get("sources"))
    named = {s.get("name"): s.get("paths") or [] for s in (run.recipe.get("corpus") or {}).get("sources") or []}
    trained = run.facts("train").get("sources") or {}
    total = sum(trained.values())
    out = []
    for source in corpus.get("sources") or []:
        name = source["name"]
        out.append(
            {
                "name": name, "role": source.get("role"), "languages": source.get("languages") or [], "licence": source.get("licence"),
                "funnel": [{"label": LABELS.get(k, k), **v} for k, v in steps.get(name, {}).items()],
                "files_rows": source.get("rows"), "rejected": source.get("rejected") or 0,
                "paths": named.get(name, []), "other_language": _other_language(run, source),
                "kept_bytes": source.get("bytes") or 0, "tokens": tokens.get(name, {}).get("tokens"),
                "rows": rows.get(name, {}).get("rows"), "row_tokens": table.get("row_tokens"),
                "trained": trained.get(name), "share": trained[name] / total if total and name in trained else None,
                "read": reads.get(name),
            }
        )  # fmt: skip
    return out


def _other_language(run: RunFiles, source: dict[str, Any]) -> dict[str, Any] | None:
    """Share of a source's letters in text that looks like another language, with examples; None where that is under LEAST_OTHER."""
    letters, other = (number(source.get(key)) or 0 for key in ("letters_judged", "letters_other_language"))
    if not letters or other / letters < LEAST_OTHER:
        return None
    mine = (entry for entry in run.lines("corpus", "other_language.jsonl") if entry.get("source") == source["name"])
    return {
        "share": other / letters,
        "examples": [cut(str(entry.get("text") or ""), EXAMPLE_CHARS) for entry in islice(mine, MOST_EXAMPLES)],
    }


def _by_name(entries: Any) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in entries or []}


def dropped(run: RunFiles) -> list[dict[str, Any]]:
    """By reason, most first: label, why, documents and bytes over all sources, share of the bytes read, a few examples."""
    totals: dict[str, list[int]] = {}
    for row in run.fields("corpus", "corpus.json").get("funnel") or []:
        sums = totals.setdefault(row["step"], [0, 0])
        sums[0] += row["documents"]
        sums[1] += row["bytes"]
    read, why = totals.get("read", [0, 0])[1], _why(run.recipe.get("corpus") or {})
    out = []
    for reason, label in sorted(REASONS.items(), key=lambda item: -totals.get(item[0], [0])[0]):
        if reason in totals:
            documents, size = totals[reason]
            shown = _examples(run, reason) if documents else []
            share = size / read if read else None
            out.append({"label": label, "why": why[reason], "documents": documents, "bytes": size, "share": share, "examples": shown})
    return out


def _why(corpus: dict[str, Any]) -> dict[str, str]:
    """Why a document is dropped, with the recipe's numbers."""
    least, words = corpus.get("min_chars"), (corpus.get("decontaminate") or {}).get("ngram")
    return {
        "empty": "nothing was left after cleaning",
        "short": f"it has fewer than {least if least is not None else 'the least number of'} characters: menus, captions, lone headings",
        "exact_duplicate": "the same text stands elsewhere, but for case, punctuation and spaces; one copy was kept",
        "contaminated": f"it shares {f'{words} words in a row' if words else 'a passage'} with text that is held out to measure with;"
        " trained on, it would flatter the result",
    }


def _examples(run: RunFiles, reason: str) -> list[dict[str, Any]]:
    """Up to MOST_EXAMPLES of each source."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for entry in run.lines("corpus", f"removed/{reason}.jsonl"):
        of_source = shown.setdefault(str(entry.get("source")), [])
        if len(of_source) < MOST_EXAMPLES and len(shown) <= MOST_SOURCES:
            passage = entry.get("passage")
            text = cut(str(entry.get("text") or ""), EXAMPLE_CHARS)
            of_source.append({"source": str(entry.get("source")), "text": text, "passage": cut(str(passage), 200) if passage else None})
    return [entry for entries in shown.values() for entry in entries]


def training(run: RunFiles) -> dict[str, Any] | None:
    """Length, speed, machine and settings; None if the run did not train to its end."""
    facts = run.facts("train")
    if not facts:
        return None
    plan, kernels = run.fields("train", "plan.json"), run.fields("train", "kernels.json")
    settings = plan.get("facts") or {}
    device = str(kernels.get("device") or facts.get("device") or "")
    return {
        "tokens": facts.get("tokens"), "steps": facts.get("steps"), "step_tokens": facts.get("step_tokens"),
        "seconds": number(facts.get("seconds")), "tokens_per_second": number(facts.get("tokens_per_second")),
        "skipped": facts.get("skipped") or 0,
        "device": "a CPU" if device == "cpu" else device or "a machine that is not named",
        "precision": PRECISIONS.get(str(facts.get("precision")), facts.get("precision")),
        "peak_memory_gib": number(run.summary.get("peak_memory_gib") or facts.get("peak_memory_gib")),
        "parameters": settings.get("parameters"), "lr": plan.get("lr"), "methods": settings.get("methods") or [],
    }  # fmt: skip


def curves(run: RunFiles) -> tuple[list[Line], list[Probed]]:
    return training_lines(run.lines("train", "metrics.jsonl")), probes(run.lines("train", "events.jsonl"))


def vocabulary(run: RunFiles, measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Extended or not and why, fertility of the held-out texts before and after, the size curve, the most used new tokens."""
    facts = run.facts("vocab") or run.summary.get("vocabulary") or {}
    roles = {s.get("name"): s.get("role") for s in run.fields("corpus", "corpus.json").get("sources") or []}
    table = []
    for name, text in (run.fields("vocab", "report.json").get("texts") or {}).items():
        before = text.get("before") or {}
        table.append(
            {
                "name": name,
                "role": "new" if roles.get(name) == "new" else "old",
                "bytes": text.get("bytes"),
                "before": before,
                "after": text.get("after") or before,
            }
        )
    if not table:
        for text in measured:
            density = text["bytes_per_token"]
            sides = {
                k: {"tokens": round(text["bytes"] / density[k]) if density[k] else None, "bytes_per_token": density[k]}
                for k in ("before", "after")
            }
            table.append({"name": text["name"], "role": text["role"], "bytes": text["bytes"], **sides})
    return {
        "extended": bool(facts.get("extended")), "facts": facts, "reason": facts.get("reason"), "known": bool(facts),
        "texts": sorted(table, key=lambda row: row["role"] != "new")[:MOST_TEXTS],
        "curve": run.entries("vocab", "curve.json"), "tokens": _new_tokens(run),
    }  # fmt: skip


def _new_tokens(run: RunFiles) -> list[dict[str, Any]]:
    """The most used new tokens that are text: text and uses."""
    found: list[dict[str, Any]] = []
    for line in (run.text("vocab", "new_tokens.tsv") or "").split("\n")[1:]:
        cells = line.split("\t")
        if len(cells) == 5 and cells[4].isdigit() and cells[1] != cells[2]:
            found.append({"text": cells[2], "uses": int(cells[4])})
    return sorted(found, key=lambda token: -token["uses"])[:MOST_TOKENS]


def cuts(run: RunFiles, samples: list[dict[str, Any]], extended: bool) -> list[Cut]:
    """Example sentences under both tokenizers: the opening of one sample of each new text, then five fixed sentences."""
    own = {}
    new = {text["name"]: text["languages"] for text in texts(run) if text["role"] == "new"}
    for sample in samples:
        if sample["text"] in new and sample["text"] not in own:
            languages = new[sample["text"]]
            own[sample["text"]] = {
                "name": f"held-out {sample['text']}",
                "language": languages[0] if len(languages) == 1 else None,
                "text": sample["prompt"][:160],
            }
    exported = run.path("export", "model/tokenizer.json") or run.path("vocab", "model/tokenizer.json")
    return cut_sentences(_base_tokenizer(run), exported if extended else None, [*own.values(), *sentences()])


def _base_tokenizer(run: RunFiles) -> Path | None:
    """The base's tokenizer.json: in the run if it came from a GGUF file, else where the evaluation or the recipe found the base."""
    inside = run.path("base", "model/tokenizer.json")
    if inside:
        return inside
    models = run.fields("evaluate", "results.json").get("models") or {}
    named = [(models.get("base") or {}).get("path"), (run.recipe.get("model") or {}).get("base")]
    return next((path for name in named if name and (path := Path(str(name)) / "tokenizer.json").is_file()), None)


def samples(run: RunFiles) -> list[dict[str, Any]]:
    """Openings of held-out documents, how the text itself goes on, and how each model does."""
    out: list[dict[str, Any]] = []
    for entry in run.lines("evaluate", "samples.jsonl"):
        if len(out) == MOST_SAMPLES:
            break
        said = entry.get("continuations") or {}
        out.append(
            {
                "text": str(entry.get("text")), "document": str(entry.get("document")),
                "prompt": cut(str(entry.get("prompt") or ""), SAMPLE_CHARS),
                "reference": cut(str(entry.get("reference") or ""), SAMPLE_CHARS),
                "base": cut(str(said["base"]), SAMPLE_CHARS) if "base" in said else None,
                "after": cut(str(said["after"]), SAMPLE_CHARS) if "after" in said else None,
            }
        )  # fmt: skip
    return out


def base(run: RunFiles) -> dict[str, Any]:
    """The base's name (a path's last part), licence, and the quantised kinds it was stored in."""
    exported = (run.done.get("export", {}).get("settings") or {}).get("base") or {}
    converted = run.facts("base")
    model = run.recipe.get("model") or {}
    name = str(exported.get("name") or model.get("base") or Path(model.get("gguf") or "a base model").stem)
    stored = exported.get("stored_as") or converted.get("stored_as") or {}
    return {
        "name": name if name.count("/") == 1 and not name.startswith(("/", ".")) else Path(name).name,
        "licence": exported.get("licence") or converted.get("licence"),
        "quantised": [kind for kind in stored if str(kind).startswith(("Q", "IQ", "TQ"))],
        "file_sha256": converted.get("sha256"),
    }


def said(run: RunFiles) -> tuple[list[str], list[str]]:
    """(warnings, notes): what the stages warned of, each once, and what the run says beside its result."""
    found = [
        *(run.summary.get("warnings") or []), *(run.fields("corpus", "corpus.json").get("warnings") or []),
        *(run.fields("evaluate", "results.json").get("warnings") or []),
    ]  # fmt: skip
    return list(dict.fromkeys(str(w) for w in found)), [str(note) for note in run.summary.get("notes") or []]


def date(run: RunFiles) -> str | None:
    """The day on which training ended (UTC), from its events; None if they hold no time."""
    last = None
    for event in run.lines("train", "events.jsonl"):
        last = number(event.get("time")) or last
    return datetime.fromtimestamp(last, UTC).strftime("%Y-%m-%d") if last else None


def provenance(run: RunFiles) -> dict[str, Any]:
    """What the result can be checked and repeated with: stages, versions, hashes, protocol, recipe."""
    results = run.fields("evaluate", "results.json")
    last = next((run.done[name] for name in reversed(run.stages) if run.done[name].get("versions")), {})
    return {
        "stages": [{"name": n, "folder": f.name, "seconds": number(run.done[n].get("seconds"))} for n, f in run.stages.items()],
        "versions": run.summary.get("versions") or last.get("versions") or {},
        "protocol": results.get("protocol") or {}, "device": results.get("device"),
        "models": {n: {k: m.get(k) for k in ("weights_sha256", "tokenizer_sha256")} for n, m in (results.get("models") or {}).items()},
        "sums": cut(run.text("export", "SHA256SUMS") or "", FILE_CHARS),
        "recipe": cut(json.dumps(run.recipe, ensure_ascii=False, indent=1), FILE_CHARS) if run.recipe else "",
        "corpus_report": cut(run.text("corpus", "report.md") or "", FILE_CHARS),
        "gate": run.entries("vocab", "gate.json"), "date": date(run),
    }  # fmt: skip

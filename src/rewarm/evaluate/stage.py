"""The evaluation stage: models and held-out text in; what changed, with intervals, and samples out.

Writes `results.json`, `documents.parquet` (every statistic can be redone from it without a model), `samples.jsonl`, `report.md`, and
`scores/`, from which an interrupted call goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rewarm.atomic import open_atomic, read_json, sweep, write_atomic, write_json
from rewarm.errors import UserError
from rewarm.evaluate import report
from rewarm.evaluate.bits import DocScores, bits_per_byte, check_scores, shared
from rewarm.evaluate.documents import TextRef
from rewarm.evaluate.forgetting import compare, verdict
from rewarm.evaluate.measure import Lazy, Measurement
from rewarm.evaluate.protocol import as_json, prefix_for
from rewarm.evaluate.recipe import EvaluateRecipe
from rewarm.evaluate.samples import choose_openings, continue_openings
from rewarm.evaluate.store import device_kind
from rewarm.model.files import find_folder
from rewarm.progress import Reporter, Silent

FORMAT = 1
KEYS = {"base": "before", "extended": "extended", "after": "after"}
"""The models' names, and what their figures are called in results.json."""


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model to measure. `extended` is the one with new rows, untrained."""

    name: Literal["base", "extended", "after"]
    path: Path


def evaluate_stage(
    cfg: EvaluateRecipe,
    models: Sequence[ModelRef],
    texts: Sequence[TextRef],
    out: Path,
    reporter: Reporter,
    *,
    budget: Mapping[str, float] | None = None,
    device: str | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Scores every model on every text and writes the results to `out`; returns what `results.json` holds.

    The first model is the one that is compared with, the last the one that is judged; a single one is only scored. budget: bits per byte
    that may be lost, by text. cache: folder for scores of the first model, by default the user's. Called again after a stop, it goes on.
    """
    out.mkdir(parents=True, exist_ok=True)
    sweep(out)
    _check_budget(budget or {}, texts)
    measure = Measurement(cfg, models[0].path, [m.path for m in models[1:]], texts, out, reporter, device=device, cache=cache)
    openings = choose_openings(measure.documents, cfg.samples)
    scores: dict[str, dict[str, DocScores]] = {}
    said: dict[str, list[str]] = {}
    about: dict[str, dict[str, Any]] = {}
    prefixes: dict[str, str | None] = {}
    for ref in models:
        folder = find_folder(ref.path)
        prefixes[ref.name], prefix = prefix_for(measure.protocol.prefix, measure.encoder(folder))
        weights, tokenizer = measure.identity(folder)
        about[ref.name] = {"path": str(ref.path), "weights_sha256": weights, "tokenizer_sha256": tokenizer}
        with measure.model(folder) as lazy:
            scores[ref.name] = measure.score(ref.name, folder, lazy)
            if openings and ref.name != "extended":
                said[ref.name] = _said(measure, folder, lazy, openings, prefix, cfg.sample_tokens, out)
    warnings = list(measure.warnings)
    if len(set(prefixes.values())) > 1:
        warnings.append("the models have no begin token in common, so each has its own: bits per byte moves a little with it")
    results: dict[str, Any] = {
        "format": FORMAT,
        "versions": {package: version(package) for package in ("torch", "transformers", "tokenizers", "numpy")},
        "device": device_kind(measure.device),
        "warnings": warnings,
        "protocol": as_json(measure.protocol, measure.tried, prefixes),
        "models": about,
        "texts": {},
    }
    for text in texts:
        by_model: dict[str, DocScores] = {ref.name: scores[ref.name][text.name] for ref in models}
        results["texts"][text.name] = _text(text, measure, by_model, (budget or {}).get(text.name), warnings)
    samples = [{**asdict(opening), "continuations": {name: lines[i] for name, lines in said.items()}} for i, opening in enumerate(openings)]
    for warning in warnings:
        reporter.warn(warning)
    _write_documents(out / "documents.parquet", {t.name: {m.name: scores[m.name][t.name] for m in models} for t in texts})
    write_atomic(out / "samples.jsonl", "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples))
    write_atomic(out / "report.md", report.markdown(results, samples))
    write_json(out / "results.json", results)
    return results


def _check_budget(budget: Mapping[str, float], texts: Sequence[TextRef]) -> None:
    if unknown := sorted(set(budget) - {text.name for text in texts}):
        raise UserError(f"there is no text `{unknown[0]}`", where="budget", fix=f"texts: {', '.join(text.name for text in texts)}")


def _said(
    measure: Measurement, folder: Path, lazy: Lazy, openings: Sequence[Any], prefix: int | None, new_tokens: int, out: Path
) -> list[str]:
    """A model's continuations, kept in a file of their own so that a stop does not cost them."""
    what = [*measure.identity(folder), measure.protocol.hash, new_tokens, [opening.prompt for opening in openings]]
    file = out / "scores" / f"samples-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]}.json"
    if not file.is_file():
        write_json(file, continue_openings(lazy(), measure.encoder(folder), openings, prefix, new_tokens))
    return read_json(file)


def _text(
    text: TextRef, measure: Measurement, scores: Mapping[str, DocScores], budget: float | None, warnings: list[str]
) -> dict[str, Any]:
    """One text's entry in results.json; adds its warnings."""
    warnings += check_scores(text.name, scores)
    documents, keep = measure.documents[text.name], shared(scores.values())
    first, last = next(iter(scores.values())), list(scores.values())[-1]
    bits: dict[str, Any] = {"before": None, "extended": None, "after": None, "delta": None, "low": None, "high": None}
    density: dict[str, Any] = {"before": None, "extended": None, "after": None}
    characters = dict(density)
    for name, one in scores.items():
        key = KEYS[name]
        bits[key] = bits_per_byte(one, keep)
        density[key] = float(one.bytes[keep].sum() / one.tokens[keep].sum())
        characters[key] = float(bits[key] * one.bytes[keep].sum() / one.chars[keep].sum())
    word, sentence = (
        "measured",
        f"{bits['after'] if bits['after'] is not None else bits['before']:.4f} bits per byte, compared with nothing",
    )
    if len(scores) > 1:
        delta = compare(first, last, keep)
        said = verdict(delta, budget, text.role)
        word, sentence = said.word, said.sentence
        bits |= {"delta": delta.delta, "low": delta.low, "high": delta.high, "interval": "jackknife-t", "bootstrap": delta.bootstrap}
        if delta.carriers:
            warnings.append(f"{text.name}: most of the interval comes from {' and '.join(f'`{name}`' for name in delta.carriers)}")
    return {
        "role": text.role,
        "half": text.half,
        "sha256": documents.sha256,
        "documents": int(keep.sum()),
        "bytes": int(first.bytes[keep].sum()),
        "cut": documents.cut,
        "left_out": {"lossy": _any(one.lossy for one in scores.values()), "not_finite": _any(one.bad_at >= 0 for one in scores.values())},
        "bits_per_byte": bits,
        "bits_per_character": characters,
        "bytes_per_token": density,
        "verdict": word,
        "sentence": sentence,
        "budget": budget,
    }


def _any(marks: Any) -> int:
    """Documents marked for any of the models."""
    total: npt.NDArray | None = None
    for mark in marks:
        total = mark if total is None else total | mark
    return 0 if total is None else int(total.sum())


def _write_documents(path: Path, scores: Mapping[str, Mapping[str, DocScores]]) -> None:
    """A row a document: text, id, bytes, chars, whether it counts, and nats and tokens of every model."""
    tables = []
    for text, by_model in scores.items():
        first = next(iter(by_model.values()))
        columns: dict[str, Any] = {"text": [text] * len(first.ids), "id": list(first.ids), "bytes": first.bytes, "chars": first.chars}
        columns["counts"] = shared(by_model.values())
        for name, one in by_model.items():
            columns |= {f"nll_{KEYS[name]}": one.nll, f"tokens_{KEYS[name]}": one.tokens}
        tables.append(pa.table(columns))
    with open_atomic(path) as file:
        pq.write_table(pa.concat_tables(tables), file, compression="zstd")


def score_change(
    cfg: EvaluateRecipe,
    base: Path,
    model: Path,
    texts: Sequence[TextRef],
    out: Path,
    reporter: Reporter,
    *,
    device: str | None = None,
    cache: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """By text: `role`, `bits_per_byte` of the model, and `base`: the base's on the same documents, for old texts only (None for new ones).

    What choosing between models needs, at the least cost: scoring the base on a language it does not know takes longest.
    """
    measure = Measurement(cfg, base, [model], texts, out, reporter, device=device, cache=cache)
    folder, olds = find_folder(model), [text.name for text in texts if text.role == "old"]
    with measure.model(measure.base) as lazy:
        before = measure.score("base", measure.base, lazy, olds)
    with measure.model(folder) as lazy:
        after = measure.score(folder.name, folder, lazy)
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        pair = {"base": before[text.name], "model": after[text.name]} if text.name in before else {"model": after[text.name]}
        check_scores(text.name, pair)
        keep = shared(pair.values())
        bits = {name: bits_per_byte(one, keep) for name, one in pair.items()}
        found[text.name] = {"role": text.role, "bits_per_byte": bits["model"], "base": bits.get("base")}
    return found


def evaluate_models(
    model: Path | str,
    against: Path | str | None,
    texts: Sequence[TextRef],
    *,
    cfg: EvaluateRecipe | None = None,
    out: Path | None = None,
    reporter: Reporter | None = None,
    budget: Mapping[str, float] | None = None,
    device: str | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """What changed from `against` to `model`, any two causal models with any tokenizers; without `against`, one model's figures.

    Returns what `results.json` holds; files are written only where `out` is given. Render with `report.table_of` and `report.lines_of`.
    """
    refs = [] if against is None else [ModelRef("base", find_folder(against))]
    refs.append(ModelRef("after", find_folder(model)))
    with TemporaryDirectory(prefix="rewarm-evaluate-") as scratch:
        return evaluate_stage(
            cfg or EvaluateRecipe(), refs, texts, out or Path(scratch), reporter or Silent(), budget=budget, device=device, cache=cache
        )

"""The vocabulary stage: base model and texts in, a plain model folder with a longer tokenizer out, or the reasons why not.

Steps: sample, count, merge and choose, files, gate, rows, gate. Counts and merges, which take long, are kept in a folder beside the
stage's own (`cache.py`), for a rerun and for other sizes and guards; the rest is simply done again. `model/` appears last, by one rename:
whoever finds it finds all of it.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from rewarm import __version__
from rewarm.atomic import disk_errors, read_json, sha256_file, sweep, sync_folder, write_atomic, write_json
from rewarm.errors import UserError
from rewarm.progress import Reporter, Silent
from rewarm.signals import check_stop
from rewarm.vocab.balance import parallel_lines
from rewarm.vocab.base import Base, bare_model, encode_ids, open_base, spec_file
from rewarm.vocab.bpe import BpeBase
from rewarm.vocab.cache import FOLDER
from rewarm.vocab.choose import Choice
from rewarm.vocab.count import Counts, kept_counts
from rewarm.vocab.extension import Extension
from rewarm.vocab.fuzz import GateTexts
from rewarm.vocab.gate import Finding, check_tokenizer, same_again
from rewarm.vocab.gate_bits import check_bits
from rewarm.vocab.gate_rows import check_model
from rewarm.vocab.initialise import plan_start
from rewarm.vocab.inputs import decomposed, old_words, shared_lines
from rewarm.vocab.kinds import Kind, kind_named
from rewarm.vocab.memory import check_memory, free_memory
from rewarm.vocab.problem import PROTECTED
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.report import fertility
from rewarm.vocab.rows import copy_beside, extend_model
from rewarm.vocab.text import Sample, compared_lines, lines_of, read_documents, sample_pieces

FORMAT = 1
LEAST_PROTECTED = 1_000_000
ENOUGH_PROTECTED = 20_000_000
HELD_SHARE, HELD_BYTES = 0.05, 2_000_000


def extend(
    base_dir: Path,
    targets: dict[str, list[Path]],
    protect: list[Path],
    out: Path,
    cfg: VocabRecipe | None = None,
    heldout: dict[str, Path] | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """The stage without a run: extends the tokenizer and model in `base_dir`, writes to `out`; see `vocab_stage`."""
    return vocab_stage(cfg or VocabRecipe(), base_dir, targets, protect, heldout or {}, None, out, reporter or Silent())


def vocab_stage(
    cfg: VocabRecipe,
    base_dir: Path,
    targets: dict[str, list[Path]],
    protect: list[Path],
    heldout: dict[str, Path],
    planned_tokens: int | None,
    out: Path,
    reporter: Reporter,
) -> dict[str, Any]:
    """Extends the base's tokenizer by the target texts' words; returns counts (`extended`, sizes, bytes a token before and after).

    targets: language -> files; protect: old text whose tokens must stay; heldout: text's name -> file, only measured. planned_tokens:
    what the training will read, for `min_uses: auto`. Writes `model/`, `extension.json`, `new_tokens.tsv`, `curve.json`, `gate.json` and
    `report.json` to `out`; where it does not extend, only the reports. Raises UserError, and puts no `model/` in place, if the tokenizer is
    of another kind, the texts do not do, or the gate finds a broken invariant (then see `rejected/`).
    """
    if cfg.extend is False:
        return {"extended": False, "reason": "vocab.extend is false"}
    base = open_base(Path(base_dir))
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    settings = _settings(cfg, base, targets, protect, heldout, planned_tokens)
    finished = _finished(out, settings)
    if finished is not None:
        return finished
    sweep(out)
    for finding in base.findings:
        reporter.warn(finding)
    texts, counts, choice = survey(cfg, base, targets, protect, planned_tokens, out.parent / FOLDER, reporter)
    languages, kind = sorted(targets), kind_named(base.kind)
    write_json(out / "curve.json", choice.curve.table(choice.learnt))
    held = {name: list(read_documents(path)) for name, path in sorted(heldout.items())} or _own_heldout(texts, languages)
    keep_base = not choice.learnt or (cfg.extend == "auto" and not choice.advice.extend)
    if keep_base:
        reporter.warn(choice.advice.text if not choice.advice.extend else "no new token is left: the base's tokenizer stays")
        table = fertility({"before": base.tokenizer}, held)
        facts: dict[str, Any] = {
            "extended": False, "reason": choice.advice.text, "best_gain": round(choice.advice.gain, 4),
            "size_reasons": list(choice.reasons),
            "bytes_per_token": {n: dict.fromkeys(("before", "after"), row["before"]["bytes_per_token"]) for n, row in table.items()},
        }  # fmt: skip
        write_json(out / "report.json", {"settings": settings, "facts": facts, "texts": table})
        return facts
    if not choice.advice.extend:
        reporter.warn(f"{choice.advice.text}; done all the same, as vocab.extend is true")
    return _write(cfg, base, kind, choice, texts, held, counts, settings, out, reporter)


def survey(
    cfg: VocabRecipe,
    base: Base,
    targets: dict[str, list[Path]],
    protect: list[Path],
    planned_tokens: int | None,
    cache: Path,
    reporter: Reporter,
) -> tuple[dict[str, Sample], Counts, Choice]:
    """Samples and counts the texts and chooses the new tokens: all that can be said before a file is written.

    cache: folder for counts and merges, which runs with other settings use again.
    """
    if cfg.balance == "parity" and not isinstance(base, BpeBase):
        fix = "choose `equal`, `proportional` or a weight for each language"
        raise UserError(f"`parity` follows merges, and a {base.kind} tokenizer has none", where="vocab.balance", fix=fix)
    if cfg.special_tokens and not isinstance(base, BpeBase):
        raise UserError(
            f"not offered for {base.kind} tokenizers", where="vocab.special_tokens", fix="add them with the trainer's own means"
        )
    known = base.tokenizer.get_vocab(with_added_tokens=True)
    if there := [text for text in cfg.special_tokens if text in known]:
        raise UserError(f"`{there[0]}` is a token of the base already", where="vocab.special_tokens", fix="leave it out")
    texts = _sample(cfg, targets, protect, reporter)
    for name in sorted(targets):
        if warning := decomposed(name, texts[f"target:{name}"].counted, base):
            reporter.warn(warning)
    counts = _counts(cfg, base, texts, cache, reporter)
    check_stop()
    for warning in old_words(counts, sorted(targets), PROTECTED) if PROTECTED in texts else ():
        reporter.warn(warning)
    tuning = compared_lines(texts[PROTECTED].tuning) if PROTECTED in texts else []
    choice = kind_named(base.kind).extend(base, counts, sorted(targets), cfg, planned_tokens, tuning)
    choice = replace(choice, extension=choice.extension.with_special(cfg.special_tokens))
    for reason in choice.reasons:
        reporter.say(f"  {reason}")
    return texts, counts, choice


def _settings(
    cfg: VocabRecipe, base: Base, targets: dict[str, list[Path]], protect: list[Path], heldout: dict[str, Path], planned: int | None
) -> dict[str, Any]:
    """What decides the result: a finished folder made of something else is not taken for this one."""
    recipe = cfg.model_dump(mode="json") | {"parallel": {k: Path(v).name for k, v in sorted(cfg.parallel.items())}}
    return {
        "format": FORMAT, "recipe": recipe, "base": _spec_hash(base), "planned_tokens": planned,
        "targets": {k: sorted(Path(p).name for p in v) for k, v in sorted(targets.items())},
        "protect": sorted(Path(p).name for p in protect), "heldout": {k: Path(p).name for k, p in sorted(heldout.items())},
    }  # fmt: skip


def _spec_hash(base: Base) -> str:
    return sha256_file(spec_file(base.folder))


def _finished(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier call returned, if it ended just before its caller could note it; UserError if it was another extension."""
    if not (out / "model").is_dir():
        return None
    report = read_json(out / "report.json")
    if report["settings"] != settings:
        raise UserError("this folder holds another extension", where=str(out), fix="choose another folder; nothing is overwritten")
    facts: dict[str, Any] = report["facts"]
    return facts


def _sample(cfg: VocabRecipe, targets: dict[str, list[Path]], protect: list[Path], reporter: Reporter) -> dict[str, Sample]:
    """Reads and cuts the texts: `target:<language>` into counted and tuning (held-out) parts, PROTECTED into counted, tuning and test."""
    limit = cfg.sample_mb * 1_000_000
    out = {}
    for language in sorted(targets):
        sample = sample_pieces(targets[language], limit, HELD_SHARE, 0.0, cfg.seed)
        if not any(line.strip() for line in lines_of(sample.counted)):
            raise UserError(f"no text for `{language}`", where="vocab.targets", fix="give files that hold text, or a source with role: new")
        out[f"target:{language}"] = sample
    if not out:
        raise UserError("no target text", where="vocab", fix="give at least one text in the new language: a source with role: new")
    if cfg.tau != "off":
        out[PROTECTED] = _protected_sample(cfg, protect, limit, reporter)
        _refuse_shared(out)
    elif protect:
        reporter.say("  vocab.tau is off: the protected text is not read, and nothing is proven about old text")
    return out


def _protected_sample(cfg: VocabRecipe, protect: list[Path], limit: int, reporter: Reporter) -> Sample:
    sample = sample_pieces(protect, limit, 0.05, 0.05, cfg.seed)
    if sample.total_bytes < LEAST_PROTECTED:
        found = f"{sample.total_bytes / 1e6:.2f} MB of protected text" if protect else "no protected text"
        raise UserError(
            f"{found}: at least 1 MB of text that the base knows is needed, so that its tokens can be kept",
            where="vocab.tau",
            fix="add a source with role: replay (best: 20 MB in the base's own language), or set vocab.tau: off to go without a guarantee",
        )
    if sample.total_bytes < ENOUGH_PROTECTED:
        reporter.warn(
            f"only {sample.total_bytes / 1e6:.1f} MB of protected text: words it does not hold are not protected; "
            "with 20 MB and more, fewer lines of old text change"
        )
    return sample


def _refuse_shared(texts: dict[str, Sample]) -> None:
    """Protected text that is target text too would forbid the very merges that are wanted."""
    protected = {p for part in (texts[PROTECTED].counted, texts[PROTECTED].tuning, texts[PROTECTED].test) for p in part if len(p) > 200}
    for name, sample in texts.items():
        shared = [p for p in [*sample.counted, *sample.tuning] if p in protected] if name != PROTECTED else []
        if shared:
            raise UserError(
                f"{len(shared):,} documents are both protected text and text of `{name.partition(':')[2]}`; one begins: {shared[0][:80]!r}",
                where="vocab",
                fix="give different texts",
            )


def _lines(pieces: list[str]) -> list[str]:
    """Unique lines that hold more than blanks, in order."""
    return sorted({line.strip("\n") for line in lines_of(pieces) if line.strip()})


def _counts(cfg: VocabRecipe, base: Base, texts: dict[str, Sample], cache: Path, reporter: Reporter) -> Counts:
    """Counts all groups, or reads what an earlier run counted."""
    groups: dict[str, tuple[list[str], int | None]] = {}
    for name, sample in texts.items():
        groups[name] = (sample.counted, cfg.rules.repeat_cap)
        if name != PROTECTED:
            groups[name.replace("target:", "held:", 1)] = (_up_to(sample.tuning, HELD_BYTES), None)
    if cfg.balance == "parity":
        languages = [name.partition(":")[2] for name in texts if name != PROTECTED]
        lines = parallel_lines({name: Path(file) for name, file in cfg.parallel.items()}, languages)
        groups |= {f"parallel:{name}": (some, None) for name, some in lines.items()}

    def before() -> None:
        reporter.say(f"  {check_memory({name: sample.counted for name, sample in texts.items()}, base, free_memory())}")
        if PROTECTED in texts:
            targets = {name.partition(":")[2]: sample.counted for name, sample in texts.items() if name != PROTECTED}
            for warning in shared_lines(targets, texts[PROTECTED].counted):
                reporter.warn(warning)

    with reporter.bar("counting words", None, "bytes") as bar:
        counts = kept_counts(groups, base, _spec_hash(base), cache, before)
        bar.advance(float(counts.bytes.sum()))
    return counts


def _up_to(pieces: list[str], limit: int) -> list[str]:
    out: list[str] = []
    size = 0
    for piece in pieces:
        size += len(piece.encode())
        if out and size > limit:
            break
        out.append(piece)
    return out


def _own_heldout(texts: dict[str, Sample], languages: list[str]) -> dict[str, list[str]]:
    held = {name: _up_to(texts[f"target:{name}"].tuning or texts[f"target:{name}"].counted, HELD_BYTES) for name in languages}
    return held | ({PROTECTED: _up_to(texts[PROTECTED].test, HELD_BYTES)} if PROTECTED in texts else {})


def _write(
    cfg: VocabRecipe, base: Base, kind: Kind, choice: Choice, texts: dict[str, Sample], held: dict[str, list[str]], counts: Counts,
    settings: dict[str, Any], out: Path, reporter: Reporter,
) -> dict[str, Any]:  # fmt: skip
    """Files, gate, rows, gate, reports; then `model/` is put in place."""
    extension = choice.extension
    building = out / "building"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    files = kind.files(base, extension)
    for name, content in files.items():
        write_atomic(building / name, content)
    left = copy_beside(base, building)
    for name in left:
        reporter.warn(f"{name} is not copied: it holds the old vocabulary; tokenizer.json is the one to use")
    gate_texts = GateTexts(
        target=[line for name in sorted(texts) if name != PROTECTED for line in _lines(_up_to(texts[name].tuning, HELD_BYTES))],
        protected=compared_lines(texts[PROTECTED].test) if PROTECTED in texts else [],
    )
    reporter.say("  checking the tokenizer")
    findings = check_tokenizer(base, building, gate_texts, cfg, choice.fewest_uses)
    findings.append(same_again(kind.files(base, extension), building))
    _block(findings, building, out)
    check_stop()
    new = Tokenizer.from_file(str(building / "tokenizer.json"))
    start = plan_start(base, extension, cfg, new, {name: texts[f"target:{name}"].counted for name in sorted(choice.weights)})
    tensors, rows = extend_model(base, extension, building, cfg, start)
    reporter.say("  checking the model's rows")
    findings += check_model(base, building, extension, cfg, start)
    both_run = check_bits(base, building, gate_texts.protected, extension.first_new_id, cfg)
    findings += both_run
    _block(findings, building, out)
    table = fertility({"before": base.tokenizer, "after": new}, held)
    uses = _uses(kind.spec(base, extension), extension, counts, sorted(choice.weights))
    protected = next((f.value for f in findings if f.number == 4), None)
    facts = {
        "extended": True, "kind": base.kind, "new_tokens": choice.learnt, "repaired_bytes": len(extension.pieces) - choice.learnt,
        "first_new_id": extension.first_new_id, "true_vocab": extension.true_vocab, "rows": rows, "tied": tensors.tied,
        "bytes_per_token": {name: {k: row[k]["bytes_per_token"] for k in ("before", "after")} for name, row in table.items()},
        "gain": round(choice.curve.gain(choice.learnt), 4), "size_reasons": list(choice.reasons), "protected": protected,
        "both_run": {f.name: f.value for f in both_run}, "unreachable": next(f.value for f in findings if f.number == 5),
    }  # fmt: skip
    write_json(out / "gate.json", [f.record() for f in findings])
    write_json(out / "extension.json", _extension_record(cfg, base, choice, uses, rows))
    write_atomic(out / "new_tokens.tsv", _tsv(base, extension, uses))
    report = {"settings": settings, "facts": facts, "texts": table, "unused_alone": int((uses == 0).sum()), "min_uses": choice.min_uses}
    write_json(out / "report.json", {**report, "tuning": choice.tuning, "base_findings": list(base.findings), "not_copied": left})
    building.rename(out / "model")
    sync_folder(out)
    return facts


def _block(findings: list[Finding], building: Path, out: Path) -> None:
    """Stops on a broken invariant: the files go to `rejected/` beside `gate.json`, nothing is put into place."""
    broken = [f for f in findings if not f.ok]
    if not broken:
        return
    rejected = out / "rejected"
    shutil.rmtree(rejected, ignore_errors=True)
    building.rename(rejected)
    write_json(rejected / "gate.json", [asdict(f) for f in findings])
    lines = [f"{f.number}. {f.name}: {f.value} (limit {f.limit})" + (f"; {f.example}" if f.example else "") for f in broken]
    fix = next((f.fix for f in broken if f.fix), "the files are kept for a look; if the base is sound, this is a bug of rewarm")
    raise UserError("the extended tokenizer breaks what it must keep:\n" + "\n".join(lines), where=str(rejected), fix=fix)


def _uses(spec: dict[str, Any], extension: Extension, counts: Counts, languages: list[str]) -> Any:
    """[new ids] uses of each new token in the counted target text, as the finished tokenizer cuts it (0: only part of longer ones)."""
    ids = encode_ids(bare_model(spec), counts.words)
    lengths = np.fromiter((len(i) for i in ids), dtype=np.int64, count=len(ids))
    flat = np.fromiter((t for i in ids for t in i), dtype=np.int64, count=int(lengths.sum())) - extension.first_new_id
    weight = np.repeat(sum(counts.column(f"target:{name}") for name in languages), lengths)
    out = np.zeros(len(extension.tokens), dtype=np.int64)
    np.add.at(out, flat[flat >= 0], weight[flat >= 0])
    return out


def _extension_record(cfg: VocabRecipe, base: Base, choice: Choice, uses: Any, rows: int) -> dict[str, Any]:
    """extension.json: all that a trainer, an exporter or an auditor needs to know of what was added."""
    extension = choice.extension
    tokens = [{"id": t.id, "surface": _readable(t.surface), "parts": list(t.parts), "uses": int(n)} for t, n in zip(extension.tokens, uses)]
    return {
        "format": FORMAT, "base": {"name": base.folder.name, "tokenizer_sha256": _spec_hash(base), "rows": base.rows}, "kind": base.kind,
        "first_new_id": extension.first_new_id, "true_vocab": extension.true_vocab, "rows": rows, "tokens": tokens,
        "merges": [list(m) for m in extension.merges], "banned": choice.refused, "tau": cfg.tau, "weights": choice.weights,
        "init": cfg.init, "seed": cfg.seed,
        "versions": {"rewarm": __version__, "tokenizers": version("tokenizers"), "numpy": version("numpy")},
    }  # fmt: skip


def _readable(surface: bytes) -> dict[str, str]:
    """`{"str": " xin"}`, or `{"hex": "e1ba"}` for bytes that are no whole characters."""
    try:
        return {"str": surface.decode()}
    except UnicodeDecodeError:
        return {"hex": surface.hex()}


def _tsv(base: Base, extension: Extension, uses: Any) -> str:
    """One line a new token, for people: id, token as the vocabulary writes it, text or hex, old parts, uses."""
    name = {i: text for text, i in base.vocab.items()}
    lines = ["id\ttoken\ttext\tparts\tuses"]
    for token, n in zip(extension.tokens, uses):
        text = next(iter(_readable(token.surface).values()))
        lines.append(f"{token.id}\t{base.written(token.surface)}\t{text}\t{' '.join(name[p] for p in token.parts)}\t{int(n)}")
    return "\n".join(lines) + "\n"

"""`rewarm vocab report`: what texts cost with one or many tokenizers, and whether extending one is worth it."""

from __future__ import annotations

import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

from rewarm.console import Console
from rewarm.errors import UserError
from rewarm.extending import check_files, named_files, settings, write_numbers
from rewarm.model.files import find_folder
from rewarm.vocab.base import Base, open_base
from rewarm.vocab.compare import compare, cost_lines, fertility_lines
from rewarm.vocab.readers import Cutter, apart, open_cutter
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.text import sample_pieces


def report_command(
    bases: list[str],
    targets: list[str],
    texts: list[str],
    protect: list[Path],
    size: int | None,
    tau: str | None,
    max_mb: float,
    to: Path | None,
    console: Console,
) -> None:
    """Prints the comparison and, for one base with targets, the size curve with advice; writes nothing but `to`.

    Raises UserError for a text or tokenizer that cannot be read, and for options that have no effect together.
    """
    target_files = named_files("--target", targets)
    text_files = named_files("--text", texts)
    check_files("--protect", protect)
    _refuse(bases, target_files, text_files, protect, size, tau, max_mb)
    cfg = settings({"max_size": size, "tau": tau or (None if protect else "off")}, {"max_size": "size"})
    files = {**target_files, **{name: [*target_files.get(name, []), *paths] for name, paths in text_files.items()}}
    cutters = apart([cutter_of(base) for base in bases])
    base = _extensible(cutters[0].file.parent) if len(bases) == 1 and targets else None
    pieces: dict[str, list[str]] = {}
    for name, paths in files.items():
        sample = sample_pieces(paths, int(max_mb * 1e6), 0.0, 0.0, 0)
        if not any(piece.strip() for piece in sample.counted):
            raise UserError(f"no text for `{name}`", where=str(paths[0]), fix="give files that hold text")
        pieces[name] = sample.counted
        if sample.total_bytes > max_mb * 1e6:
            console.say(f"{name}: measured on {max_mb:g} of {sample.total_bytes / 1e6:,.1f} MB (--max-mb)")
    for cutter in cutters:
        console.say(f"{cutter.name}: {cutter.kind}, {cutter.size:,} tokens")
    rows = compare(cutters, pieces)
    console.say("")
    for line in fertility_lines(rows):
        console.say(line)
    costs = cost_lines(rows)
    for line in ["", *costs] if costs else []:
        console.say(line)
    found: dict[str, Any] = {
        "tokenizers": [{"name": c.name, "kind": c.kind, "tokens": c.size, "file": str(c.file)} for c in cutters],
        "texts": [row.record() for row in rows],
        "costs": costs,
    }
    if base is not None:
        found |= _outlook(base, bases[0], target_files, protect, cfg, console)
    if to is not None:
        write_numbers(to, found)
        console.say(f"numbers: {to}")


def cutter_of(value: str) -> Cutter:
    """The tokenizer that a value of the command line means: `folder`, `file`, hub id, each also as `name=...`."""
    name, rest = _name_and_place(value)
    path = Path(rest).expanduser()
    return open_cutter(path if path.exists() and rest else find_folder(rest, weights=False), name or None)


def _name_and_place(value: str) -> tuple[str, str]:
    """(`mine`, `folder`) of `mine=folder`; no name where a file of the whole name is there."""
    name, eq, rest = value.partition("=")
    return (name, rest) if eq and not Path(value).expanduser().exists() else ("", value)


def _refuse(
    bases: list[str],
    targets: dict[str, list[Path]],
    texts: dict[str, list[Path]],
    protect: list[Path],
    size: int | None,
    tau: str | None,
    max_mb: float,
) -> None:
    where = "rewarm vocab report"
    if not targets and not texts:
        fix = "give --target vi=text.txt for a language to extend to, or --text en=text.txt for text that is only measured"
        raise UserError("no text to measure", where=where, fix=fix)
    if not max_mb > 0:
        raise UserError(f"found {max_mb:g}, expected more than 0", where="--max-mb")
    unused = [n for n, v in (("--protect", protect), ("--size", size), ("--tau", tau)) if v not in (None, [])]
    if unused and len(bases) > 1:
        raise UserError(f"{unused[0]} is for the size curve, which is made for one --base only", where=where, fix="give one --base")
    if unused and not targets:
        raise UserError(f"{unused[0]} is for the size curve, which needs a language to extend to", where=where, fix="give --target vi=text")
    if tau is not None and tau != "off" and not protect:
        raise UserError("--tau guards old text, and none is given", where=where, fix="give --protect english.txt")


def _extensible(folder: Path) -> Base:
    try:
        return open_base(folder)
    except UserError as error:
        fix = "give the texts with --text instead of --target: any tokenizer can be measured"
        raise UserError(error.what, where=error.where, fix=fix) from None


def _outlook(
    base: Base, given: str, targets: dict[str, list[Path]], protect: list[Path], cfg: VocabRecipe, console: Console
) -> dict[str, Any]:
    """Trains an extension, prints what each size of it would bring, and throws it away."""
    from rewarm.vocab.stage import survey

    console.say("")
    if not protect:
        console.warn("no old text (--protect): the curve is that of an extension without a guard, and what it would change is not known")
    for finding in base.findings:
        console.warn(finding)
    console.say("size curve, on parts of the targets that were not counted:")
    with tempfile.TemporaryDirectory(prefix="rewarm-") as folder:
        _, _, choice = survey(cfg, base, targets, protect, None, Path(folder), console)
    curve = choice.curve.table(choice.learnt)
    row_bytes = bytes_a_row(base.folder)
    console.say("")
    for line in curve_lines(curve, choice.learnt if choice.advice.extend else 0, row_bytes):
        console.say(line)
    console.say("")
    console.say(choice.advice.text)
    if choice.advice.extend:
        for line in chosen_lines(curve, choice.learnt):
            console.say(line)
        words = ["--base", _name_and_place(given)[1]]
        words += [word for name, paths in targets.items() for path in paths for word in ("--target", f"{name}={path}")]
        words += [word for path in protect for word in ("--protect", str(path))] or ["--tau", "off"]
        console.say(f"to do it: rewarm vocab extend {shlex.join(words)} --size {choice.learnt} --out DIR")
    advice = {"extend": choice.advice.extend, "gain": round(choice.advice.gain, 4), "size": choice.learnt, "text": choice.advice.text}
    return {"curve": curve, "advice": advice, "size_reasons": list(choice.reasons), "bytes_a_row": row_bytes}


def bytes_a_row(folder: Path) -> int | None:
    """Bytes that one more token costs a model, by its config.json: its input row, and an output row where the two are not tied."""
    file = folder / "config.json"
    if not file.is_file():
        return None
    config = json.loads(file.read_text(encoding="utf-8"))
    config = {**config, **(config.get("text_config") or {})}
    width = config.get("hidden_size") or config.get("n_embd") or config.get("d_model")
    if not isinstance(width, int):
        return None
    value = 4 if str(config.get("dtype") or config.get("torch_dtype") or "float32") == "float32" else 2
    return width * value * (1 if config.get("tie_word_embeddings", True) else 2)


def chosen_lines(curve: list[dict[str, Any]], chosen: int) -> list[str]:
    """`vi costs 2.40 times fewer tokens with 4,096 new ones`, a line a language."""
    before, after = curve[0], next(row for row in curve if row["new_tokens"] == chosen)
    ratios = {key.removeprefix("bytes_per_token."): after[key] / before[key] for key in before if key.startswith("bytes_per_token.")}
    return [f"{name} costs {ratio:.2f} times fewer tokens with {chosen:,} new ones" for name, ratio in ratios.items()]


def curve_lines(curve: list[dict[str, Any]], chosen: int, row_bytes: int | None) -> list[str]:
    """A row a size: bytes a token of each language, fewer tokens in all, and what the new rows weigh; `chosen` is marked."""
    names = [key.removeprefix("bytes_per_token.") for key in curve[0] if key.startswith("bytes_per_token.")]
    head = f"{'new tokens':>10}" + "".join(f"  {name + ' bytes/token':>{max(14, len(name) + 12)}}" for name in names)
    out = [head + f"  {'fewer tokens':>12}" + ("" if row_bytes is None else f"  {'rows':>9}")]
    for row in curve:
        line = f"{row['new_tokens']:>10,}" + "".join(f"  {row[f'bytes_per_token.{n}']:>{max(14, len(n) + 12)}.2f}" for n in names)
        line += f"  {100 * (1 - 1 / (1 + row['gain'])):>10.0f} %"
        line += "" if row_bytes is None else f"  {row['new_tokens'] * row_bytes / 1e6:>6.1f} MB"
        out.append(line + ("  <- chosen" if row["new_tokens"] == chosen and chosen else ""))
    return out

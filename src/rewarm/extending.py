"""`rewarm vocab extend --base M --target vi=a.txt --protect en.txt`: the vocabulary stage for somebody who uses nothing else of ours."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from rewarm.console import Console
from rewarm.errors import UserError
from rewarm.vocab.recipe import VocabRecipe


def extend_command(
    base: Path | None, targets: list[str], protect: list[Path], size: int | None, tau: str, out: Path | None, console: Console
) -> None:
    """Extends the tokenizer and model in `base`; writes a folder and prints what changed. Raises UserError for anything missing."""
    if base is None or not targets or out is None:
        raise UserError(
            "give a recipe, or all of --base, --target and --out",
            where="rewarm vocab extend",
            fix="for example: rewarm vocab extend --base DIR --target vi=text.txt --protect english.txt --out DIR",
        )
    if not protect and tau != "off":
        raise UserError(
            "no old text is given, so nothing can show that old text keeps its tokens",
            where="--protect",
            fix="give text like what the base was trained on (20 MB or more), or --tau off to go without",
        )
    files: dict[str, list[Path]] = {}
    for text in targets:
        language, eq, path = text.partition("=")
        if not eq or not language or not path:
            raise UserError(f"`{text}` is no target", where="--target", fix="write language=file, as vi=text.txt")
        files.setdefault(language, []).append(Path(path))
    for file in [p for ps in files.values() for p in ps] + protect:
        if not file.is_file():
            raise UserError("no such file", where=str(file))
    if out.exists() and any(out.iterdir()) and not (out / "report.json").is_file():
        raise UserError("this folder is not empty", where=str(out), fix="choose a new folder: nothing is overwritten")
    from rewarm.model.files import find_folder
    from rewarm.vocab.stage import extend

    try:
        cfg = VocabRecipe(extend=True, size=size or "auto", tau="off" if tau == "off" else float(tau))
    except (ValidationError, ValueError) as error:
        raise UserError(str(error).splitlines()[-1].strip(), where="--size or --tau") from None
    facts = extend(find_folder(base), files, protect, out, cfg, reporter=console)
    if not facts["extended"]:
        console.say(f"not extended: {facts['reason']}")
        return
    for name, tokens in facts["bytes_per_token"].items():
        console.say(f"{name}: {tokens['before']:.2f} -> {tokens['after']:.2f} bytes a token on text that was not counted")
    console.say(
        f"{facts['new_tokens']:,} new tokens, ids {facts['first_new_id']:,} to {facts['true_vocab'] - 1:,}; list: {out / 'new_tokens.tsv'}"
    )
    console.say(f"Model and tokenizer: {out / 'model'}{os.sep}")

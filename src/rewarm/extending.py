"""`rewarm vocab extend --base M --target vi=a.txt --protect en.txt`: the vocabulary stage for somebody who uses nothing else of ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rewarm.atomic import disk_errors, read_json, write_json
from rewarm.console import Console
from rewarm.errors import UserError
from rewarm.recipe import problems_of
from rewarm.stages import content_hash
from rewarm.vocab.recipe import VocabRecipe


def extend_command(
    base: str | None, targets: list[str], protect: list[Path], size: int | None, tau: str | None, out: Path | None, console: Console
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
        if not eq or not language.strip() or not path:
            raise UserError(f"`{text}` is no target", where="--target", fix="write language=file, as vi=text.txt")
        files.setdefault(language, []).append(Path(path))
    for option, paths in (("--target", [p for ps in files.values() for p in ps]), ("--protect", protect)):
        for file in paths:
            if not file.is_file():
                problem = "a folder, not a file" if file.is_dir() else "no such file"
                raise UserError(problem, where=f"{option}: {file}", fix="give a .txt, .jsonl or .parquet file")
    cfg = _settings(size, tau)
    from rewarm.model.files import find_folder
    from rewarm.vocab.stage import extend

    folder = find_folder(base)
    _claim(out, [folder / "tokenizer.json", *(p for ps in files.values() for p in ps), *protect])
    facts = extend(folder, files, protect, out, cfg, reporter=console)
    if not facts["extended"]:
        console.say(f"not extended: {facts['reason']}")
        return
    for name, tokens in facts["bytes_per_token"].items():
        console.say(f"{name}: {tokens['before']:.2f} -> {tokens['after']:.2f} bytes a token on text that was not counted")
    console.say(
        f"{facts['new_tokens']:,} new tokens, ids {facts['first_new_id']:,} to {facts['true_vocab'] - 1:,}; list: {out / 'new_tokens.tsv'}"
    )
    console.say(f"Model and tokenizer: {out / 'model'}{os.sep}")


def _settings(size: int | None, tau: str | None) -> VocabRecipe:
    given: dict[str, Any] = {"extend": True} | ({"size": size} if size is not None else {}) | ({"tau": tau} if tau is not None else {})
    try:
        return VocabRecipe.model_validate(given)
    except ValidationError as error:
        at, found, expected, _ = next(iter(problems_of(error, given, VocabRecipe)))
        raise UserError("; ".join(x for x in (found, expected) if x), where=f"--{at[0] if at else 'size'}") from None


def _claim(out: Path, files: list[Path]) -> None:
    """Makes `out` the folder of an extension by these files' contents, kept beside it, so that none is taken for the result of others.

    UserError where `out` holds anything else, or cannot be written.
    """
    mark = out / "inputs.json"
    inputs = {"contents": content_hash([file for file in files if file.is_file()])}
    try:
        if mark.is_file():
            if (out / "model").is_dir() and read_json(mark) != inputs:
                raise UserError("this folder holds an extension by other texts", where=str(out), fix="choose another folder with --out")
        elif out.exists() and any(out.iterdir()):
            raise UserError("this folder is not empty", where=str(out), fix="choose a new folder: nothing is overwritten")
        with disk_errors(out):
            write_json(mark, inputs)
    except OSError as error:
        problem = "a file, not a folder" if out.is_file() else f"cannot be written: {error.strerror or error}"
        raise UserError(problem, where=str(out), fix="choose another folder with --out") from None

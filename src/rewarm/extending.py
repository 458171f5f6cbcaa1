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
    files = named_files("--target", targets)
    check_files("--protect", protect)
    cfg = settings({"size": size, "tau": tau})
    from rewarm.model.files import find_folder
    from rewarm.vocab.stage import extend

    folder = find_folder(base)
    if out.resolve().is_relative_to(folder.resolve()):
        raise UserError("inside the base's folder, which is never written to", where=f"--out: {out}", fix="choose a folder elsewhere")
    _claim(out, [folder / "tokenizer.json", *(p for ps in files.values() for p in ps), *protect])
    facts = extend(folder, files, protect, out, cfg, reporter=console)
    if not facts["extended"]:
        console.say(f"not extended: {facts['reason']}")
        return
    for name, tokens in facts["bytes_per_token"].items():
        console.say(f"{name}: {tokens['before']:.2f} -> {tokens['after']:.2f} bytes a token on text that was not counted")
    repaired = f" and {n} single bytes that the base lacked" if (n := facts["repaired_bytes"]) else ""
    console.say(
        f"{facts['new_tokens']:,} new tokens{repaired}, ids {facts['first_new_id']:,} to {facts['true_vocab'] - 1:,}; "
        f"list: {out / 'new_tokens.tsv'}"
    )
    console.say(f"Model and tokenizer: {out / 'model'}{os.sep}")


def named_files(option: str, values: list[str]) -> dict[str, list[Path]]:
    """name -> files of `name=file` values, in order; a name may come several times. UserError for a value or file that will not do."""
    files: dict[str, list[Path]] = {}
    for text in values:
        name, eq, path = text.partition("=")
        if not eq or not name.strip() or not path:
            what = "target" if option == "--target" else "text"
            raise UserError(f"`{text}` is no {what}", where=option, fix="write language=file, as vi=text.txt")
        files.setdefault(name, []).append(Path(path))
    check_files(option, [path for paths in files.values() for path in paths])
    return files


def check_files(option: str, files: list[Path]) -> None:
    """UserError for one that is not there."""
    for file in files:
        if not file.is_file():
            problem = "a folder, not a file" if file.is_dir() else "no such file"
            raise UserError(problem, where=f"{option}: {file}", fix="give a .txt, .jsonl or .parquet file")


def settings(given: dict[str, Any], options: dict[str, str] | None = None) -> VocabRecipe:
    """The recipe of an extension that these fields ask for; None leaves one at its default.

    options: field -> option where their names differ. UserError naming the option.
    """
    given = {"extend": True, **{name: value for name, value in given.items() if value is not None}}
    try:
        return VocabRecipe.model_validate(given)
    except ValidationError as error:
        at, found, expected, _ = next(iter(problems_of(error, given, VocabRecipe)))
        name = str(at[0]) if at else "size"
        option = (options or {}).get(name, name.replace("_", "-"))
        raise UserError("; ".join(x for x in (found, expected) if x), where=f"--{option}") from None


def write_numbers(to: Path, value: Any) -> None:
    """Writes the file of a --json option. UserError if it cannot be."""
    try:
        with disk_errors(to):
            write_json(to, value)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=f"--json: {to}", fix="give another file") from None


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

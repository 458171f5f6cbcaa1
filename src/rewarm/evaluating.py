"""`rewarm evaluate MODEL --against BASE --text old=a.txt --text new=b.jsonl`: what changed between any two models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rewarm.atomic import disk_errors
from rewarm.console import Console
from rewarm.errors import UserError
from rewarm.evaluate.documents import TextRef, kind_of
from rewarm.evaluate.recipe import EvaluateRecipe
from rewarm.recipe import problems_of


def evaluate_command(
    model: str, against: str | None, texts: list[str], field: str, settings: dict[str, Any], out: Path | None, console: Console
) -> dict[str, Any]:
    """Scores, prints the table and what may be said of it; returns what results.json holds. Names that begin with `old` are old text."""
    refs: list[TextRef] = []
    for text in texts:
        name, eq, path = text.partition("=")
        if not eq or not name.strip() or not path:
            raise UserError(f"`{text}` is no text", where="--text", fix="write name=file, as old=english.txt")
        kind_of(Path(path))
        refs.append(TextRef(name, "old" if name.startswith("old") else "new", Path(path), None, field))
    given = {"samples": 0, **settings}
    try:
        cfg = EvaluateRecipe.model_validate(given)
    except ValidationError as error:
        at, found, expected, _ = next(iter(problems_of(error, given, EvaluateRecipe)))
        option = str(at[0]).replace("_", "-") if at else "window, --stride"
        raise UserError("; ".join(x for x in (found, expected) if x), where=f"--{option}") from None
    if out is not None:
        _check_folder(out)
    from rewarm.evaluate.report import lines_of, table_of
    from rewarm.evaluate.stage import evaluate_models

    results = evaluate_models(model, against, refs, cfg=cfg, out=out, reporter=console)
    console.out.print(table_of(results))
    for line in lines_of(results):
        if not line.startswith("warning: "):  # said while it was found
            console.say(line)
    return results


def _check_folder(out: Path) -> None:
    """UserError, before anything is scored, where the results cannot go or would replace somebody else's files."""
    if out.is_file():
        raise UserError("a file, not a folder", where=f"--out {out}", fix="give a folder for the results")
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in ("results.json", "scores")):
        raise UserError("this folder is not empty", where=f"--out {out}", fix="choose a new folder: nothing is overwritten")
    try:
        with disk_errors(out):
            out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=f"--out {out}", fix="choose another folder") from None

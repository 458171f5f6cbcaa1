"""`rewarm evaluate MODEL --against BASE --text old=a.txt --text new=b.jsonl`: what changed between any two models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rewarm.console import Console
from rewarm.errors import UserError
from rewarm.evaluate.recipe import EvaluateRecipe


def evaluate_command(
    model: str, against: str | None, texts: list[str], field: str, settings: dict[str, Any], out: Path | None, console: Console
) -> dict[str, Any]:
    """Scores, prints the table and what may be said of it; returns what results.json holds. Names that begin with `old` are old text."""
    from rewarm.evaluate.documents import TextRef
    from rewarm.evaluate.report import lines_of, table_of
    from rewarm.evaluate.stage import evaluate_models

    refs = []
    for text in texts:
        name, eq, path = text.partition("=")
        if not eq or not name or not path:
            raise UserError(f"`{text}` is no text", where="--text", fix="write name=file, as old=english.txt")
        refs.append(TextRef(name, "old" if name.startswith("old") else "new", Path(path), None, field))
    try:
        cfg = EvaluateRecipe.model_validate({"samples": 0, **settings})
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-") if first["loc"] else "window"
        raise UserError(str(first["msg"]).removeprefix("Value error, "), where=f"--{option}: {first.get('input')!r}") from None
    results = evaluate_models(model, against, refs, cfg=cfg, out=out, reporter=console)
    console.out.print(table_of(results))
    for line in lines_of(results):
        if not line.startswith("warning: "):  # said while it was found
            console.say(line)
    return results

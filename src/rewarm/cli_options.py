"""What several commands share: options, and folders as the command line gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[list[str] | None, typer.Argument(help="fields to change, as train.max_minutes=20")]
Out = Annotated[str | None, typer.Option("--out", metavar="DIR", help="the run's folder; default runs/<recipe's name>")]


def named_path(path: str | None, option: str = "--out") -> Path | None:
    """A file or folder to write to. An empty one is a variable that was not set, and would mean the folder we are in."""
    from rewarm.errors import UserError

    if path is not None and not path.strip():
        raise UserError("an empty name", where=option, fix="give a file or folder" if option != "--out" else "give a folder")
    return None if path is None else Path(path)


def run_until(recipe: Path, overrides: list[str] | None, out: str | None, last: str | None) -> None:
    """The stages of a recipe up to `last`; all of them for None."""
    from rewarm.console import Console
    from rewarm.recipe import load_recipe
    from rewarm.run import run_recipe

    folder = named_path(out)
    loaded = load_recipe(recipe, overrides or [])
    run_recipe(loaded, folder or Path("runs") / loaded.recipe.name, Console(), until=last)

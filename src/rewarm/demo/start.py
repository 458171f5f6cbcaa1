"""`rewarm demo`: fetch the files, then run the demo's recipe like any other."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from rewarm.console import Console
from rewarm.demo.assets import fetch
from rewarm.recipe import load_recipe
from rewarm.run import run_recipe

NOTES = (
    "the English that is measured comes from the same source as the English that was replayed (Wikipedia summaries);"
    " other English may have suffered more",
    "the base is a 4-bit file: training also heals what that rounding broke, which hides some forgetting",
)


def run_demo(overrides: list[str], out: Path, console: Console) -> dict[str, Any] | None:
    """Fetches the pinned files into the user's cache and runs the recipe on them in folder `out`; returns the summary."""
    with as_file(files("rewarm.demo") / "recipe.yaml") as recipe:
        load_recipe(recipe, overrides)  # a mistyped override is told before 150 MB are fetched
        assets = fetch(None, console)
        loaded = load_recipe(recipe, overrides, root=assets.folder)
    return run_recipe(loaded, out, console, notes=NOTES)

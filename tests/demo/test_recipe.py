"""The demo's recipe is a recipe like any other, and a newcomer can read it."""

from __future__ import annotations

from importlib.resources import files

from rewarm.demo.assets import pinned
from rewarm.recipe import load_recipe


def text() -> str:
    return (files("rewarm.demo") / "recipe.yaml").read_text(encoding="utf-8")


def test_the_recipe_is_valid_and_asks_for_files_that_the_assets_make(tmp_path):
    """A renamed field or file would otherwise show only at a user's first start."""
    path = tmp_path / "demo.yaml"
    path.write_text(text(), encoding="utf-8")
    recipe = load_recipe(path, root=tmp_path).recipe
    member = pinned()[0].members[0].rpartition("/")[2]
    assert recipe.name == "demo" and recipe.model.gguf == f"base/{member}"
    new, old = recipe.corpus.sources
    assert (new.role, new.txt_unit, new.languages, new.paths) == ("new", "article", ["vi"], ["vietnamese/*.txt"])
    assert (old.role, old.format, old.paths) == ("replay", "jsonl", ["english/wikipedia.jsonl"])
    licences = {asset.name: asset.licence for asset in pinned()}
    assert new.licence == licences["vietnamese"] and old.licence == licences["english"]
    assert recipe.corpus.heldout.max_mb == 0.04
    assert recipe.train.max_minutes == 5.6 and recipe.mixture.replay == 0.25 and recipe.vocab.size == 600


def test_every_setting_of_the_recipe_is_explained():
    """It is the first recipe that a newcomer sees: each line that holds a choice has a comment."""
    silent = [
        line
        for line in text().splitlines()
        if ":" in line.partition("#")[0]
        and "#" not in line
        and line.strip().partition(":")[2].strip()
        and line.split(":")[0].strip(" -") not in ("name", "paths", "format", "role", "languages", "licence", "min_mb", "max_mb")
    ]
    assert not silent

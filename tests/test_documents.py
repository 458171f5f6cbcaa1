"""README, guide and recipes stay true: what they show is read by the program that they describe."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rewarm.recipe import load_recipe

ROOT = Path(__file__).parent.parent


def yaml_blocks() -> list[tuple[str, str]]:
    found = []
    for page in ("README.md", "docs/guide.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        found += [(f"{page}#{i}", block) for i, block in enumerate(re.findall(r"```yaml\n(.*?)```", text, re.S))]
    return found


@pytest.mark.parametrize(("name", "block"), yaml_blocks(), ids=[name for name, _ in yaml_blocks()])
def test_every_recipe_in_the_documents_loads(name, block, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(block, encoding="utf-8")
    assert load_recipe(path).recipe.corpus.sources


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_recipe_loads(path):
    assert load_recipe(path).recipe.name == path.stem


def test_the_commands_that_the_readme_names_exist():
    """A renamed command would leave the README behind."""
    text = (ROOT / "README.md").read_text(encoding="utf-8") + (ROOT / "docs/guide.md").read_text(encoding="utf-8")
    fenced = "\n".join(text.split("```")[1::2])
    named = set(re.findall(r"`rewarm ([a-z]+)", text)) | set(re.findall(r"^rewarm ([a-z]+)", fenced, re.M))
    shown = subprocess.run([sys.executable, "-m", "rewarm.cli", "--help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"^  ([a-z]+) ", shown, re.M))
    assert named and named <= known, named - known


def test_the_make_targets_that_the_readme_names_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set(re.findall(r"make ([a-z-]+)", text))
    assert {"demo", "test"} <= named <= targets


def test_links_in_the_documents_lead_somewhere():
    wrong = []
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http") and not (page.parent / target).exists():
                wrong.append(f"{page.name}: {target}")
    assert not wrong


def test_the_reference_is_the_codes():
    """`make docs` was run after the last change of a field."""
    from rewarm.recipe import reference
    from rewarm.reference import page

    assert (ROOT / "docs/reference.md").read_text(encoding="utf-8") == page(reference())

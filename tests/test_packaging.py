"""What is handed out: the source archive holds the project, the wheel made from it the package with its data, and both nothing else."""

from __future__ import annotations

import email
import importlib.util
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent
DATA = {
    "py.typed", "demo/assets.json", "demo/recipe.yaml", "export/card.md.j2", "model/pretokenizers.json", "report/page.css",
    "report/page.html.j2", "report/page.js", "report/sentences.json",
}  # fmt: skip
"""Files of the package that are no Python and that a run or a type checker needs."""


def hatchling(kind: str, project: Path, out: Path) -> Path:
    """Builds the wheel or the sdist of a project folder as pip would, with the backend that is installed here: no network."""
    call = f"from hatchling.build import build_{kind}; print(build_{kind}({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", call], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> SimpleNamespace:
    """The sdist of the checkout, and the wheel of the unpacked sdist: as `make build` does."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, the build backend, is not installed; it comes with the extra `dev`")
    place = tmp_path_factory.mktemp("built")
    sdist = hatchling("sdist", ROOT, place)
    with tarfile.open(sdist) as archive:
        archive.extractall(place / "unpacked", filter="data")
        members = [m for m in archive.getmembers() if m.isfile()]
    (project,) = (place / "unpacked").iterdir()
    wheel = hatchling("wheel", project, place)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "installed")
        names = set(archive.namelist())
    sources = {m.name.partition("/")[2]: m.size for m in members}
    return SimpleNamespace(sdist=sources, wheel=names, installed=place / "installed")


def package_files() -> set[str]:
    return {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src/rewarm").rglob("*") if p.is_file() and p.suffix != ".pyc"}


def test_the_wheel_holds_the_package_and_nothing_else(built):
    """Tests, caches or somebody's notes in a wheel land in site-packages of every user."""
    mine = {name for name in built.wheel if not name.startswith("rewarm-")}
    assert mine == package_files()
    assert {Path(name).name for name in built.wheel - mine} == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "LICENSE"}


def test_the_wheel_holds_every_data_file(built):
    """A template that only the checkout has fails at the last step of somebody's run."""
    assert {f"rewarm/{name}" for name in DATA} <= built.wheel


def test_the_source_archive_holds_what_building_and_testing_need(built):
    top = {name.partition("/")[0] for name in built.sdist}
    assert {
        "src",
        "tests",
        "docs",
        "recipes",
        "benchmarks",
        "examples",
        "README.md",
        "LICENSE",
        "Makefile",
        "constraints.txt",
        "pyproject.toml",
    } <= top
    assert top <= {"src", "tests", "docs", "recipes", "benchmarks", "examples"} | {n for n in top if (ROOT / n).is_file()} | {"PKG-INFO"}
    assert not [name for name in built.sdist if "__pycache__" in name or name.endswith((".safetensors", ".gguf", ".parquet", ".whl"))]
    assert sum(built.sdist.values()) < 5_000_000


def test_the_metadata_says_what_the_project_says(built):
    """Readme, licence, Python and dependencies as pyproject.toml has them; a classifier that is not known would be refused by an index."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (folder,) = built.installed.glob("rewarm-*.dist-info")
    said = email.message_from_string((folder / "METADATA").read_text(encoding="utf-8"))
    assert said["Name"] == "rewarm" and said["Version"] == project["version"] and said["Requires-Python"] == project["requires-python"]
    assert said["License-Expression"] == "Apache-2.0" and said["License-File"] == "LICENSE"
    assert said["Description-Content-Type"] == "text/markdown" and said.get_payload().startswith("# rewarm")
    assert len([r for r in said.get_all("Requires-Dist") if "extra ==" not in r]) == len(project["dependencies"])
    trove = pytest.importorskip("trove_classifiers")
    assert set(said.get_all("Classifier")) <= trove.classifiers
    assert "rewarm = rewarm.cli:main" in (folder / "entry_points.txt").read_text()


def test_the_unpacked_wheel_works_without_the_checkout(built, tmp_path):
    """Templates, tables and the demo's recipe are read out of the package, wherever it lies."""
    call = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import rewarm, json\n"
        "from importlib.resources import files\n"
        "from pathlib import Path\n"
        "from rewarm.recipe import load_recipe\n"
        "from rewarm.report.words import sentences\n"
        "assert Path(rewarm.__file__).parent.parent == Path(sys.path[0])\n"
        "load_recipe(Path(str(files('rewarm.demo') / 'recipe.yaml'))); json.loads((files('rewarm.demo') / 'assets.json').read_text())\n"
        "assert len(sentences()) == 5\n"
        "from rewarm.cli import main; sys.argv = ['rewarm', *sys.argv[1:]]; main()"
    )
    for arguments, said in ((["--version"], "rewarm "), (["recipe", "train"], "train.tokens"), (["demo", "--help"], "--out")):
        done = subprocess.run(
            [sys.executable, "-c", call, str(built.installed), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 and said in done.stdout, done.stderr

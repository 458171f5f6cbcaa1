"""Which files a pattern means: found without surprise, sorted, each once, and an error where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from rewarm.corpus import plan as plan_module
from rewarm.corpus.plan import plan, source_files
from rewarm.corpus.recipe import CorpusRecipe, Source
from rewarm.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.jsonl.gz", "deep/c.parquet", "deep/er/d.md", "deep/notes.pdf", ".hidden/e.txt", "deep/.f.txt", "[odd].txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return tmp_path


def names(root: Path, *paths: str, **fields) -> list[tuple[str, str]]:
    return [(file.name, file.format) for file in source_files(Source(name="s", paths=list(paths), **fields), root, "corpus.sources[0]")]


def test_files_globs_and_folders_are_found_sorted_and_once(root):
    assert names(root, "b.txt") == [("b.txt", "txt")]
    assert names(root, "deep") == [("c.parquet", "parquet"), ("er/d.md", "txt")]
    assert names(root, "*.txt", "b.txt") == [("[odd].txt", "txt"), ("b.txt", "txt")]
    assert names(root, "**/*.md", "a.jsonl.gz") == [("a.jsonl.gz", "jsonl"), ("deep/er/d.md", "txt")]
    assert names(root, str(root / "deep" / "c.parquet")) == [("c.parquet", "parquet")]
    assert names(root, "[odd].txt") == [("[odd].txt", "txt")]


def test_the_name_inside_the_source_does_not_depend_on_where_the_folder_lies(root, tmp_path_factory):
    """Ids come from it: a corpus that moved must not become another one."""
    elsewhere = tmp_path_factory.mktemp("moved") / "data"
    root.rename(elsewhere)
    assert names(elsewhere, "b.txt", "deep/c.parquet") == names(elsewhere.parent, str(elsewhere / "b.txt"), "data/deep/c.parquet")


def test_a_pattern_without_a_file_is_an_error_with_the_nearest_name(root):
    with pytest.raises(UserError) as error:
        names(root, "a.jsonl.gx")
    assert "a.jsonl.gx" in error.value.what and error.value.fix == "did you mean `a.jsonl.gz`?"
    with pytest.raises(UserError, match=r"\*\.csv"):
        names(root, "b.txt", "*.csv")


def test_an_ending_that_says_nothing_asks_for_the_format(root):
    with pytest.raises(UserError, match="format"):
        names(root, "deep/notes.pdf")
    assert names(root, "deep/notes.pdf", format="txt") == [("notes.pdf", "txt")]


def test_small_files_share_a_task_and_sources_do_not(root, monkeypatch):
    """Ten thousand files of a kilobyte may not become ten thousand parts."""
    for i in range(10):
        (root / f"n{i}.txt").write_text("x" * 100)
    cfg = CorpusRecipe(sources=[Source(name="n", paths=["n*.txt"]), Source(name="b", paths=["b.txt"])])
    assert [(task.index, task.source, len(task.files)) for task in plan(cfg, root)] == [(0, 0, 10), (1, 1, 1)]
    monkeypatch.setattr(plan_module, "TASK_BYTES", 350)
    assert [len(task.files) for task in plan(cfg, root)] == [3, 3, 3, 1, 1]

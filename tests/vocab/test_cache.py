"""Counts, splits and merges that other settings use again: never stale, never half, never without bound."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm.vocab import cache as cache_module
from rewarm.vocab.base import open_base
from rewarm.vocab.cache import Cache, array_to_texts, key_of, texts_to_array
from rewarm.vocab.count import kept_counts
from rewarm.vocab.merge import Merges
from rewarm.vocab.problem import kept_merges, pose
from rewarm.vocab.recipe import Rules, VocabRecipe

from .conftest import english, vietnamese

TEXTS: dict[str, tuple[list[str], int | None]] = {
    "target:vi": (["\n".join(vietnamese(300))], 4), "held:vi": (["\n".join(vietnamese(30, seed=9))], None),
    "protected": (["\n".join(english(300))], 4),
}  # fmt: skip


def problem(base: Any, folder: Path, cfg: VocabRecipe | None = None) -> Any:
    return pose(kept_counts(TEXTS, base, "spec", folder), base, base.grammar(), ["vi"], cfg or VocabRecipe())


def never(*args: Any, **more: Any) -> Any:
    raise AssertionError("this was kept, and is made again")


def same(a: Merges, b: Merges) -> None:
    for name in ("left", "right", "id", "count", "saved"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.banned == b.banned and a.first_id == b.first_id


def test_a_second_run_takes_all_from_the_cache(bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting, splitting and merging take a minute; the same again, or a smaller size, must take none of it and give the same."""
    base = open_base(bases["smollm"])
    first = problem(base, tmp_path)
    large = first.solve(80, 0.01)
    for name in ("rewarm.vocab.count.count", "rewarm.vocab.count.encode_ids", "rewarm.vocab.problem.continue_merges"):
        monkeypatch.setattr(name, never)
    again = problem(base, tmp_path)
    same(again.solve(80, 0.01), large)
    small = again.solve(30, 0.01)
    monkeypatch.undo()
    same(small, first._solve(30, 0.01))


def test_whatever_decides_the_merges_is_part_of_their_name(bases: dict[str, Path], tmp_path: Path) -> None:
    """A kept result for other settings, or other text, would be a wrong one without a word."""
    base = open_base(bases["smollm"])
    keys = [
        problem(base, tmp_path, cfg).cache.key
        for cfg in (VocabRecipe(), VocabRecipe(name_guard=0.5), VocabRecipe(rules=Rules(max_chars=5)))
    ]
    other = {**TEXTS, "target:vi": (["\n".join(vietnamese(299))], 4)}
    keys.append(pose(kept_counts(other, base, "spec", tmp_path), base, base.grammar(), ["vi"], VocabRecipe()).cache.key)
    keys.append(pose(kept_counts(TEXTS, base, "another spec", tmp_path), base, base.grammar(), ["vi"], VocabRecipe()).cache.key)
    assert len(set(keys)) == 5
    problem(base, tmp_path).solve(40, 0.0)
    problem(base, tmp_path).solve(40, 1.0)
    assert len(list(tmp_path.glob("merges-*.npz"))) == 2, "one file a guard"


def test_a_larger_size_is_merged_anew_unless_no_pair_was_left(tmp_path: Path) -> None:
    """A kept run answers for what it holds, and for more only if it ended because nothing was left."""

    def merges(new: int) -> Merges:
        column = np.arange(new, dtype=np.int32)
        return Merges(
            column, column, column + 10, np.ones(new, np.int64), np.zeros((new, 1), np.int64), 10, {"guard": np.array([1, 3], np.int32)}
        )

    cache = Cache(tmp_path, "0" * 24)
    assert kept_merges(cache, 5, lambda: merges(5)).new == 5
    assert kept_merges(cache, 3, never).banned == {"guard": 1}
    assert kept_merges(cache, 9, lambda: merges(7)).new == 7
    assert kept_merges(cache, 12, never).new == 7


def test_a_broken_file_counts_as_none(tmp_path: Path) -> None:
    """Disks lie sometimes; what cannot be read is made again."""
    cache = Cache(tmp_path, "a" * 24)
    cache.write("counts", {"x": np.arange(1000)})
    file = next(tmp_path.iterdir())
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    assert cache.read("counts") is None and not file.exists()
    file.write_bytes(b"")
    assert cache.read("counts") is None


def test_the_longest_unused_files_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache without bound fills the disk; what was read last is what will be asked for next. Files of others stay."""
    monkeypatch.setattr(cache_module, "LIMIT_BYTES", 25_000)
    (tmp_path / "mine.npz").write_bytes(b"0" * 50_000)
    caches = [Cache(tmp_path, f"{i:024x}") for i in range(3)]
    for age, cache in enumerate(caches[:2]):
        cache.write("split", {"x": np.zeros(1000)})
        os.utime(cache._file("split"), ns=(age, age))
    assert caches[0].read("split") is not None
    os.utime(caches[1]._file("split"), ns=(5, 5))
    caches[2].write("split", {"x": np.zeros(1000)})
    caches[2].write("merges", {"x": np.zeros(500)})
    assert [c.read("split") is not None for c in caches] == [True, False, True] and (tmp_path / "mine.npz").exists()


def _hammer(folder: Path, seed: int) -> None:
    for i in range(60):
        cache = Cache(folder, key_of([str((i + seed) % 3)]))
        found = cache.read("split")
        assert found is None or (found["x"] == (i + seed) % 3).all()
        cache.write("split", {"x": np.full(2_000, (i + seed) % 3)})


def test_two_runs_at_once_never_see_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sizes of one text are often made side by side, in one run folder."""
    monkeypatch.setattr(cache_module, "LIMIT_BYTES", 40_000)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_hammer, args=(tmp_path, seed)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    """The cache saves time; a run must not need it."""
    (tmp_path / "file").write_text("")
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o500)
    cache = Cache(closed / "vocab-cache", "b" * 24)
    cache.write("counts", {"x": np.arange(3)})
    closed.chmod(0o700)
    assert cache.read("counts") is None or os.geteuid() == 0


@given(st.lists(st.text()))
def test_texts_survive_the_file(texts: list[str]) -> None:
    """Words may be empty, or line ends, which is why they are not kept as lines."""
    assert array_to_texts(texts_to_array(texts)) == texts

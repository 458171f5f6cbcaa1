"""How several languages share the new tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm.errors import UserError
from rewarm.vocab.balance import language_weights, parallel_lines
from rewarm.vocab.base import open_base
from rewarm.vocab.count import Counts, count
from rewarm.vocab.merge import Merges
from rewarm.vocab.problem import Problem, pose
from rewarm.vocab.recipe import VocabRecipe

from .conftest import english, vietnamese

GROUPS = ("target:a", "target:b")


def counts_of(*sizes: int) -> Counts:
    return Counts([], np.zeros((0, len(sizes)), np.int64), np.array(sizes), GROUPS[: len(sizes)])


def test_languages_count_alike_whatever_their_size() -> None:
    """Or the larger language takes all the tokens; whole numbers keep sums exact."""
    assert language_weights(counts_of(1_000, 4_000), GROUPS) == {"target:a": 1 << 20, "target:b": 1 << 18}
    assert language_weights(counts_of(1_000, 4_000), GROUPS, "proportional") == {"target:a": 1, "target:b": 1}
    assert language_weights(counts_of(1_000, 4_000), GROUPS, {"a": 1, "b": 8}) == {"target:a": 1 << 19, "target:b": 1 << 20}
    assert language_weights(counts_of(1_000), GROUPS[:1]) == {"target:a": 1}


def test_weights_for_other_languages_are_refused() -> None:
    """A misspelt language would silently count as nothing."""
    with pytest.raises(UserError, match="names a, c; the target languages are a, b"):
        language_weights(counts_of(1, 1), GROUPS, {"a": 1, "c": 1})


@given(a=st.integers(1, 10**9), b=st.integers(1, 10**9), factor=st.sampled_from([7, 0.5]))
def test_weights_times_seven_are_the_same_weights(a: int, b: int, factor: float) -> None:
    """Only their proportions mean anything."""
    once = language_weights(counts_of(a, b), GROUPS, {"a": 1, "b": 2})
    assert language_weights(counts_of(a, b), GROUPS, {"a": factor, "b": 2 * factor}) == once


KOREAN = ["안녕하세요, 만나서 반갑습니다! 한국어를 배우고 있습니다.", "저는 학생입니다. 오늘 날씨가 좋습니다."] * 40


def only_vietnamese(lines: int, seed: int = 1) -> list[str]:
    return [line.partition(";")[0] for line in vietnamese(lines, seed)]


def two_languages(base_folder: Path, cfg: VocabRecipe, parallel: dict[str, list[str]] | None = None) -> Problem:
    base = open_base(base_folder)
    texts: dict[str, tuple[list[str], int | None]] = {
        "target:ko": (KOREAN, None), "target:vi": (["\n".join(only_vietnamese(900))], None), "protected": (["\n".join(english(900))], None),
        "held:ko": ([], None), "held:vi": ([], None),
    }  # fmt: skip
    texts |= {f"parallel:{name}": (lines, None) for name, lines in (parallel or {}).items()}
    return pose(count(texts, base), base, base.grammar(), ["ko", "vi"], cfg)


def surfaces(problem: Problem, merges: Merges) -> list[bytes]:
    known = {i: s for i, s in enumerate(problem.grammar.surfaces) if s is not None}
    for left, right, result in zip(merges.left.tolist(), merges.right.tolist(), merges.id.tolist()):
        known[result] = known[left] + known[right]
    return [known[i] for i in merges.id.tolist()]


def korean_share(problem: Problem, merges: Merges) -> float:
    found = [s for s in surfaces(problem, merges) if 0xEA <= s.removeprefix(b" ")[0] <= 0xED]
    return len(found) / len(merges.id)


def test_weights_move_tokens_and_the_guards_bytes_move_with_them(bases: dict[str, Path]) -> None:
    """The guard compares rates: weights that scaled counts but not bytes would open or close it for all."""
    shares = []
    for balance in ("proportional", "equal", {"ko": 20.0, "vi": 1.0}):
        problem = two_languages(bases["gpt2"], VocabRecipe(balance=balance, name_guard="off"))
        merges = problem.solve(60, 0.0)
        shares.append(korean_share(problem, merges))
        assert problem.target_bytes == sum(problem.weights[n] * problem.languages[n][1] for n in ("ko", "vi"))
    assert shares == sorted(shares) and shares[0] < shares[2]


def test_parity_gives_the_language_with_the_longest_lines_the_next_token(bases: dict[str, Path]) -> None:
    """At the end no language pays much more for the same content, although one has thirty times the text."""
    parallel = {"ko": KOREAN[:20], "vi": only_vietnamese(20, seed=4)}
    cfg = VocabRecipe(balance="parity", parallel={"ko": "ko.txt", "vi": "vi.txt"}, name_guard="off")
    problem = two_languages(bases["gpt2"], cfg, parallel)
    assert problem.fair is not None
    fair = problem.fair("off")
    merges = problem.solve(80, "off")
    left = np.array(fair.tokens) - np.cumsum(merges.saved[:, list(fair.columns)], axis=0)
    before = np.concatenate([[fair.tokens], left[:-1]])
    for served, tokens in zip(surfaces(problem, merges), before):
        if b"\xed" in served or b"\xec" in served:
            assert tokens[0] >= tokens[1], "a Korean token while Korean lines were the shorter ones"
    assert abs(left[-1][0] - left[-1][1]) < 0.25 * abs(before[0][0] - before[0][1]) + 5


def test_parallel_files_must_have_the_same_lines(tmp_path: Path) -> None:
    """A file that is off by one line compares other contents, and nobody sees it in the result."""
    for name, text in {"a": "one\ntwo\n", "b": "eins\nzwei", "c": "un\n", "d": "\n\n"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    files = {name: tmp_path / f"{name}.txt" for name in "abcd"}
    assert parallel_lines({"a": files["a"], "b": files["b"]}, ["a", "b"]) == {"a": ["one", "two"], "b": ["eins", "zwei"]}
    for other in "cd":
        with pytest.raises(UserError, match="same number of lines"):
            parallel_lines({"a": files["a"], other: files[other]}, ["a", other])
    with pytest.raises(UserError, match="names a; the target languages are a, b"):
        parallel_lines({"a": files["a"]}, ["a", "b"])


def test_parity_and_parallel_text_go_together() -> None:
    """Either alone would do nothing."""
    for fields in ({"balance": "parity"}, {"parallel": {"vi": "a.txt"}}):
        with pytest.raises(ValueError, match="go together"):
            VocabRecipe.model_validate(fields)

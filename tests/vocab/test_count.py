"""Counting words: what counts, how often, and that nothing but the text decides it."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rewarm.vocab.base import open_base
from rewarm.vocab.count import Counts, count, split_words, tokens_of, words_to_merge
from rewarm.vocab.letters import to_letters

from .conftest import english, vietnamese


def same(a: Counts, b: Counts) -> None:
    assert a.words == b.words and a.groups == b.groups
    np.testing.assert_array_equal(a.weight, b.weight)
    np.testing.assert_array_equal(a.bytes, b.bytes)


@pytest.mark.parametrize("kind", ["gpt2", "qwen", "llama3"])
def test_counts_are_those_of_the_pre_tokenizer(kind: str, bases: dict[str, Path]) -> None:
    """Against the library's own cut of each line, one by one."""
    base = open_base(bases[kind])
    lines = [*english(50), *vietnamese(50)]
    expected: Counter[str] = Counter()
    for line in lines:
        expected.update(w for w, _ in base.tokenizer.pre_tokenizer.pre_tokenize_str(line + "\n"))
    counts = count({"a": ([line + "\n" for line in lines], None)}, base)
    assert dict(zip(counts.words, counts.weight[:, 0].tolist())) == expected
    assert counts.bytes.tolist() == [sum(len(line.encode()) + 1 for line in lines)]


def test_order_and_workers_change_nothing(bases: dict[str, Path]) -> None:
    """Files are listed by the disk's whim, and machines have any number of cores."""
    pieces = ["\n".join(vietnamese(20, seed=i)) for i in range(12)]
    shuffled = random.Random(1).sample(pieces, len(pieces))
    base = open_base(bases["smollm"])
    one = count({"a": (pieces, 4), "b": (english(40), 4)}, base, workers=1)
    same(one, count({"a": (shuffled, 4), "b": (english(40)[::-1], 4)}, base, workers=2))


def test_a_repeated_line_counts_up_to_the_cap(bases: dict[str, Path]) -> None:
    """A footer on every page must not become the vocabulary; its bytes shrink alike, or rates would be wrong."""
    base = open_base(bases["gpt2"])
    counts = count({"capped": (["chân trang\n"] * 9 + ["khác\n"], 4), "all": (["chân trang\n"] * 9 + ["khác\n"], None)}, base)
    row = counts.weight[counts.words.index(to_letters("chân".encode()))]
    assert row.tolist() == [4, 9] and counts.bytes_of("capped") == 4 * len("chân trang\n".encode()) + len("khác\n".encode())


def test_long_runs_and_missing_bytes_are_cut(bases: dict[str, Path]) -> None:
    """Chinese has no spaces, so one word would be a whole sentence; a missing byte ends the old tokens on both sides."""
    base = open_base(bases["smollm"])
    run = "字" * 150
    words = count({"a": ([run], None)}, base).words
    assert set(words) == {to_letters(("字" * 64).encode()), to_letters(("字" * 22).encode())}
    counts = count({"a": (["bác가bác"], None)}, base)
    letters = "".join(counts.words)
    assert "ê" not in letters and to_letters("bác".encode()) in counts.words


def test_words_of_one_token_need_no_merging_but_count_as_tokens(bases: dict[str, Path]) -> None:
    """The curve divides bytes by all tokens, whether they can still be merged or not."""
    base = open_base(bases["gpt2"])
    counts = count({"t": (["the trường the\n"], None)}, base)
    split = split_words(counts, base)
    assert tokens_of(counts, split).tolist() == [len(base.tokenizer.encode("the trường the\n").ids)]
    words = words_to_merge(counts, split, {"t": 3}, None, ["t"])
    assert (words.lengths > 1).all() and words.target.tolist() == [3] * len(words.lengths) and not words.protected.any()

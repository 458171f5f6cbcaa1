"""Words that the user insists on become one token each, by merges behind all others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rewarm.errors import UserError
from rewarm.vocab.base import open_base
from rewarm.vocab.merge import Grammar
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.rules import Guard
from rewarm.vocab.stage import extend
from rewarm.vocab.words import chain_words

from .test_merge import words_of

LETTERS = [b"a", b"b", b"c", b"d"]
NO_GUARD = Guard(None, 1, 0)


def test_the_commonest_pair_of_a_word_is_joined_first() -> None:
    """The tokens on the way should be those that other words can use: `bc` is common, `ab` is not."""
    words = words_of([[0, 1, 2, 3], [1, 2, 1], [0, 1]], [1, 50, 9], [0, 0, 0])
    merges = chain_words(words, Grammar(LETTERS, 4, {}), [[0, 1, 2, 3]], lambda s: None, NO_GUARD)
    assert list(zip(merges.left.tolist(), merges.right.tolist())) == [(1, 2), (0, 4), (5, 3)] and merges.count.tolist() == [51, 1, 1]
    assert merges.saved.sum() == 53, "1 + 50 for `bc`, then 1 and 1"


def test_a_pair_that_may_not_be_joined_is_gone_round() -> None:
    """Letters of several bytes: the end of one and the beginning of the next may not be joined, however common that pair is."""
    words = words_of([[0, 1, 2], [0, 1]], [1, 50], [0, 0])
    merges = chain_words(words, Grammar(LETTERS, 4, {}), [[0, 1, 2]], lambda s: "character" if s == b"ab" else None, NO_GUARD)
    assert list(zip(merges.left.tolist(), merges.right.tolist())) == [(1, 2), (0, 4)] and not merges.banned


def test_a_word_shares_its_parts_with_the_others() -> None:
    """Each token is a row of the model: none may be made twice."""
    words = words_of([[0, 1]], [1], [0])
    merges = chain_words(words, Grammar(LETTERS, 4, {}), [[0, 1, 0], [0, 1, 0, 1]], lambda s: None, NO_GUARD)
    assert list(zip(merges.left.tolist(), merges.right.tolist())) == [(0, 1), (4, 0), (4, 4)]


def test_rules_and_guard_hold_for_words_too() -> None:
    """Old text comes first; the error says which pair it is, and how often old text has it."""
    words = words_of([[0, 1]], [5], [70])
    with pytest.raises(UserError, match=r"`ab` cannot become one token: `a` with `b` \(guard; 70 times"):
        chain_words(words, Grammar(LETTERS, 4, {}), [[0, 1]], lambda s: None, Guard.of(0.01, 100, 100))


@pytest.mark.usefixtures("quick_gate")
@pytest.mark.parametrize("kind", ["smollm", "llama3", "llama2"])
def test_words_come_on_top_of_the_size_and_are_one_token(kind: str, bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path) -> None:
    """In running text, behind a blank, where a user expects them; in every kind of BPE, through the whole gate."""
    cfg = VocabRecipe(size=40, words=("nghiệttrường", "thăn"))
    facts = extend(bases[kind], {"vi": [texts["target"]]}, [texts["protect"]], tmp_path / "o", cfg)
    plain = extend(bases[kind], {"vi": [texts["target"]]}, [texts["protect"]], tmp_path / "p", VocabRecipe(size=40))
    new = open_base(tmp_path / "o" / "model")
    for text in ("nghiệttrường", "chờ thăn"):
        ids = new.tokenizer.encode(text, add_special_tokens=False).ids
        assert new.surfaces[ids[-1]] is not None and new.surfaces[ids[-1]].decode().strip() == text.split()[-1]  # type: ignore[union-attr]
    assert facts["new_tokens"] > plain["new_tokens"] == 40 and "2 words" in facts["size_reasons"][-1]
    first, other = (json.loads((tmp_path / name / "extension.json").read_text()) for name in "op")
    assert [t["surface"] for t in first["tokens"][:40]] == [t["surface"] for t in other["tokens"][:40]]


def test_a_word_over_a_cut_of_the_pre_tokenizer_is_refused_with_its_parts(
    bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path
) -> None:
    """No merge crosses such a cut, so the token could never come out."""
    cfg = VocabRecipe(size=10, words=("初めまして！",))
    with pytest.raises(UserError, match="`初めまして`, `！`"):
        extend(bases["gpt2"], {"vi": [texts["target"]]}, [texts["protect"]], tmp_path / "o", cfg)

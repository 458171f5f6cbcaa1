"""Pruning: the fast loop is the plain one, and what is left is what was promised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm.vocab.base import load_tokenizer
from rewarm.vocab.prune import Coder, Kept, Meter, Pool, Texts, prune, prune_reference
from rewarm.vocab.rules import Guard
from rewarm.vocab.unigram import UnigramBase, best_cut, reachable_scores
from rewarm.vocab.unigram import coder_of as unigram_coder
from rewarm.vocab.wordpiece import WordPieceBase
from rewarm.vocab.wordpiece import coder_of as wordpiece_coder

EMPTY: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
}


def unigram_base() -> UnigramBase:
    """a, b and three longer pieces; c is unknown."""
    vocab = [["<unk>", 0.0], ["a", -2.0], ["b", -2.5], ["ab", -3.5], ["ba", -4.0], ["bb", -9.0]]
    spec = {**EMPTY, "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}}
    return UnigramBase(Path(), spec, load_tokenizer(spec, ""), None, None)


def wordpiece_base() -> WordPieceBase:
    """a and b at both places, two longer pieces; c is unknown inside words."""
    vocab = {p: i for i, p in enumerate(["[UNK]", "a", "b", "c", "##a", "##b", "ab", "##bca"])}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab}
    spec = {**EMPTY, "model": model}
    return WordPieceBase(Path(), spec, load_tokenizer(spec, ""), None, None)


CODERS = {"unigram": unigram_coder(unigram_base()), "wordpiece": wordpiece_coder(wordpiece_base())}
WORDS = st.text("abc", min_size=1, max_size=8)


@st.composite
def problems(draw: st.DrawFn, kind: str) -> tuple[Texts, Pool, int, Guard]:
    words = draw(st.lists(WORDS, min_size=1, max_size=12, unique=True))
    numbers = st.lists(st.integers(0, 30), min_size=len(words), max_size=len(words))
    texts = Texts(words, np.array(draw(numbers), dtype=np.int64), np.array(draw(numbers), dtype=np.int64))
    if kind == "unigram":
        have = {p for p, _ in unigram_base().listed}
        pieces = draw(st.lists(st.text("abc", min_size=1, max_size=4).filter(lambda p: p not in have), max_size=7, unique=True))
        scores = np.array([draw(st.floats(-9, -2, width=32)) for _ in pieces], dtype=np.float64)
    else:
        have = set(wordpiece_base().vocab)
        some = st.tuples(st.sampled_from(["", "##"]), st.text("abc", min_size=1, max_size=4)).map("".join)
        pieces, scores = draw(st.lists(some.filter(lambda p: p not in have), max_size=7, unique=True)), None
    fixed = np.array([len(p.removeprefix("##")) == 1 for p in pieces], dtype=bool)
    guard = Guard.of(draw(st.sampled_from(["off", 0.0, 0.3, 1.0])), 100, 100)
    return texts, Pool(tuple(pieces), fixed, scores, -9.0, -2.0), draw(st.integers(0, 6)), guard


def check(kind: str, data: st.DataObject) -> None:
    texts, pool, k, guard = data.draw(problems(kind))
    coder = CODERS[kind]
    expected, found = (f(texts, pool, k, guard, 2, coder) for f in (prune_reference, prune))
    assert found.pool.pieces == expected.pool.pieces and found.refused == expected.refused and found.tokens == expected.tokens
    assert np.array_equal(found.uses, expected.uses)
    if pool.scores is not None:
        assert np.array_equal(found.pool.scores, expected.pool.scores)
    promised(found, texts, k, guard, coder)


def promised(kept: Kept, texts: Texts, k: int, guard: Guard, coder: Coder) -> None:
    assert len(kept.uses) <= k
    encode = coder.make(kept.pool.pieces, kept.pool.scores)
    for i, piece in enumerate(kept.pool.pieces):
        each = [ids.count(coder.first_id + i) for ids in encode(texts.words)]
        use, old = int(each @ texts.target), int(each @ texts.protected)
        assert use == kept.uses[i], piece
        assert kept.pool.fixed[i] or (use >= 2 and not guard.refuses(use, old))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_unigram_pruning_is_the_plain_loop(data: st.DataObject) -> None:
    """Words that hold no candidate are encoded once, whatever the scores do; that may not be seen in the result."""
    check("unigram", data)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_wordpiece_pruning_is_the_plain_loop(data: st.DataObject) -> None:
    """Here a word may be unknown with some candidates and known with fewer: such words must stay in view."""
    check("wordpiece", data)


def test_a_word_that_candidates_made_unknown_stays_in_view() -> None:
    """c, ##bca write `cbca`; with the candidate cb it is unknown, as nothing continues with c, until cb is dropped."""
    texts = Texts(["cbca", "cba"], np.array([5, 5]), np.array([0, 50]))
    kept = prune(texts, Pool(("cb",), np.array([False]), None), 5, Guard.of(0.0, 10, 10), 2, CODERS["wordpiece"])
    assert kept.pool.pieces == () and kept.tokens == 5 * 2 + 5 * 3


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_costs_count_lost_words_by_their_characters(kind: str) -> None:
    """[UNK] is one token and no text: a tokenizer that writes the word is no worse for it."""
    texts = Texts(["aacaa", "ab", "bbbb"], np.array([1, 1, 1]), np.array([0, 0, 0]))
    if kind == "wordpiece":
        pool = Pool(("##c", "##bbb"), np.array([True, False]), None)
    else:
        pool = Pool(("c", "bbb"), np.array([True, False]), np.array([-3.0, -3.0]), -9.0, -2.0)
    meter = Meter(texts, pool, CODERS[kind])
    before, lost = meter.costs(None)
    after, now = meter.costs(pool)
    assert before.tolist() == [5, 1, 4] and lost.tolist() == [1, 0, 0]
    assert after.tolist() == [5, 1, 2] and now.tolist() == [0, 0, 0]


@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(st.text("ab", min_size=2, max_size=5), max_size=6, unique=True), data=st.data())
def test_scores_are_raised_until_each_piece_comes_out_alone(pieces: list[str], data: st.DataObject) -> None:
    """A row that no text reaches is never trained. Where no score within the bounds does it, the piece is left out."""
    base = unigram_base()
    pieces = [p for p in pieces if p not in base.vocab]
    scores = np.array([data.draw(st.floats(-9, -2, width=32)) for _ in pieces], dtype=np.float64)
    found = reachable_scores(base, Pool(tuple(pieces), np.zeros(len(pieces), dtype=bool), scores, -9.0, -2.0))
    old = dict(base.listed)
    encode = unigram_coder(base).make(list(found), np.array(list(found.values())))
    for i, piece in enumerate(found):
        assert encode([piece])[0] == [base.next_id + i] and found[piece] <= -2.0
        shorter = {p: s for p, s in found.items() if len(p) < len(piece)}
        assert found[piece] > best_cut(piece, old, shorter)
    for piece in set(pieces) - set(found):
        assert best_cut(piece, old, {p: s for p, s in found.items() if len(p) < len(piece)}) >= -2.0


def test_the_toy_bases_are_what_they_say() -> None:
    """The tests above rest on them."""
    assert json.loads(unigram_base().bare.to_str())["model"]["type"] == "Unigram"
    assert [wordpiece_base().bare.encode(w).tokens for w in ("abb", "aca", "abca")] == [["ab", "##b"], ["[UNK]"], ["[UNK]"]]

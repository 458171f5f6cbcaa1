"""Continued merging: the fast loop against the definition, and what both promise."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm.vocab.merge import Fair, Grammar, Merges, continue_merges, continue_merges_reference
from rewarm.vocab.pairs import Words, pair_key
from rewarm.vocab.rules import Guard

LETTERS = [b"a", b"b", b"c", b"d", b"ab", b"abc", b"bb"]


def words_of(texts: list[list[int]], target: list[int], protected: list[int], watch: list[list[int]] | None = None) -> Words:
    return Words(
        np.array([t for text in texts for t in text], dtype=np.int32),
        np.array([len(t) for t in texts], dtype=np.int32),
        np.array(target, dtype=np.int64),
        np.array(protected, dtype=np.int64),
        np.array(watch if watch is not None else [[n] for n in target], dtype=np.int64).reshape(len(texts), -1),
    )


def same(a: Merges, b: Merges) -> None:
    for name in ("left", "right", "id", "count", "saved"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.banned == b.banned


@st.composite
def problems(draw: st.DrawFn) -> tuple[Words, Grammar]:
    """Words over a handful of symbols: long runs, many ties; some joins are tokens already, some pairs are old merges."""
    symbols = draw(st.integers(2, len(LETTERS)))
    texts = draw(st.lists(st.lists(st.integers(0, symbols - 1), min_size=2, max_size=12), min_size=1, max_size=12))
    counts = st.lists(st.integers(0, 6), min_size=len(texts), max_size=len(texts))
    known = {}
    if draw(st.booleans()):
        for rank, (a, b) in enumerate([(0, 1), (4, 2)]):
            if LETTERS[a] + LETTERS[b] in LETTERS[:symbols]:
                known[pair_key(a, b)] = rank
    holes = draw(st.integers(0, 3))
    return words_of(texts, draw(counts), draw(counts)), Grammar(LETTERS[:symbols], symbols + holes, known, draw(st.booleans()))


def refuse_some(surface: bytes) -> str | None:
    return "long" if len(surface) > 7 else "ends in bd" if surface.endswith(b"bd") else None


@settings(max_examples=400, deadline=None)
@given(problem=problems(), k=st.integers(0, 12), tau=st.sampled_from([None, "0", "0.3", "1"]), unit=st.sampled_from([1, 2, 9]))
def test_the_fast_loop_makes_the_merges_of_the_plain_one(problem: tuple[Words, Grammar], k: int, tau: str | None, unit: int) -> None:
    """All the speed rests on bounds that are repaired lazily; only equality with a loop that counts anew each time shows they are right."""
    words, grammar = problem
    guard = Guard(None if tau is None else Fraction(tau), int(words.target.sum()) + 1, int(words.protected.sum()) + 1)
    same(
        continue_merges(words, grammar, k, refuse_some, guard, unit),
        continue_merges_reference(words, grammar, k, refuse_some, guard, unit),
    )


@settings(max_examples=300, deadline=None)
@given(problem=problems(), k=st.integers(0, 12), data=st.data(), tau=st.sampled_from([None, "0", "0.3"]))
def test_fair_merging_makes_the_merges_of_the_plain_loop(
    problem: tuple[Words, Grammar], k: int, data: st.DataObject, tau: str | None
) -> None:
    """Each language has a queue of its own over one row of words; what one language's merge does to the others' counts must not be lost."""
    words, grammar = problem
    n, languages = len(words.lengths), data.draw(st.integers(1, 3))
    table = st.lists(st.lists(st.integers(0, 5), min_size=languages, max_size=languages), min_size=n, max_size=n)
    counts, parallel = (np.array(data.draw(table), dtype=np.int64) for _ in range(2))
    words = Words(words.flat, words.lengths, counts.sum(axis=1), words.protected, np.concatenate([words.watch, parallel], axis=1))
    guards = [Guard(None if tau is None else Fraction(tau), int(c.sum()) + 1, int(words.protected.sum()) + 1) for c in counts.T]
    columns = tuple(range(1, 1 + languages))
    fair = Fair(counts, tuple(guards), columns, tuple((words.lengths @ parallel).tolist()))
    args = (words, grammar, k, refuse_some, guards[0], 2, fair)
    same(continue_merges(*args), continue_merges_reference(*args))


def test_the_longest_language_is_served_until_it_is_no_longer_the_longest() -> None:
    """Languages with little text get what they need, however rare their pairs are beside the others'."""
    words = words_of([[0, 1, 0, 1], [2, 3, 2]], [1000, 3], [0, 0], [[5, 0], [0, 9]])
    guards = (Guard(None, 1, 0),) * 2
    fair = Fair(np.array([[1000, 0], [0, 3]]), guards, (0, 1), (20, 27))
    merges = continue_merges(words, Grammar(LETTERS[:4], 4, {}), 3, lambda s: None, guards[0], 2, fair)
    assert merges.left.tolist() == [2, 0, 4] and merges.right.tolist() == [3, 1, 2], "27 > 20, then 20 > 18, then 18 > 10"


@settings(max_examples=300, deadline=None)
@given(problem=problems(), k=st.integers(0, 8))
def test_a_small_extension_is_the_beginning_of_a_large_one(problem: tuple[Words, Grammar], k: int) -> None:
    """The size is chosen after the merging, by cutting: that must be the same as asking for the size."""
    words, grammar = problem
    guard = Guard(None, 1, 1)
    whole = continue_merges(words, grammar, 2 * k, refuse_some, guard)
    part = continue_merges(words, grammar, k, refuse_some, guard)
    cut = whole.cut(k)
    same(cut, part)
    assert part.new <= k


@settings(max_examples=100, deadline=None)
@given(problem=problems(), tau=st.sampled_from(["0", "0.2", "0.01"]))
def test_a_weight_times_seven_changes_nothing(problem: tuple[Words, Grammar], tau: str) -> None:
    """Weighted counts must be guarded by equally weighted bytes; a guard that forgets it lets everything pass."""
    words, grammar = problem
    heavy = Words(words.flat, words.lengths, words.target * 7, words.protected, words.watch)
    a = continue_merges(words, grammar, 9, refuse_some, Guard(Fraction(tau), 1000, 777), 2)
    b = continue_merges(heavy, grammar, 9, refuse_some, Guard(Fraction(tau), 7000, 777), 14)
    np.testing.assert_array_equal(np.stack([a.left, a.right, a.id]), np.stack([b.left, b.right, b.id]))
    np.testing.assert_array_equal(a.count * 7, b.count)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("every_split", [False, True])
def test_the_loops_agree_on_many_words_and_many_floors(seed: int, every_split: bool) -> None:
    """Counts over five orders of magnitude make the queue refill again and again; bans and old tokens come up late."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(0, len(LETTERS), rng.integers(2, 9)).tolist() for _ in range(250)]
    counts = (10 ** rng.uniform(0, 5, 250)).astype(int)
    words = words_of(texts, counts.tolist(), rng.integers(0, 50, 250).tolist())
    grammar = Grammar(LETTERS, len(LETTERS), {pair_key(4, 2): 0}, every_split)
    guard = Guard(Fraction("0.05"), int(counts.sum()), 10_000)
    same(continue_merges(words, grammar, 120, refuse_some, guard), continue_merges_reference(words, grammar, 120, refuse_some, guard))


def test_runs_of_one_token_join_in_twos() -> None:
    """aaaaa is (aa)(aa)a: the encoder takes the first two, so counting must not take the middle ones."""
    words = words_of([[0] * 5], [3], [0])
    merges = continue_merges(words, Grammar([b"a"], 1, {}), 1, lambda s: None, Guard(None, 1, 0))
    assert merges.saved.tolist() == [[6]] and merges.count.tolist() == [12]


def test_runs_join_from_the_front_whatever_made_their_tokens() -> None:
    """Old and newly joined places of one token are listed apart; a run over both still counts from its beginning."""
    words = words_of([[0, 0, 1, 1]], [9], [0])
    merges = continue_merges(words, Grammar([b"b", b"bb"], 2, {}), 1, lambda s: None, Guard(None, 1, 0))
    assert list(zip(merges.left, merges.right, merges.id)) == [(0, 0, 1), (1, 1, 2)]
    assert merges.saved.tolist() == [[9], [9]] and merges.count.tolist() == [9, 18]


def test_a_pair_whose_whole_is_a_token_already_needs_no_new_id() -> None:
    """Bases hold tokens their merges reach on one way only; a second way is a merge, not a second row for the same text."""
    surfaces = [b"a", b"b", b"c", b"bc", b"abc"]
    words = words_of([[0, 3], [0, 1]], [9, 5], [0, 0])
    merges = continue_merges(words, Grammar(surfaces, 5, {}), 1, lambda s: None, Guard(None, 1, 0))
    assert list(zip(merges.left, merges.right, merges.id)) == [(0, 3, 4), (0, 1, 5)]


def test_an_old_merge_is_never_appended_again() -> None:
    """A new way to an old token can put it beside a token that an old merge joins it with; the library lets the later rank win, so a second
    entry would move an old merge to the end."""
    surfaces = [b"a", b"b", b"c", b"d", b"bc", b"abc", b"abcd"]
    words = words_of([[0, 4, 3]], [9], [0])
    merges = continue_merges(words, Grammar(surfaces, 7, {pair_key(5, 3): 0}), 5, lambda s: None, Guard(None, 1, 0))
    assert list(zip(merges.left, merges.right, merges.id)) == [(0, 4, 5)]
    assert merges.saved.tolist() == [[18]]


def test_a_new_merge_is_not_appended_twice_either() -> None:
    """The same with a merge made in this run: once known, its pair is joined wherever it turns up."""
    surfaces = [b"a", b"ab", b"c", b"d", b"abc"]
    words = words_of([[4, 3], [1, 2, 3]], [9, 5], [0, 0])
    merges = continue_merges(words, Grammar(surfaces, 5, {}), 9, lambda s: None, Guard(None, 1, 0))
    assert list(zip(merges.left, merges.right, merges.id)) == [(4, 3, 5), (1, 2, 4)]
    assert merges.saved.sum() == 9 + 5 + 5


def test_with_every_split_a_piece_is_joined_whichever_pair_it_came_from() -> None:
    """SentencePiece knows no merges, only pieces: once (ab, c) has made abc, (a, bc) is abc too, at the same rank and without asking."""
    surfaces = [b"a", b"b", b"c", b"ab", b"bc"]
    words = words_of([[3, 2], [0, 4]], [9, 5], [0, 0])
    for every, saved in ((False, 9), (True, 14)):
        merges = continue_merges(words, Grammar(surfaces, 5, {}, every), 1, lambda s: None, Guard(None, 1, 0))
        assert list(zip(merges.left, merges.right, merges.id)) == [(3, 2, 5)] and merges.saved.tolist() == [[saved]]


def test_with_every_split_the_guard_counts_every_pair_of_a_piece() -> None:
    """Protected text that would be joined by a piece's other pair is changed just as well."""
    surfaces = [b"a", b"b", b"c", b"ab", b"bc"]
    words = words_of([[3, 2], [0, 4]], [90, 0], [0, 40])
    for every, new in ((False, 1), (True, 0)):
        guard = Guard(Fraction("0.1"), 1_000, 1_000)
        assert continue_merges(words, Grammar(surfaces, 5, {}, every), 1, lambda s: None, guard).new == new


def test_with_every_split_a_new_token_completes_an_old_piece() -> None:
    """x|yz|w: once yzw is a piece, x and yzw stand side by side, and SentencePiece joins them to the old piece xyzw at once."""
    surfaces = [b"x", b"yz", b"w", b"xyzw"]
    words = words_of([[0, 1, 2], [1, 2]], [1, 9], [0, 0])
    merges = continue_merges(words, Grammar(surfaces, 4, {}, True), 1, lambda s: None, Guard(None, 1, 0))
    assert list(zip(merges.left, merges.right, merges.id)) == [(1, 2, 4)] and merges.saved.tolist() == [[11]]


def test_the_guard_compares_rates_not_counts() -> None:
    """Ten times the protected text must not make a pair ten times as forbidden."""
    assert Guard(Fraction("0.01"), 1_000, 1_000).refuses(100, 2)
    assert not Guard(Fraction("0.01"), 1_000, 10_000).refuses(100, 10)
    assert Guard(Fraction(0), 1_000, 1_000).refuses(10**9, 1)
    assert not Guard.of("off", 1_000, 1_000).refuses(1, 10**9)

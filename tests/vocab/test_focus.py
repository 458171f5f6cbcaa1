"""Likeness by company: each fast step against its plain definition, and the whole against both put together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from rewarm.vocab import focus
from rewarm.vocab.focus import (
    Sparse,
    commonest,
    count_near,
    count_near_reference,
    focus_mix,
    sparsemax,
    sparsemax_reference,
    unit_vectors,
    unit_vectors_reference,
)

ROWS = 14
LINES = st.lists(st.lists(st.integers(0, ROWS - 1), max_size=20), max_size=8)


def arrays(lines: list[list[int]]) -> list[np.ndarray]:
    return [np.array(line, dtype=np.int64) for line in lines]


def dense(sparse: Sparse, rows: int, width: int) -> np.ndarray:
    return sparse.dense(np.arange(rows), width)


@given(LINES, st.integers(1, ROWS))
def test_near_pairs_are_counted_as_the_plain_loop_counts_them(lines: list[list[int]], most: int) -> None:
    """Runs of one token, lines shorter than the window, tokens that are no context: all as in the definition."""
    some = arrays(lines)
    contexts = commonest(np.bincount(np.concatenate([*some, [0]]).astype(np.int64), minlength=ROWS), most)
    fast = dense(count_near(some, contexts, ROWS), ROWS, len(contexts))
    np.testing.assert_array_equal(fast, count_near_reference(some, contexts, ROWS))


def test_counting_in_blocks_of_lines_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory follows the block, the sums must not."""
    rng = np.random.default_rng(1)
    some = [rng.integers(0, ROWS, rng.integers(1, 30)) for _ in range(50)]
    contexts = np.arange(6)
    whole = count_near(some, contexts, ROWS)
    monkeypatch.setattr(focus, "_LINES_AT_ONCE", 3)
    pieces = count_near(some, contexts, ROWS)
    for a, b in ((whole.columns, pieces.columns), (whole.values, pieces.values), (whole.ptr, pieces.ptr)):
        np.testing.assert_array_equal(a, b)


@given(LINES)
def test_vectors_are_positive_mutual_information_of_length_one(lines: list[list[int]]) -> None:
    """Against the formula, cell by cell in float64."""
    some, contexts = arrays(lines), np.arange(5)
    counts = count_near(some, contexts, ROWS)
    fast = dense(unit_vectors(counts, 5, ROWS), ROWS, 5)
    np.testing.assert_allclose(fast, unit_vectors_reference(dense(counts, ROWS, 5).astype(np.int64)), atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0.001, 3))
def test_sparsemax_is_the_nearest_point_of_the_simplex(seed: int, width: int, spread: float) -> None:
    """Weights sum to 1, and no other point of the simplex is nearer; looking at the largest entries first gives the same."""
    rng = np.random.default_rng(seed)
    z = (rng.normal(size=(3, width)) * spread).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(focus, "_LIKELY_SUPPORT", 4)
        found = sparsemax(z)
    for row, (indices, weights) in zip(z.astype(np.float64), found):
        exact = sparsemax_reference(row)
        full = np.zeros(width)
        full[indices] = weights
        np.testing.assert_allclose(full, exact, atol=1e-9)
        assert abs(exact.sum() - 1) < 1e-9 and (exact >= 0).all()
        for other in rng.dirichlet(np.ones(width), 20):
            assert ((exact - row) ** 2).sum() <= ((other - row) ** 2).sum() + 1e-9


def words_tokenizer(words: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


WORDS = ["unk", "cat", "car", "eats", "drinks", "milk", "fish", "drives", "road", "fuel", "rare", "meo", "xe", "never"]
"""The last three are new: `meo` is used as `cat` is, `xe` as `car`, and `never` not at all."""


def story() -> list[str]:
    rng = np.random.default_rng(0)
    out = []
    for _ in range(400):
        animal, car = WORDS[1 + 10 * int(rng.integers(0, 2))], [WORDS[2], WORDS[12]][int(rng.integers(0, 2))]
        out.append(f"{animal} {WORDS[3 + int(rng.integers(0, 2))]} {WORDS[5 + int(rng.integers(0, 2))]}")
        out.append(f"{car} drives {WORDS[8 + int(rng.integers(0, 2))]}")
    return [*out, "rare cat"]


def test_a_new_word_starts_as_the_old_words_that_are_used_like_it() -> None:
    """The heaviest part is the word it could stand for; words seen under ten times and words never seen take no part."""
    found = focus_mix(words_tokenizer(WORDS), {"xx": story()}, 11, 3, {0})
    heaviest = [ids[int(np.argmax(weights))] if ids else None for ids, weights in found]
    assert heaviest == [1, 2, None]
    assert all(10 not in ids and 0 not in ids for ids, _ in found)
    assert all(abs(sum(weights) - 1) < 1e-6 for ids, weights in found if ids)


def test_the_whole_is_its_parts_put_together_without_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding, counting, vectors, cosines and sparsemax by their definitions on whole matrices in float64."""
    monkeypatch.setattr(focus, "_NEW_AT_ONCE", 1)
    monkeypatch.setattr(focus, "_OLD_AT_ONCE", 3)
    tokenizer, lines, rows = words_tokenizer(WORDS), story(), len(WORDS)
    found = focus_mix(tokenizer, {"a": lines[:500], "b": lines[500:]}, 11, 3, {0})
    ids = [np.array(tokenizer.encode(line).ids) for line in lines]
    seen = np.bincount(np.concatenate(ids), minlength=rows)
    seen[0] = 0
    vectors = unit_vectors_reference(count_near_reference(ids, commonest(seen, focus.CONTEXTS), rows))
    old = np.array([i for i in range(1, 11) if seen[i] >= focus.LEAST_SEEN and vectors[i].any()])
    for k, (parts, weights) in enumerate(found):
        expected = sparsemax_reference(vectors[old] @ vectors[11 + k]) if vectors[11 + k].any() else np.zeros(len(old))
        assert parts == old[expected > 0].tolist() or np.allclose(expected[expected > 0], 0, atol=1e-6)
        np.testing.assert_allclose(weights, expected[expected > 0], atol=1e-5)


def test_without_text_nothing_is_found() -> None:
    """Then the caller's other start is taken, and nothing divides by zero."""
    assert focus_mix(words_tokenizer(WORDS), {"xx": []}, 11, 3, {0}) == [([], [])] * 3
    assert focus_mix(words_tokenizer(WORDS), {"xx": ["meo", "", "xe"]}, 11, 3, {0}) == [([], [])] * 3

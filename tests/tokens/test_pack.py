"""Rows: nothing lost, nothing twice, nothing longer than a row, and the fast packer is the definition."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm.tokens.pack import RowTable, best_fit, best_fit_reference, cut, longest_first, pack
from rewarm.tokens.scramble import key_of

lengths_of_documents = st.lists(st.integers(1, 90), min_size=0, max_size=60).map(lambda x: np.array(x, dtype=np.int64))


def labels_of(table: RowTable) -> np.ndarray:
    """Positions in the shard that are a label somewhere: every token of a piece but its first."""
    parts = [np.arange(s + 1, s + n) for s, n in zip(table.starts.tolist(), table.lens.tolist())]
    return np.concatenate([np.zeros(0, np.int64), *parts])


@settings(max_examples=200, deadline=None)
@given(lengths=lengths_of_documents, row=st.integers(2, 40), seed=st.integers(0, 99), packing=st.sampled_from(["best_fit", "chop"]))
def test_every_token_but_a_documents_first_is_a_label_exactly_once(lengths, row, seed, packing):
    """The promise of an epoch, whatever the lengths: cut documents lose no label at the cut, and none counts twice."""
    table = pack(lengths, row, key_of(seed), packing)
    first = np.cumsum(lengths) - lengths
    expected = np.setdiff1d(np.arange(int(lengths.sum())), first)
    assert np.array_equal(np.sort(labels_of(table)), expected)


@settings(max_examples=200, deadline=None)
@given(lengths=lengths_of_documents, row=st.integers(2, 40), seed=st.integers(0, 99), packing=st.sampled_from(["best_fit", "chop"]))
def test_no_row_is_too_long_and_no_piece_crosses_a_document(lengths, row, seed, packing):
    table = pack(lengths, row, key_of(seed), packing)
    assert table.rows == 0 or (table.tokens_of_rows().max() <= row and table.tokens_of_rows().min() >= 2)
    ends = np.cumsum(lengths)
    assert np.array_equal(
        np.searchsorted(ends, table.starts, side="right"), np.searchsorted(ends, table.starts + table.lens - 1, side="right")
    )


@settings(max_examples=200, deadline=None)
@given(lengths=lengths_of_documents, row=st.integers(2, 64), seed=st.integers(0, 99))
def test_the_fast_packer_is_the_definition(lengths, row, seed):
    """Bits and stacks find the row that looking at every row finds."""
    _, lens = cut(lengths, row)
    lens = lens[longest_first(lens, key_of(seed))]
    assert np.array_equal(best_fit(lens, row), best_fit_reference(lens, row))


@given(lengths=lengths_of_documents, row=st.integers(2, 40))
def test_best_fit_cuts_only_documents_longer_than_a_row(lengths, row):
    starts, _ = cut(lengths, row)
    document = np.searchsorted(np.cumsum(lengths), starts, side="right")
    pieces = np.bincount(document, minlength=len(lengths))
    assert (pieces[(lengths >= 2) & (lengths <= row)] == 1).all()
    assert (pieces[lengths > row] >= 2).all()


def test_a_document_that_is_cut_overlaps_by_one_token():
    """The last token of a piece is predicted there and is the context of the first label of the next."""
    starts, lens = cut(np.array([10]), 4)
    assert list(zip(starts.tolist(), lens.tolist())) == [(0, 4), (3, 4), (6, 4)]
    starts, lens = cut(np.array([11]), 4)
    assert list(zip(starts.tolist(), lens.tolist())) == [(0, 4), (3, 4), (6, 4), (9, 2)]


def test_rows_are_nearly_full():
    """Long-tailed lengths, as text has them: above 99 %, with concatenation's advantage gone."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(5, 1, 20_000)).astype(np.int64) + 2
    table = pack(lengths, 512, key_of(0))
    assert table.tokens_of_rows().sum() / (table.rows * 512) > 0.99
    chopped = pack(lengths, 512, key_of(0), "chop")
    assert len(chopped.lens) > 1.1 * len(table.lens), "chop cuts documents that best_fit leaves whole"


def test_the_seed_decides_who_shares_a_row():
    lengths = np.full(200, 10, dtype=np.int64)
    one, again, other = (pack(lengths, 64, key_of(seed)) for seed in (0, 0, 1))
    assert np.array_equal(one.starts, again.starts) and not np.array_equal(one.starts, other.starts)
    assert not np.array_equal(pack(lengths, 64, key_of(0), "chop").starts, pack(lengths, 64, key_of(1), "chop").starts)


@pytest.mark.parametrize("packing", ["best_fit", "chop"])
def test_documents_that_predict_nothing_and_no_documents_make_no_rows(packing):
    """A document of its end token alone has no label; an empty shard is no error here."""
    for lengths in (np.zeros(0, np.int64), np.ones(5, np.int64)):
        table = pack(lengths, 16, key_of(0), packing)
        assert table.rows == 0 and len(table.starts) == 0


def test_rows_are_part_of_the_format():
    """Rows made by another version or machine are the same bytes."""
    table = pack(np.arange(2, 400, dtype=np.int64), 128, key_of("pack", 0, "law/00000"))
    digest = hashlib.sha256(table.starts.astype("<i8").tobytes() + table.row_ptr.astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "f67e7f8975ad9fc3"

"""From the loader's rows to micro-batches: nothing lost, shapes constant, bounds right in both forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm.model.batch import IGNORE, count_labels, form_for, micro_batches, one_row, pick_rows


def test_micro_batches_hold_the_rows_in_order_and_the_last_is_filled_up(row_batch):
    """A shorter last micro-batch would be a new shape, and a compiled model would compile again."""
    rows = row_batch([[3, 5], [8], [2, 6], [1, 7], [4, 4]])
    made = micro_batches(rows, 2, "cpu", "rows")
    assert [batch.ids.shape for batch in made] == [(2, 8)] * 3
    for name in ("ids", "labels", "position_ids", "source", "bytes"):
        whole = torch.cat([getattr(batch, name) for batch in made])
        np.testing.assert_array_equal(whole[:5], getattr(rows, name))
    assert (made[2].labels[1] == IGNORE).all() and made[2].bytes[1] == 0
    assert {batch.n_valid for batch in made} == {count_labels(rows)}


def test_filled_rows_weigh_nothing(row_batch):
    rows = row_batch([[8], [8], [8]])
    rows.weight = np.ones((3, 8), dtype=np.float32)
    last = micro_batches(rows, 2, "cpu", "rows")[1]
    assert last.weight is not None and last.weight[0].sum() == 8 and last.weight[1].sum() == 0


def test_positions_of_a_filled_row_stay_inside_the_row(row_batch):
    """A learned position table is as long as a row may be; a filled row must not look behind its end."""
    last = micro_batches(row_batch([[8], [8], [8]]), 2, "cpu", "rows")[1]
    assert last.position_ids[1].tolist() == list(range(8))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=6), min_size=1, max_size=5), st.integers(1, 4))
def test_bounds_cut_at_every_piece_and_at_every_row(rows, micro_rows):
    """A piece that ends with its row and the next row's first piece have the same number: the row's end cuts too."""
    width = 30
    cuts = [[*row, width - sum(row)] for row in rows]
    piece = np.stack([np.repeat(np.arange(len(row)), row) for row in cuts]).astype(np.int32)
    zero = np.zeros((len(rows), width), dtype=np.int64)
    batch = type("Rows", (), {"ids": zero, "position_ids": zero, "labels": zero, "piece": piece, "weight": None})
    batch.source = batch.bytes = np.zeros(len(rows), dtype=np.int64)
    numbers = [made.lengths for made in micro_batches(batch, micro_rows, "cpu", "rows")]
    tensors = micro_batches(batch, micro_rows, "cpu", "flat", row_pieces=7)
    for lengths, made in zip(numbers, tensors, strict=True):
        count, longest = made.meta.tolist()
        assert made.cu.shape == (7 * micro_rows + 1,) and made.cu.dtype == torch.int32
        assert tuple(made.cu[: count + 1].diff().tolist()) == lengths and max(lengths) == longest
        assert (made.cu[count:] == width * micro_rows).all()
    filled = -len(rows) % micro_rows
    assert sum(numbers, ()) == tuple(length for row in cuts for length in row) + (width,) * filled


def test_more_pieces_than_announced_are_our_mistake(row_batch):
    with pytest.raises(AssertionError, match="3 pieces where at most 2"):
        micro_batches(row_batch([[3, 3, 2]]), 1, "cpu", "flat", row_pieces=2)


def test_flat_lays_rows_end_to_end(row_batch):
    rows = row_batch([[3, 5], [8]])
    flat = micro_batches(rows, 2, "cpu", "flat")[0]
    assert flat.ids.shape == flat.labels.shape == flat.position_ids.shape == (1, 16)
    assert flat.meta.device.type == "cpu" and flat.rows == 2
    np.testing.assert_array_equal(flat.by_row(flat.ids), rows.ids)


def test_the_labels_of_all_ranks_divide_the_loss(row_batch):
    rows = row_batch([[8], [8]])
    assert micro_batches(rows, 1, "cpu", "rows", n_valid=99)[0].n_valid == 99


def test_one_row_shifts_labels_inside_each_document():
    made = one_row([[5, 6, 7], [8, 9]])
    assert made.labels.tolist() == [[6, 7, IGNORE, 9, IGNORE]]
    assert made.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert made.lengths == (3, 2)


def test_bounds_are_tensors_where_numbers_would_compile_again():
    assert form_for(torch.device("cpu"), compiled=False) == "rows"
    assert form_for(torch.device("cpu"), compiled=True) == form_for(torch.device("cuda"), compiled=False) == "flat"


@pytest.mark.parametrize("form", ["rows", "flat"])
def test_picked_rows_are_the_micro_batch_of_these_rows(row_batch, form):
    """A teacher reads the replay rows of a micro-batch; it must see their pieces, not those of their neighbours."""
    cuts = [[3, 5], [8], [2, 6], [1, 7], [4, 4]]
    whole = micro_batches(row_batch(cuts), 5, "cpu", form, row_pieces=2)[0]
    picked = pick_rows(whole, [1, 3, 2])
    assert picked.lengths == (8, 1, 7, 2, 6) and picked.n_valid == whole.n_valid
    for name in ("ids", "labels", "position_ids"):
        assert torch.equal(picked.by_row(getattr(picked, name)), whole.by_row(getattr(whole, name))[[1, 3, 2]])
    assert torch.equal(picked.bytes, whole.bytes[[1, 3, 2]])
    if form == "flat":
        assert picked.cu.tolist() == [0, 8, 9, 16, 18, 24] and picked.meta.tolist() == [5, 8]

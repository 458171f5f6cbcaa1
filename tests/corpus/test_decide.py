"""Which copy stays and what is held out: decided by content and order, never by arrival."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rewarm.corpus.decide import Columns, choose_heldout, copies, repeated_ids
from rewarm.corpus.recipe import Heldout


def columns(
    hashes: list[int], sources: list[int] | None = None, orders: list[int] | None = None, sizes: list[int] | None = None
) -> Columns:
    n = len(hashes)
    return Columns(
        hi=np.array(hashes, np.uint64),
        lo=np.array([h * 7919 % 2**61 for h in hashes], np.uint64),
        order=np.array(orders if orders is not None else range(n), np.uint64),
        bytes=np.array(sizes if sizes is not None else [1000] * n, np.int64),
        source=np.array(sources if sources is not None else [0] * n, np.int32),
        part=np.zeros(n, np.int32),
        row=np.arange(n),
    )


def test_of_equal_documents_the_earliest_source_keeps_it_then_the_smallest_order():
    """The recipe's order is the user's word for which source matters more."""
    found = copies(columns([5, 5, 5, 9, 5], sources=[1, 0, 0, 1, 1], orders=[0, 8, 3, 1, 2]))
    assert found.tolist() == [2, 2, -1, -1, 2]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 2**60)), max_size=30, unique_by=lambda t: t[2]), st.randoms()
)
def test_survivors_do_not_depend_on_the_order_of_reading(rows, random):
    """Files may be split or listed otherwise on another machine."""

    def kept(shuffled):
        cols = columns([r[0] for r in shuffled], [r[1] for r in shuffled], [r[2] for r in shuffled])
        return {shuffled[i] for i in np.flatnonzero(copies(cols) < 0)}

    other = list(rows)
    random.shuffle(other)
    assert kept(rows) == kept(other) and len(kept(rows)) == len({r[0] for r in rows})


def held(cols: Columns, seed: int = 0, **cfg) -> set[int]:
    return {int(cols.hi[i]) for i in choose_heldout(cols, np.arange(len(cols.hi)), Heldout(**cfg), seed)}


def test_held_out_text_follows_share_bounds_and_the_tenth():
    """Each of the four limits decides somewhere: none is without effect."""
    cols = columns(list(range(1, 1001)))
    assert len(held(cols, share=0.02, min_mb=0, max_mb=1)) == 19
    assert len(held(cols, share=0, min_mb=0.05, max_mb=1)) == 48
    assert len(held(cols, share=0.05, min_mb=0, max_mb=0.03)) == 29
    assert len(held(cols, share=0.5, min_mb=0, max_mb=10)) == 100
    assert held(cols, share=0.5, min_mb=0, max_mb=0) == set()


def test_the_seed_holds_out_other_documents():
    cols = columns(list(range(1, 1001)))
    one, two = held(cols, seed=0, min_mb=0.05), held(cols, seed=1, min_mb=0.05)
    assert len(one & two) < 20


def test_one_more_document_changes_the_choice_by_one_at_most():
    """A corpus that grows keeps its held-out text, so figures before and after can be compared."""
    before = held(columns(list(range(1, 1001))), share=0, min_mb=0.05, max_mb=0.05)
    after = held(columns([*range(1, 1001), 5555]), share=0, min_mb=0.05, max_mb=0.05)
    assert len(before - after) <= 1


def test_the_choice_looks_at_content_and_not_at_names_or_places():
    hashes = list(range(1, 201))
    turned = hashes[::-1]
    assert held(columns(hashes, orders=turned), min_mb=0.01) == held(columns(turned), min_mb=0.01)


def test_a_document_that_does_not_fit_is_passed_over():
    sizes = [1_000_000 if i % 2 else 1000 for i in range(200)]
    chosen = choose_heldout(columns(list(range(1, 201)), sizes=sizes), np.arange(200), Heldout(min_mb=0.01, max_mb=0.01), 0)
    assert len(chosen) == 10 and all(i % 2 == 0 for i in chosen)


def test_ids_used_twice_are_counted_in_their_source_only():
    cols = columns([1, 2, 3, 4], sources=[0, 0, 1, 1], orders=[7, 7, 7, 8])
    assert [repeated_ids(cols, 0), repeated_ids(cols, 1)] == [1, 0]

"""The guard of words that no protected text holds."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm.vocab import names
from rewarm.vocab.names import guarded, old_runs, old_runs_reference

WORDS = st.lists(st.text("abĐđ \n漢", min_size=0, max_size=9), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(words=WORDS, data=st.data(), limit=st.sampled_from([0.0002, 0.01, 0.3]), block=st.sampled_from([1, 3, 100_000]))
def test_the_fast_count_finds_the_runs_of_the_plain_one(words: list[str], data: st.DataObject, limit: float, block: int) -> None:
    """Runs are packed into numbers, words taken in blocks, only the protected letters known: none of it may change the answer."""
    counts = st.lists(st.integers(0, 50), min_size=len(words), max_size=len(words))
    targets = [(data.draw(counts), size) for size in data.draw(st.lists(st.integers(1_000, 9_973), min_size=1, max_size=3))]
    protected = (data.draw(counts), 7_919)
    expected = old_runs_reference(words, targets, protected, limit)
    held, names._AT_ONCE = names._AT_ONCE, block
    try:
        found = old_runs(words, [(np.array(c), n) for c, n in targets], (np.array(protected[0]), protected[1]), limit)
    finally:
        names._AT_ONCE = held
    assert found == expected


def test_a_name_whose_letters_are_at_home_in_old_text_is_refused() -> None:
    """No protected text holds every name; its letters tell that English would have it. `trong` stays, although `strong` is English."""
    words = [" Gauss", " trong", " because", " gauge", " strong", " bang"]
    target = np.array([90, 90_000, 0, 0, 0, 40])
    protected = np.array([0, 0, 800, 3, 500, 0])
    runs = old_runs(words, [(target, 46_000_000)], (protected, 20_000_000), 0.0002)
    refuse = guarded(lambda surface: None, lambda: runs)
    assert refuse(b" Gauss") == "names" and refuse(b"auss") is None, "` gau` stands in ` gauge`, `auss` nowhere"
    assert refuse(b" trong") is None and refuse(b" bang") is None

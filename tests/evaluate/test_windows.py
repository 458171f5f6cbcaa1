"""Windows in characters: every token once, with context, the same text for any tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm.errors import UserError
from rewarm.evaluate.windows import cut_windows, fit, longest

steps = st.lists(st.integers(0, 9), min_size=0, max_size=120)


def starts_of(gaps: list[int]) -> np.ndarray:
    return np.cumsum([0, *gaps]).astype(np.int64) if gaps else np.asarray([0])


@given(gaps=steps, window=st.integers(2, 60), data=st.data())
def test_each_token_is_scored_exactly_once(gaps, window, data):
    """A token scored twice or never is an error in a sum that nobody would see."""
    stride = data.draw(st.integers(1, window))
    starts = starts_of(gaps)
    windows = cut_windows(starts, window, stride)
    assert [t for w in windows for t in range(w.score, w.end)] == list(range(len(starts)))


@given(gaps=steps, window=st.integers(2, 60), data=st.data())
def test_windows_are_those_of_the_definition(gaps, window, data):
    """Window 0 scores [0, W); window k scores [W + (k-1) S, W + k S) and sees the text from k S on."""
    stride = data.draw(st.integers(1, window))
    starts = starts_of(gaps)
    expected = []
    for k in range(0, 2 + int(starts[-1]) // stride):
        low, high = (0, window) if k == 0 else (window + (k - 1) * stride, window + k * stride)
        scored = [t for t, c in enumerate(starts) if low <= c < high]
        seen = [t for t, c in enumerate(starts) if k * stride <= c < high]
        if scored:
            expected.append((seen[0], scored[0], scored[-1] + 1))
    assert [(w.begin, w.score, w.end) for w in cut_windows(starts, window, stride)] == expected


@given(gaps=st.lists(st.integers(1, 1), min_size=30, max_size=120), joins=st.lists(st.booleans(), min_size=120, max_size=120))
def test_two_tokenizers_score_the_same_text_with_the_same_context(gaps, joins):
    """Equal context is why windows are cut in characters: a token of one tokenizer lies in the window of the character it begins at."""
    fine = starts_of(gaps)
    coarse = np.asarray([c for c, join in zip(fine, joins) if c == 0 or join])
    whole = cut_windows(fine, 20, 10)
    for w in cut_windows(coarse, 20, 10):
        k = 0 if coarse[w.score] < 20 else int(coarse[w.score] - 20) // 10 + 1
        twin = next(v for v in whole if v.begin == np.searchsorted(fine, k * 10) and v.end >= w.score)
        assert fine[twin.begin] <= coarse[w.begin] and fine[twin.end - 1] >= coarse[w.end - 1]


def test_an_empty_document_has_no_window():
    assert cut_windows(np.asarray([], dtype=np.int64), 10, 5) == []


def test_the_window_shrinks_until_the_worse_tokenizer_fits():
    """The smaller model decides for both, and the stride follows; without a limit nothing changes."""
    dense, sparse = np.repeat(np.arange(1000), 3), np.arange(0, 1000, 4)
    assert fit(400, 200, [([dense], None), ([sparse], 400)], 1) == (400, 200)
    window, stride = fit(400, 200, [([sparse], 400), ([dense], 400)], 1)
    assert (window, stride) == (100, 50)
    assert longest([dense], 100, 50) + 1 <= 400 < longest([dense], 200, 100) + 1
    with pytest.raises(UserError, match="positions"):
        fit(400, 200, [([dense], 3)], 1)

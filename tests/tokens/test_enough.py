"""Too little text is an error before training, with the numbers and the settings, or a repetition that is said."""

from __future__ import annotations

import pytest

from rewarm.errors import UserError
from rewarm.tokens.enough import check_enough


def sources(tokens: int, rows: int) -> list[dict]:
    return [
        {"name": "tiny", "role": "new", "tokens": tokens, "rows": rows},
        {"name": "old", "role": "replay", "tokens": 10**6, "rows": 300},
    ]


def test_less_than_one_row_is_an_error_with_all_three_numbers():
    """The public case: 268 tokens, rows of 4,096, steps of 524,288."""
    with pytest.raises(UserError) as error:
        check_enough(sources(268, 1), 128, 4096, 1)
    for part in ("268", "4,096", "524,288", "tokens.row_tokens", "train.step_tokens", "train.tokens"):
        assert part in str(error.value)


def test_less_than_one_row_is_an_error_with_a_small_step_too():
    """One step of one padded row would look like training."""
    with pytest.raises(UserError, match="not enough text"):
        check_enough(sources(268, 1), 1, 4096, 1)


def test_less_than_one_step_is_an_error():
    with pytest.raises(UserError, match="not enough text"):
        check_enough(sources(50_000, 13), 128, 4096, 1)


def test_what_the_fix_proposes_is_enough():
    assert check_enough(sources(268, 5), 4, 64, 1) is None


def test_a_length_set_by_hand_repeats_and_says_how_often():
    said = check_enough(sources(268, 1), 128, 4096, 10, length_is_set=True)
    assert said is not None and "268 tokens" in said and "10 steps read it 1,280.0 times" in said


def test_replay_needs_less_new_text_a_step():
    assert check_enough(sources(16 * 64, 16), 20, 64, 3, replay=0.25) is None


def test_enough_is_silent():
    assert check_enough(sources(10**6, 245), 16, 4096, 15) is None


def test_no_new_text_and_no_step_are_errors_whatever_was_set():
    with pytest.raises(UserError, match="no new text"):
        check_enough(sources(0, 0), 1, 64, 10, length_is_set=True)
    with pytest.raises(UserError, match="not enough text"):
        check_enough(sources(10**6, 245), 16, 4096, 0, length_is_set=True)

"""What is said about a change."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rewarm.errors import UserError
from rewarm.evaluate.bits import DocScores
from rewarm.evaluate.forgetting import Delta, compare, verdict


def scores(bits: np.ndarray, sizes: np.ndarray, ids: tuple[str, ...] | None = None) -> DocScores:
    n = len(sizes)
    ids = ids or tuple(f"d{i}" for i in range(n))
    return DocScores(ids, bits * sizes * math.log(2), sizes, sizes, sizes // 4, np.zeros(n, bool), np.full(n, -1))


def pair(n: int = 40, change: float = 0.05, seed: int = 0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(200, 3000, n)
    before = rng.uniform(0.8, 1.2, n)
    return scores(before, sizes), scores(before + change + 0.01 * rng.normal(size=n), sizes)


def test_a_model_against_itself_has_not_changed():
    """F = 0, [0, 0], kept: the one case where the truth is known."""
    base, _ = pair()
    delta = compare(base, base)
    assert (delta.delta, delta.low, delta.high) == (0.0, 0.0, 0.0)
    assert verdict(delta, 0.0).word == "kept" and verdict(delta).word == "no change seen"


def test_the_difference_is_paired():
    """Documents differ far more from each other than models do: unpaired, a change of 0.05 would drown."""
    base, model = pair()
    delta = compare(base, model)
    expected = (model.nll.sum() - base.nll.sum()) / math.log(2) / base.bytes.sum()
    assert delta.delta == pytest.approx(expected) == pytest.approx(delta.after - delta.before)
    assert delta.low < 0.05 < delta.high and delta.high - delta.low < 0.01
    assert delta.bootstrap[1] - delta.bootstrap[0] == pytest.approx(delta.high - delta.low, rel=0.2)


def test_the_order_of_documents_changes_nothing():
    base, model = pair()
    order = np.random.default_rng(1).permutation(40)

    def mixed(one: DocScores) -> DocScores:
        names = tuple(one.ids[i] for i in order)
        return DocScores(names, one.nll[order], one.bytes[order], one.chars[order], one.tokens[order], one.lossy, one.bad_at)

    a, b = compare(base, model), compare(mixed(base), mixed(model))
    assert (a.delta, a.low, a.high) == pytest.approx((b.delta, b.low, b.high), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "role", "word"),
    [(0.05, "old", "forgot"), (-0.05, "old", "gained"), (-0.05, "new", "learned"), (0.05, "new", "worse"), (0.0, "old", "no change seen")],
)
def test_without_a_budget_the_sign_decides_where_zero_is_outside(change: float, role: str, word: str):
    said = verdict(compare(*pair(change=change)), role=role)
    assert said.word == word and said.sentence.startswith(word)


def test_a_budget_is_kept_over_or_undecided():
    """kept only if the whole interval is within, over only if all of it is above; else what would decide it."""

    def at(low: float, high: float) -> Delta:
        middle = (low + high) / 2
        return Delta(1.0, 1.0 + middle, middle, low, high, 50, 100_000, (high - low) / 2)

    assert verdict(at(-0.01, 0.02), 0.02).word == "kept"
    assert verdict(at(0.021, 0.03), 0.02).word == "over"
    said = verdict(at(0.0, 0.03), 0.02)
    assert said.word == "undecided" and "900 KB" in said.sentence  # 100 KB * (0.015 / 0.005)^2


def test_few_documents_decide_nothing_and_say_how_many_would():
    said = verdict(compare(*pair(n=9)))
    assert said.word == "undecided" and "9 documents are too few" in said.sentence and "at least 10" in said.sentence


def test_a_document_that_makes_the_interval_is_named():
    """One outlier among many: a reader should look at it before anything else."""
    base, model = pair(n=60)
    model.nll[17] += 5_000
    delta = compare(base, model)
    assert delta.carriers == ("d17",)
    assert compare(*pair(n=60)).carriers == ()


def test_other_documents_are_not_compared():
    base, _ = pair()
    other = scores(np.ones(40), base.bytes, tuple(f"x{i}" for i in range(40)))
    with pytest.raises(UserError, match="same documents"):
        compare(base, other)

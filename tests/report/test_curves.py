"""Curves: bounded points, honest means, gaps that stay gaps."""

from __future__ import annotations

import pytest

from rewarm.report.curves import probes, smooth, training_lines


def metrics(steps):
    return [{"step": s, "tokens": 10 * s, "loss": float(s), "sources": {"a": {"bits_per_byte": s / 2}}} for s in range(1, steps + 1)]


def test_a_short_run_keeps_every_line():
    lines = training_lines(metrics(7), most=10)
    assert [(line.step, line.loss, line.sources["a"], line.steps) for line in lines] == [(s, s, s / 2, 1) for s in range(1, 8)]


@pytest.mark.parametrize("steps", [11, 20, 21, 99, 1000, 1001])
def test_a_long_run_is_averaged_and_no_step_is_lost(steps):
    """The weighted mean of what is drawn is the mean of what was measured, whatever the number of steps."""
    lines = training_lines(iter(metrics(steps)), most=10)
    assert 5 <= len(lines) <= 10 and lines[-1].step == steps
    assert sum(line.steps for line in lines) == steps
    assert sum(line.loss * line.steps for line in lines) / steps == pytest.approx((steps + 1) / 2)
    assert [line.step for line in lines] == sorted(line.step for line in lines)


def test_means_leave_out_what_was_not_measured():
    """A source that a step did not read must not pull its curve to zero."""
    lines = [
        {"step": 1, "tokens": 1, "loss": 2.0, "sources": {"a": {"bits_per_byte": 1.0}}},
        {"step": 2, "tokens": 2, "loss": None, "sources": {"b": {"bits_per_byte": 3.0}}},
        {"step": 3, "tokens": 3, "loss": 4.0, "sources": {}},
    ]
    first, second = training_lines(lines, most=2)
    assert (first.loss, first.sources) == (2.0, {"a": 1.0, "b": 3.0})
    assert (second.loss, second.sources) == (4.0, {})


def test_a_probe_that_was_done_again_counts_once():
    """events.jsonl only grows: after a restart the same step may be looked at again."""
    events = [
        {"event": "probe", "step": 0, "texts": {"a": {"bits_per_byte": 9.0}}},
        {"event": "checkpoint", "step": 5},
        {"event": "probe", "step": 0, "texts": {"a": {"bits_per_byte": 2.0}}},
    ]
    assert [(look.step, look.texts["a"]["bits_per_byte"]) for look in probes(events)] == [(0, 2.0)]


def test_many_probes_are_thinned_and_the_last_stays():
    events = [{"event": "probe", "step": s, "texts": {}} for s in range(1000)]
    steps = [look.step for look in probes(events, most=100)]
    assert len(steps) <= 101 and steps[0] == 0 and steps[-1] == 999


def test_a_running_mean_keeps_gaps_and_constants():
    assert smooth([3.0, 3.0, None, 3.0], 2) == [3.0, 3.0, None, 3.0]
    assert smooth([0.0, 3.0, 6.0], 1) == [1.5, 3.0, 4.5]

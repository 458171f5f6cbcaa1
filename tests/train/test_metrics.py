"""The numbers on screen, against hands and a fake clock."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rewarm.model.load import load_base
from rewarm.train.metrics import Meter, arithmetic_of, flops_per_step, matmul_rate, peak_memory_gib


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_tokens_per_second_divides_by_the_steps_seconds_only():
    """Not by the clock's start, and without probes and saves: 1,000 tokens in 2 s, then 1,000 in 2 s and a probe of 5 s, are 500 a
    second."""
    clock = Clock()
    meter = Meter(clock)
    clock.now += 50
    meter.start()
    clock.now += 2
    meter.step_done(1000, 4e9)
    assert meter.interval(10, 1e10, None) == {"tokens_per_second": 500.0, "mfu_ceiling": 0.2, "eta_seconds": 20.0}
    meter.restart_interval()
    with meter.apart():
        clock.now += 5
    clock.now += 2
    meter.step_done(1000, 4e9)
    assert meter.interval(9, 1e10, 4e9)["tokens_per_second"] == 500.0
    assert meter.interval(9, 1e10, 4e9)["mfu"] == 0.5
    assert meter.seconds == 4 and meter.last_seconds == 2


def test_operations_of_a_step_are_those_of_a_hand_count(start_model):
    """Two layers of width 64, 4 heads of 16 (2 for keys), 128 inside, 200 words; pieces of 3 and 2 tokens, the last of each without a
    label."""
    family = load_base(start_model).family
    body = 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128)
    labels = np.array([[5, 6, -100, 7, -100, -100]])
    positions = np.array([[0, 1, 2, 0, 1, 0]])
    batch = SimpleNamespace(labels=labels, position_ids=positions)
    attended = 1 + 2 + 1
    expected = 6 * (body + 200 * 64) * 3 + 12 * 4 * 16 * 2 * attended
    assert flops_per_step(arithmetic_of(family, 200), batch) == expected


def test_a_window_bounds_what_a_token_attends_to(start_model):
    """A layer with a window of 2 counts at most 2 tokens back, itself included."""
    family = load_base(start_model).family
    config = family.decoder.config
    config.sliding_window, config.layer_types = 2, ["sliding_attention", "full_attention"]
    batch = SimpleNamespace(labels=np.array([[5, 6, 7, -100]]), position_ids=np.array([[0, 1, 2, 3]]))
    full = 12 * 4 * 16
    matrices = flops_per_step(arithmetic_of(family), batch) - full * ((1 + 2 + 3) + (1 + 2 + 2))
    assert matrices == 6 * 3 * (2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128) + 256 * 64)


def test_the_measured_ceiling_and_the_memory_are_of_this_machine():
    """Any machine that runs this multiplies 1 GFLOP a second, and this process holds between 50 MB and all there is."""
    assert 1e9 < matmul_rate(torch.device("cpu"), torch.float32) < 1e15
    assert 0.05 < peak_memory_gib(torch.device("cpu")) < 64
    assert peak_memory_gib(torch.device("cpu")) == pytest.approx(peak_memory_gib(torch.device("cpu")), rel=0.1)

"""Kills and signals on real processes: what a function in one process cannot show."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

CHILD = """
import importlib.util, sys
from pathlib import Path
from types import SimpleNamespace
spec = importlib.util.spec_from_file_location("small", sys.argv[1])
small = importlib.util.module_from_spec(spec); spec.loader.exec_module(small)
import torch
torch.set_num_threads(1)
from rewarm import signals
from rewarm.errors import Stopped
from rewarm.progress import Silent
from rewarm.train.recipe import TrainRecipe
from rewarm.train.stage import train_stage
signals.install()
cfg = TrainRecipe(lr=1e-2, precision="fp32", device="cpu", checkpoint_steps=5)
mixture = SimpleNamespace(names=("new", "old"), row_pieces=small.T)
try:
    train_stage(cfg, Path(sys.argv[2]), mixture, lambda step: small.rows_of_seed(step, 4), (180, 200), small.VOCAB, None, [],
                Path(sys.argv[3]), Silent(), steps=int(sys.argv[4]))
except Stopped as stopped:
    print(stopped, file=sys.stderr)
    sys.exit(stopped.exit_code)
"""


def start(model: Path, out: Path, steps: int) -> subprocess.Popen:
    arguments = [sys.executable, "-c", CHILD, str(Path(__file__).parent / "conftest.py"), str(model), str(out), str(steps)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)


def wait_for_line(out: Path, number: int, process: subprocess.Popen) -> None:
    """Until `metrics.jsonl` has so many lines."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if (out / "metrics.jsonl").is_file() and len((out / "metrics.jsonl").read_text().splitlines()) >= number:
            return
        time.sleep(0.002)
    raise AssertionError(f"no step {number}: {process.communicate()[1]}")


def finish(process: subprocess.Popen) -> str:
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    return told


@pytest.fixture(scope="module")
def uninterrupted(start_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    finish(start(start_model, out, 60))
    return out


def same(one: Path, other: Path) -> None:
    a, b = load_file(one / "model" / "model.safetensors"), load_file(other / "model" / "model.safetensors")
    assert a.keys() == b.keys() and all(torch.equal(a[name].view(torch.int32), b[name].view(torch.int32)) for name in a)
    losses = [[json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()] for out in (one, other)]
    assert losses[0] == losses[1] and len(losses[0]) == 60


def test_killed_twice_at_any_moment_and_run_again_gives_the_same_bits(start_model, uninterrupted, tmp_path):
    """kill -9 wherever it hits, also in a save; the last start in a new process ends in the same model."""
    out = tmp_path / "out"
    for line in (7, 23):
        process = start(start_model, out, 60)
        wait_for_line(out, line, process)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert not (out / "result.json").exists()
    finish(start(start_model, out, 60))
    same(uninterrupted, out)


def test_sigterm_finishes_the_step_saves_and_exits_130(start_model, uninterrupted, tmp_path):
    """What a scheduler sends before it takes the machine away; the message says that a checkpoint is there."""
    out = tmp_path / "out"
    process = start(start_model, out, 60)
    wait_for_line(out, 12, process)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped by SIGTERM after step" in told and "a checkpoint is written" in told
    done = int(told.split("after step ")[1].split()[0])
    assert (out / "checkpoints" / "LATEST").read_text() == f"step-{done}\n" and done >= 12
    finish(start(start_model, out, 60))
    same(uninterrupted, out)

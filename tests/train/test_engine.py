"""The rehearsal: it measures a step and leaves no trace."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from rewarm.progress import Silent
from rewarm.train.context import RunContext
from rewarm.train.engine import Engine
from rewarm.train.recipe import TrainRecipe
from rewarm.train.setup import choose_device, set_up


@pytest.fixture
def ready(start_model, rows, tmp_path):
    """(engine, context) of eight rows a step."""
    cfg = TrainRecipe(lr=1e-2, precision="fp32", device="cpu", micro_rows=8)
    mixture = SimpleNamespace(names=("new", "old"), row_pieces=32)
    setup = set_up(cfg, start_model, mixture, lambda step: rows(step, 8), (180, 200), 200, [], tmp_path, Silent())
    engine = setup.engine
    context = RunContext(engine.params, start_model, 10, 0.1, 0, ["new", "old"], engine.batch_of, engine.gradients)
    return engine, context


def bits(engine):
    return {p.name: p.local.detach().clone().view(torch.int32) for p in engine.params}


def test_a_rehearsal_leaves_no_trace(ready):
    """Weights bit for bit, no moments, no gradients: else a timed run would not be the run of as many steps."""
    engine, context = ready
    engine.params[0].local.data[3, 3] = -0.0
    before = bits(engine)
    assert engine.rehearse(context, 0.01) > 0
    after = bits(engine)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not engine.optimizer.state and all(p.local.grad is None for p in engine.params)


def test_a_rehearsal_that_runs_out_of_memory_tries_half_the_rows(ready, monkeypatch):
    """8, 4, 2 rows: what fits is found by trying, and one row that does not fit is an error."""
    engine, context = ready
    backward, tried = Engine._backward, []

    def small_gpu(limit):
        def run(self, context, batch, by_source):
            tried.append(batch.rows)
            if self.micro_rows > limit:
                raise torch.OutOfMemoryError("out of memory")
            return backward(self, context, batch, by_source)

        return run

    monkeypatch.setattr(Engine, "_backward", small_gpu(2))
    engine.rehearse(context, 0.0)
    assert engine.micro_rows == 2 and max(tried) <= 8
    monkeypatch.setattr(Engine, "_backward", small_gpu(0))
    with pytest.raises(torch.OutOfMemoryError):
        engine.rehearse(context, 0.0)


def test_a_gpu_that_is_not_there_is_an_error_of_the_recipe(monkeypatch):
    """`auto` takes what there is, `cuda` means cuda."""
    from rewarm.errors import UserError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(UserError, match="no CUDA GPU"):
        choose_device("cuda")

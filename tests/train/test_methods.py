"""The seam to methods against forgetting, from the engine's side."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from rewarm import signals
from rewarm.errors import Stopped, UserError
from rewarm.model.hooks import Actions, Method


class Watcher(Method):
    """Looks at everything and asks for nothing."""

    name = "watcher"

    def __init__(self):
        self.seen = []

    def before_step(self, ctx):
        self.seen.append(("before", ctx.step, ctx.lr, ctx.h))

    def gradients(self, ctx):
        assert all(p.local.grad is not None for p in ctx.params)

    def after_step(self, ctx):
        self.seen.append(("after", ctx.step, ctx.lr, ctx.h))

    def finish(self, ctx):
        self.seen.append(("finish", ctx.step, ctx.steps, ctx.h_end))


class Pull(Method):
    """Half of every update, a pull of the loss, and a counter that must survive a restart."""

    name = "pull"

    def __init__(self):
        self.steps, self.trace = 0, torch.zeros(2)

    def update_scale(self, name):
        return torch.full((64, 64), 0.5) if name.endswith("q_proj.weight") else None

    def loss(self, ctx, out):
        return out.loss_sum * 0.1

    def after_step(self, ctx):
        self.steps += 1
        self.trace += ctx.lr
        with torch.no_grad():
            for param in ctx.params:
                if param.kind == "vector":
                    param.local.lerp_(ctx.reference(param.name), 0.01 * self.steps / ctx.steps)

    def state_dict(self):
        return {"steps": self.steps, "trace": self.trace}

    def load_state_dict(self, state):
        self.steps, self.trace = state["steps"], state["trace"]


def same_bits(one, other):
    return all(torch.equal(one[name].view(torch.int32), other[name].view(torch.int32)) for name in one)


def test_a_method_that_only_looks_changes_no_bit_and_sees_every_step(stage, weights):
    """No arithmetic for a hook that is not there; `lr` and `h` are those of the step."""
    watcher = Watcher()
    plain, watched = stage("plain", steps=6), stage("watched", steps=6, methods=[watcher])
    assert same_bits(weights(plain.out / "model"), weights(watched.out / "model"))
    assert [(kind, step) for kind, step, *_ in watcher.seen[:-1]] == [(k, s) for s in range(6) for k in ("before", "after")]
    assert all(lr == pytest.approx(1e-2 * h) for _, _, lr, h in watcher.seen[:-1])
    assert watcher.seen[-1] == ("finish", 5, 6, watcher.seen[-2][3])


def test_a_methods_state_survives_a_restart_bit_by_bit(stage, weights, monkeypatch):
    """Ten steps, save, load in a fresh object, ten more: with tensors, counters, scales and a loss of its own."""
    whole = stage("whole", methods=[Pull()])
    assert not same_bits(weights(stage("naive").out / "model"), weights(whole.out / "model"))
    from rewarm.train.loop import Loop

    tell = Loop._tell

    def and_stop(self, record, bar):
        tell(self, record, bar)
        if record.step == 9:
            signals.request_stop("SIGTERM")

    monkeypatch.setattr(Loop, "_tell", and_stop)
    with pytest.raises(Stopped):
        stage("parts", methods=[Pull()])
    signals.clear_stop()
    monkeypatch.undo()
    parts = stage("parts", methods=[Pull()])
    assert same_bits(weights(whole.out / "model"), weights(parts.out / "model"))


def test_the_start_weights_are_those_of_the_start_model(stage, start_model, weights):
    """`reference` at the end of training still reads the model that training began with."""
    found = {}

    class Keep(Method):
        name = "keep"

        def finish(self, ctx):
            found.update({p.name: ctx.reference(p.name) for p in ctx.params})

    stage(steps=3, methods=[Keep()])
    start = weights(start_model)
    assert found and all(torch.equal(found[name], start[name].float()) for name in found)


def gradients_by_hand(folder, batch, count):
    """Of the mean loss over the first rows of source 1, each document run alone through Hugging Face's model."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    mine = np.flatnonzero(batch.source == 1)[:count]
    assert len(mine) == count
    total, labels = torch.zeros(()), 0
    for b in mine:
        for number in set(batch.piece[b].tolist()):
            at = torch.from_numpy(batch.piece[b] == number)
            wanted = torch.from_numpy(batch.labels[b])[at]
            logits = model(input_ids=torch.from_numpy(batch.ids[b]).long()[at][None]).logits[0, :, :200]
            total = total + F.cross_entropy(logits, wanted, ignore_index=-100, reduction="sum")
            labels += int((wanted >= 0).sum())
    (total / labels).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_gradients_of_a_source_leave_the_steps_own_alone(stage, weights, start_model, rows):
    """A-GEM reads replay gradients between backward and update; they must be of that source's rows only."""
    found = []

    class Ask(Method):
        name = "ask"

        def gradients(self, ctx):
            own = {p.name: p.local.grad.clone() for p in ctx.params}
            found.append(ctx.grads_of("old", 3))
            assert all(torch.equal(p.local.grad, own[p.name]) for p in ctx.params)

    asked = stage("asked", steps=1, methods=[Ask()])
    assert same_bits(weights(stage("plain", steps=1).out / "model"), weights(asked.out / "model"))
    assert found[0].keys() == set(weights(asked.out / "model"))
    expected = gradients_by_hand(start_model, rows(0, 4), 3)
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, expected[name], rtol=1e-3, atol=1e-5), name
    with pytest.raises(UserError, match="no source `news`"):

        class Wrong(Method):
            name = "wrong"

            def gradients(self, ctx):
                ctx.grads_of("news", 1)

        stage("wrong", steps=1, methods=[Wrong()])


def test_a_method_may_lower_the_rate_after_a_probe_and_a_resume_remembers(stage):
    """Actions are part of the run: logged, and in the checkpoint."""

    class Halve(Method):
        name = "halve"

        def on_eval(self, metrics):
            return Actions(rate_factor=0.5) if metrics["step"] == 2 else None

    run = stage(steps=4, probes=lambda model: {"old": {"bits_per_byte": 1.0}}, probe_every=2, methods=[Halve()], schedule="constant")
    lines = [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines] == [1e-2, 1e-2, 5e-3, 5e-3]


def test_a_generator_depends_on_seed_step_and_name_only(start_model, rows):
    """Randomness of a method is a function, so a restart draws the same."""
    from rewarm.train.context import RunContext

    def draw(seed, step, name):
        ctx = RunContext([], start_model, 10, 0.1, seed, ["new"], lambda s: rows(s, 2), lambda b: {})
        ctx.step = step
        return torch.rand(3, generator=ctx.rng(name)).tolist()

    assert draw(0, 3, "a") == draw(0, 3, "a")
    assert len({tuple(draw(*k)) for k in [(0, 3, "a"), (1, 3, "a"), (0, 4, "a"), (0, 3, "b")]}) == 4

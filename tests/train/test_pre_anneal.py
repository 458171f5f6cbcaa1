"""The weights before the anneal are kept, and the next domain can start from them."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import LlamaForCausalLM

from rewarm import signals
from rewarm.errors import Stopped
from rewarm.progress import Silent
from rewarm.train.loop import Loop

WSD = {"schedule": "wsd", "warmup_share": 0.1, "anneal_share": 0.25}
INFINITE = {"schedule": "infinite", "warmup_share": 0.1, "cooldown_share": 0.4, "anneal_share": 0.25}


class Killed(BaseException):
    """Stands for a kill: nothing may catch it and tidy up."""


def events(out, name):
    return [e for e in map(json.loads, (out / "events.jsonl").read_text().splitlines()) if e["event"] == name]


@pytest.mark.parametrize("fields", [WSD, INFINITE], ids=["wsd", "infinite"])
def test_the_weights_of_the_last_constant_step_stay_after_the_run(stage, weights, fields, monkeypatch):
    """20 steps, the last 5 anneal: kept are the weights after 15, bit for bit, and all else of `checkpoints/` goes as it always did."""
    run = stage(steps=20, checkpoint_steps=4, keep_last=1, **fields)
    kept = run.out / "checkpoints" / "pre-anneal"
    assert [path.name for path in (run.out / "checkpoints").iterdir()] == ["pre-anneal"] and run.result["pre_anneal"] == 15
    assert [e["step"] for e in events(run.out, "pre_anneal")] == [15]
    tell = Loop._tell

    def stop_at_15(self, record, bar):
        tell(self, record, bar)
        if record.step + 1 == 15:
            signals.request_stop("SIGTERM")

    monkeypatch.setattr(Loop, "_tell", stop_at_15)
    with pytest.raises(Stopped):
        stage("short", steps=20, **fields)
    at_15 = weights_of_checkpoint(run.out.parent / "short" / "checkpoints" / "step-15")
    got = weights(kept)
    assert all(torch.equal(got[name], at_15[name]) for name in got)
    assert any(not torch.equal(got[name], tensor) for name, tensor in weights(run.out / "model").items())


def weights_of_checkpoint(folder):
    from safetensors.torch import load_file

    return load_file(folder / "weights.safetensors")


def test_the_next_domain_starts_from_them_without_warming_up(stage):
    """They are a plain Hugging Face folder, so `model.base` takes them."""
    first = stage(steps=12, **INFINITE)
    kept = first.out / "checkpoints" / "pre-anneal"
    LlamaForCausalLM.from_pretrained(kept)
    second = stage("next", model=kept, steps=4, seed=1, lr=0.55e-2, schedule="none")
    lines = [json.loads(line) for line in (second.out / "metrics.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in (first.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines] == pytest.approx([before[first.result["pre_anneal"] - 1]["lr"]] * 4)


def test_the_end_of_the_run_says_where_they_are_and_how_to_go_on(stage):
    """Nobody looks into a folder of checkpoints that a finished run usually empties."""

    said = []

    class Heard(Silent):
        def say(self, text):
            said.append(text)

    stage(steps=20, reporter=Heard(), **INFINITE)
    last = next(text for text in said if "before the anneal" in text)
    for part in ("after step 15", "checkpoints/pre-anneal", "model.base", "train.lr=0.0055", "train.warmup_share=0"):
        assert part in last, last


def test_a_kill_between_the_checkpoint_and_the_keeping_loses_neither(stage, weights, monkeypatch):
    """The restart begins at the very step whose weights are to be kept, and ends with the same bits."""
    whole = stage("whole", steps=20, **WSD)

    def killed(self):
        self._checkpoint()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_keep_if_due", lambda self: killed(self) if self._is_pre_anneal() else None)
        with pytest.raises(Killed):
            stage("parts", steps=20, **WSD)
    assert not (whole.out.parent / "parts" / "checkpoints" / "pre-anneal").exists()
    parts = stage("parts", steps=20, **WSD)
    for folder in ("checkpoints/pre-anneal", "model"):
        one, other = weights(whole.out / folder), weights(parts.out / folder)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_other_schedules_keep_nothing_and_say_nothing(stage):
    """A model's size on disk, for whoever did not ask for it."""
    run = stage(steps=6, schedule="linear", checkpoint_steps=2)
    assert list((run.out / "checkpoints").iterdir()) == [] and run.result["pre_anneal"] is None


def test_a_resumed_run_of_each_schedule_has_the_same_rates_and_weights(stage, weights, monkeypatch):
    """The rate is looked up by the step, so a stop inside any phase changes nothing."""
    tell = Loop._tell
    for fields in (WSD, INFINITE, {"schedule": "none"}):
        whole = stage(f"whole-{fields['schedule']}", steps=12, **fields)

        def stop_at_10(self, record, bar):
            tell(self, record, bar)
            if record.step + 1 == 10:
                signals.request_stop("SIGTERM")

        with monkeypatch.context() as patch:
            patch.setattr(Loop, "_tell", stop_at_10)
            with pytest.raises(Stopped):
                stage(f"parts-{fields['schedule']}", steps=12, **fields)
        signals.clear_stop()
        parts = stage(f"parts-{fields['schedule']}", steps=12, **fields)
        rates = [[json.loads(line)["lr"] for line in (run.out / "metrics.jsonl").read_text().splitlines()] for run in (whole, parts)]
        one, other = weights(whole.out / "model"), weights(parts.out / "model")
        assert rates[0] == rates[1] and all(torch.equal(one[name], other[name]) for name in one)

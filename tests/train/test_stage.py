"""The stage as a whole: against a plain loop, resumed, stopped, probed, timed."""

from __future__ import annotations

import errno
import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from rewarm import signals
from rewarm.errors import MachineError, Stopped, UserError
from rewarm.train.journal import Journal
from rewarm.train.loop import TimeUp
from rewarm.train.recipe import TrainRecipe
from rewarm.train.schedule import lr_factor

VOCAB = 200


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def events(out, name=None):
    found = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [e for e in found if name is None or e["event"] == name]


def plain_loop(folder, rows, steps, cfg, lr):
    """Forty lines of plain PyTorch on Hugging Face's own logits: each document run alone, torch's unfused AdamW, no micro-batches."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").train()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "embed" not in n)]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": cfg.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=lr, betas=cfg.betas, eps=cfg.eps, fused=False, foreach=False,
    )  # fmt: skip
    embedding, losses = model.get_input_embeddings().weight, []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * lr_factor(step, cfg, steps)
        batch, total, count = rows(step, 4), torch.zeros(()), 0
        for b in range(4):
            for number in set(batch.piece[b].tolist()):
                at = torch.from_numpy(batch.piece[b] == number)
                labels = torch.from_numpy(batch.labels[b])[at]
                logits = model(input_ids=torch.from_numpy(batch.ids[b]).long()[at][None]).logits[0, :, :VOCAB]
                total = total + F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
                count += int((labels >= 0).sum())
        optimizer.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
        old = embedding.detach().clone()
        optimizer.step()
        with torch.no_grad():
            embedding[180:200] = old[180:200] + cfg.lr_scale.new_rows * (embedding[180:200] - old[180:200])
        losses.append(float(total.detach()) / count)
    return losses, model


def test_thirty_steps_follow_a_plain_loop_on_hugging_faces_logits(stage, start_model, rows, weights):
    """The oracle: another attention, another loss, another optimiser kernel, documents one by one; the same training."""
    cfg = TrainRecipe(lr=3e-3, warmup_share=0.1)
    expected, model = plain_loop(start_model, rows, 30, cfg, 3e-3)
    run = stage(steps=30, lr=3e-3, warmup_share=0.1)
    got = [line["loss"] for line in metrics(run.out)]
    assert got == pytest.approx(expected, rel=2e-4)
    assert got[-1] < got[0] - 0.2
    trained = weights(run.out / "model")
    start = weights(start_model)
    for name, tensor in model.state_dict().items():
        if name in trained:
            moved = (tensor - start[name]).norm()
            assert (trained[name] - tensor).norm() <= 0.02 * moved, name


@pytest.mark.parametrize("micro_rows", [1, 2, 3])
def test_micro_batches_change_neither_loss_nor_update(stage, weights, micro_rows):
    """8 rows as 8, 4, 3 (the last filled up) or 1 micro-batches: one loss, divided by the labels of the whole step."""
    whole = stage("whole", steps=6, step_rows=8, micro_rows=8, lr=1e-3)
    parts = stage("parts", steps=6, step_rows=8, micro_rows=micro_rows, lr=1e-3)
    for a, b in zip(metrics(whole.out), metrics(parts.out), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-6)
        assert b["norm"] == pytest.approx(a["norm"], rel=1e-5)
        for name in a["sources"]:
            assert b["sources"][name]["loss"] == pytest.approx(a["sources"][name]["loss"], rel=1e-5)
    one, other = weights(whole.out / "model"), weights(parts.out / "model")
    assert all(torch.allclose(one[name], other[name], atol=2e-5) for name in one)


def test_ten_steps_a_stop_and_ten_more_are_twenty_steps_bit_by_bit(stage, weights, monkeypatch):
    """Exact resume: losses and weights equal bit for bit, and each step has one line of metrics."""
    whole = stage("whole", checkpoint_steps=7)
    stop_after(10, monkeypatch)
    with pytest.raises(Stopped, match="after step 10 of 20; a checkpoint is written"):
        stage("parts", checkpoint_steps=7)
    signals.clear_stop()
    parts = stage("parts", checkpoint_steps=7)
    assert [line["loss"] for line in metrics(parts.out)] == [line["loss"] for line in metrics(whole.out)]
    assert [line["step"] for line in metrics(parts.out)] == list(range(1, 21))
    assert_same_bits(weights(whole.out / "model"), weights(parts.out / "model"))
    assert [e["step"] for e in events(parts.out, "resumed")] == [10]
    assert parts.result["tokens"] == whole.result["tokens"]


def test_a_kill_between_checkpoints_repeats_steps_and_ends_the_same(stage, weights, monkeypatch):
    """A kill leaves metrics of steps that the checkpoint does not have: they are done again and are in the file once."""
    whole = stage("whole", checkpoint_steps=6)
    kill_after(10, monkeypatch)
    with pytest.raises(Killed):
        stage("parts", checkpoint_steps=6)
    monkeypatch.undo()
    parts = stage("parts", checkpoint_steps=6)
    assert [e["step"] for e in events(parts.out, "resumed")] == [6]
    assert [line["step"] for line in metrics(parts.out)] == list(range(1, 21))
    assert [line["loss"] for line in metrics(parts.out)] == [line["loss"] for line in metrics(whole.out)]
    assert_same_bits(weights(whole.out / "model"), weights(parts.out / "model"))


def test_a_finished_run_is_not_run_again_and_keeps_no_moments(stage):
    """The caller's marker may be missing after a kill; the result is on disk. Moments of a finished run are two thirds of it, for
    nothing."""
    first = stage(steps=5, checkpoint_steps=2)
    before = (first.out / "model" / "model.safetensors").stat().st_mtime_ns
    again = stage(steps=5, checkpoint_steps=2)
    assert again.result == first.result
    assert (first.out / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert list((first.out / "checkpoints").iterdir()) == []


def test_the_hours_of_a_lent_machine_end_with_a_checkpoint_and_exit_0(stage):
    """`max_hours` is a planned end of one process, not of the run."""
    with pytest.raises(TimeUp) as caught:
        stage(max_hours=1e-9)
    assert caught.value.exit_code == 0
    assert stage(steps=20).result["steps"] == 20


@pytest.mark.parametrize("what", ["gradient", "loss"])
def test_steps_without_finite_numbers_are_left_out_and_the_third_stops(stage, monkeypatch, what):
    """One bad step is dust in the text, three are a fault: it names steps and rows, and the checkpoint before stays."""
    poison(monkeypatch, {4, 8}, what)
    run = stage("dust", steps=10, lr=2e-3)
    assert run.result["skipped"] == 2
    assert [e["step"] for e in events(run.out, "skipped")] == [5, 9]
    assert metrics(run.out)[4]["loss"] is None and len(run.reporter.warnings) == 2
    monkeypatch.undo()
    poison(monkeypatch, {5, 6, 7}, what)
    with pytest.raises(MachineError, match=r"steps 6, 7, 8, rows 20 to 31"):
        stage("fault", steps=10, lr=2e-3, checkpoint_steps=4)
    monkeypatch.undo()
    assert (run.out.parent / "fault" / "checkpoints" / "LATEST").read_text() == "step-4\n"


def test_a_step_left_out_moves_no_bit(stage, weights, monkeypatch):
    """Neither weights nor moments nor the optimiser's step count: the run with a poisoned last step ends where the one before it did."""
    poison(monkeypatch, {1})
    run = stage(steps=2, schedule="constant", warmup_share=0)
    monkeypatch.undo()
    one = stage("one", steps=1, schedule="constant", warmup_share=0)
    assert_same_bits(weights(run.out / "model"), weights(one.out / "model"))


def test_probes_run_at_start_and_end_and_change_nothing(stage, weights):
    """A run with probes has the bits of one without; the first probe is of the start model."""
    seen = []

    def probes(model):
        seen.append(float(model.get_input_embeddings().weight.sum()))
        return {"old": {"bits_per_byte": 1.0 + len(seen)}}

    without = stage("without")
    run = stage("with", probes=probes, probe_every=8)
    assert_same_bits(weights(without.out / "model"), weights(run.out / "model"))
    assert [e["step"] for e in events(run.out, "probe")] == [0, 8, 16, 20]
    assert run.result["probes"] == {"first": {"old": {"bits_per_byte": 2.0}}, "last": {"old": {"bits_per_byte": 5.0}}}
    assert stage("off", probes=probes, probe_every="off").result["probes"] == {"first": None, "last": None}


def test_minutes_become_steps_once_and_a_resume_keeps_them(stage, weights, monkeypatch, tmp_path):
    """The rehearsal moves no weight; the plan is written before the first step, so a slower machine does not change the run."""
    from rewarm.train.engine import Engine

    probes, rehearse = (lambda model: {"old": {"bits_per_byte": 1.0}}), Engine.rehearse
    monkeypatch.setattr(Engine, "rehearse", lambda *arguments: rehearse(*arguments) and 4.0)  # as if a step took four seconds
    stop_after(3, monkeypatch)
    with pytest.raises(Stopped):
        stage("timed", max_minutes=1, probes=probes)
    signals.clear_stop()
    monkeypatch.undo()
    plan = json.loads((tmp_path / "timed" / "plan.json").read_text())
    assert 8 <= plan["steps"] <= 14 and plan["seconds"]["step"] == 4.0
    monkeypatch.setattr(Engine, "rehearse", _never)
    timed = stage("timed", max_minutes=1, probes=probes)
    assert timed.result["steps"] == plan["steps"]
    counted = stage("counted", steps=plan["steps"])
    assert_same_bits(weights(timed.out / "model"), weights(counted.out / "model"))


def test_a_run_that_took_longer_than_its_minutes_says_so(stage, monkeypatch):
    """The number of steps is fixed by the measurement; a machine that slows down afterwards cannot be foreseen, only reported."""
    monkeypatch.setattr("rewarm.train.stage.steps_for_minutes", lambda *_: (3, None))
    warnings = stage(max_minutes=1e-6, lr=2e-3).reporter.warnings
    assert len(warnings) == 1 and "the machine became slower" in warnings[0]


def test_a_run_begun_with_other_settings_is_not_gone_on_with(stage, monkeypatch):
    """Half a run at one rate and half at another is nobody's experiment; the message has both values."""
    stop_after(3, monkeypatch)
    with pytest.raises(Stopped):
        stage()
    signals.clear_stop()
    with pytest.raises(UserError, match=r"lr: 0.01 before, 0.02 now"):
        stage(lr=0.02)


def test_a_checkpoint_of_another_recipe_is_not_gone_on_with(stage, monkeypatch, tmp_path):
    """A folder copied from another run: its checkpoint says itself what it is of, whatever plan lies beside it."""
    stop_after(3, monkeypatch)
    with pytest.raises(Stopped):
        stage("other", clip=0.5)
    signals.clear_stop()
    monkeypatch.undo()
    (tmp_path / "mine").mkdir()
    shutil.copytree(tmp_path / "other" / "checkpoints", tmp_path / "mine" / "checkpoints")
    with pytest.raises(UserError, match=r"step-3\n.*\n  clip: 0.5 before, 1.0 now\n  use another folder"):
        stage("mine")


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "folder"])
def test_a_run_whose_newest_checkpoint_is_damaged_ends_the_same(stage, weights, monkeypatch, damage):
    """The one before is taken, the steps since are done again, and the weights do not tell that it happened."""
    whole = stage("whole", checkpoint_steps=4)
    kill_after(10, monkeypatch)
    with pytest.raises(Killed):
        stage("parts", checkpoint_steps=4)
    monkeypatch.undo()
    newest = whole.out.parent / "parts" / "checkpoints" / "step-8"
    file = newest / "moments.safetensors"
    if damage == "folder":
        shutil.rmtree(newest)
    elif damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    parts = stage("parts", checkpoint_steps=4)
    [told] = [w for w in parts.reporter.warnings if "step 8" in w]
    assert "step 4 is taken, the steps since repeat" in told and ("moments.safetensors" in told) == (damage != "folder")
    assert [e["step"] for e in events(parts.out, "resumed")] == [4]
    assert [line["loss"] for line in metrics(parts.out)] == [line["loss"] for line in metrics(whole.out)]
    assert_same_bits(weights(whole.out / "model"), weights(parts.out / "model"))


def test_a_disk_that_is_full_for_some_steps_costs_no_line(stage, weights, monkeypatch):
    """A checkpoint is missed and told, the lines wait in memory, and the run is the one it would have been."""
    from rewarm.train import checkpoint, journal

    whole = stage("whole", checkpoint_steps=4)
    write, save_file, full = journal._write, checkpoint.save_file, {"now": False}

    def refused(work):
        def maybe(*arguments):
            if full["now"]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return work(*arguments)

        return maybe

    monkeypatch.setattr(journal, "_write", refused(write))
    monkeypatch.setattr(checkpoint, "save_file", refused(save_file))
    _after(6, monkeypatch, lambda: full.update(now=True))
    _after(11, monkeypatch, lambda: full.update(now=False))
    run = stage("parts", checkpoint_steps=4)
    lines = [w for w in run.reporter.warnings if "kept in memory" in w]
    assert len(lines) == 1 and len([w for w in run.reporter.warnings if "checkpoint of step 8 was not written" in w]) == 1
    assert [line["step"] for line in metrics(run.out)] == list(range(1, 21))
    assert [(e["step"], e["written"]) for e in events(run.out, "checkpoint")] == [(4, True), (8, False), (12, True), (16, True)]
    assert_same_bits(weights(whole.out / "model"), weights(run.out / "model"))


def test_half_a_line_of_the_journal_is_dropped_and_none_is_written(tmp_path, monkeypatch):
    """A kill or a full disk in the middle of a line would spoil the next one too."""
    journal = Journal(tmp_path)
    journal.metrics({"step": 1})
    journal.event("resumed", step=1)
    for file in (journal.metrics_file, journal.events_file):
        file.write_bytes(file.read_bytes() + b'{"step": 2, "lo')
    journal.forget_after(9)
    assert metrics(tmp_path) == [{"step": 1}] and len(events(tmp_path)) == 1
    before = journal.metrics_file.read_bytes()

    class Half:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            self.file.write(content[:5])
            self.file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

    opened = type(journal.metrics_file).open
    with monkeypatch.context() as patch:
        patch.setattr(type(journal.metrics_file), "open", lambda self, *a, **k: Half(opened(self, *a, **k)))
        journal.metrics({"step": 2})
    assert journal.metrics_file.read_bytes() == before
    journal.close()
    assert metrics(tmp_path) == [{"step": 1}, {"step": 2}]


def test_a_rate_far_above_the_table_is_warned_about(stage):
    """1e-3 on a large instruct model gave gibberish to users of another tool; here the table says 6e-4, and 1e-2 warns."""
    assert "more than four times" in stage(steps=1, lr=1e-2).reporter.warnings[0]
    assert stage("ok", steps=1, lr=2e-3).reporter.warnings == []


def test_each_line_of_metrics_adds_up(stage, rows):
    """Loss is the mean over sources by tokens, tokens count up, bits per byte follow from nats, tokens and bytes."""
    run = stage(steps=4, log_every=2)
    lines = metrics(run.out)
    assert [line["step"] for line in lines] == [2, 4]
    batches = [rows(step, 4) for step in range(4)]
    labels = [int((b.labels >= 0).sum()) for b in batches]
    assert [line["tokens"] for line in lines] == [sum(labels[:2]), sum(labels)] and run.result["tokens"] == sum(labels)
    for line in lines:
        parts = line["sources"].values()
        assert sum(p["loss"] * p["tokens"] for p in parts) / sum(p["tokens"] for p in parts) == pytest.approx(line["loss"], rel=1e-6)
        for p in parts:
            assert p["bits_per_byte"] == pytest.approx(p["loss"] / 0.6931471805599453 / 2, rel=1e-6)  # two bytes a label
        assert {"tokens_per_second", "mfu_ceiling", "memory_gib", "eta_seconds", "norm", "lr"} <= set(line) and "mfu" not in line


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", 2e-3),
        ("lr_scale", {"new_rows": 1.0}),
        ("weight_decay", 0.5),
        ("betas", (0.5, 0.95)),
        ("eps", 1e-3),
        ("clip", 0.05),
        ("schedule", "linear"),
        ("warmup_share", 0.5),
        ("min_ratio", 0.5),
        ("precision", "mixed"),
    ],
)
def test_every_field_of_the_update_changes_the_result(stage, weights, default_end, field, value):
    """A field without effect would be a promise nobody keeps."""
    end = weights(stage(field, steps=4, **{field: value}).out / "model")
    assert any(not torch.equal(end[name], default_end[name]) for name in end)


@pytest.fixture
def default_end(stage, weights):
    return weights(stage("default", steps=4).out / "model")


def test_fields_that_only_save_and_tell_change_no_bit(stage, weights, default_end, monkeypatch):
    """How often to save is no part of the experiment; what they do is seen in the files."""
    kept = []
    monkeypatch.setattr("rewarm.train.checkpoint.Checkpointer.remove_all", lambda self: kept.append(self.steps()))
    run = stage("saves", steps=4, checkpoint_minutes=1e-9, keep_last=2, log_every=3, deterministic=True)
    assert_same_bits(weights(run.out / "model"), default_end)
    assert kept == [[2, 3]] and [e["step"] for e in events(run.out, "checkpoint")] == [1, 2, 3]
    assert [line["step"] for line in metrics(run.out)] == [3, 4]
    assert json.loads((run.out / "kernels.json").read_text())["deterministic"] is True


def test_compiled_layers_train_as_well(stage, start_model, monkeypatch):
    """Each layer is compiled in place, as a whole graph; here by the tracer alone, as a C++ compiler is not everywhere."""
    compiled = []
    compile_ = torch.nn.Module.compile

    def traced(self, *args, **kwargs):
        compiled.append(kwargs)
        compile_(self, *args, backend="aot_eager", **kwargs)

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    eager = stage("eager", steps=3)
    assert compiled == []
    run = stage("compiled", steps=3, compile=True, probes=lambda model: {"old": {"bits_per_byte": 1.0}}, probe_every=1)
    assert compiled == [{"fullgraph": True, "dynamic": False}] * 2
    assert [m["loss"] for m in metrics(run.out)] == pytest.approx([m["loss"] for m in metrics(eager.out)], rel=1e-5)


class Killed(BaseException):
    """Stands for a kill: nothing may catch it and tidy up."""


def stop_after(steps, monkeypatch):
    _after(steps, monkeypatch, lambda: signals.request_stop("SIGTERM"))


def kill_after(steps, monkeypatch):
    def kill():
        raise Killed

    _after(steps, monkeypatch, kill)


def _after(steps, monkeypatch, action):
    from rewarm.train.loop import Loop

    tell = Loop._tell

    def and_then(self, record, bar):
        tell(self, record, bar)
        if record.step + 1 == steps:
            action()

    monkeypatch.setattr(Loop, "_tell", and_then)


def poison(monkeypatch, steps, what="gradient"):
    """A NaN in one gradient of these steps, or in their loss alone."""
    from rewarm.train.engine import Engine

    backward = Engine._backward

    def poisoned(self, context, batch, by_source):
        loss = backward(self, context, batch, by_source)
        if context is not None and context.step in steps and self.optimizer.param_groups[0]["lr"] > 0:
            if what == "loss":
                return loss * float("nan")
            self.params[0].local.grad[0, 0] = float("nan")
        return loss

    monkeypatch.setattr(Engine, "_backward", poisoned)


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name].view(torch.int32), other[name].view(torch.int32)), name


def _never(*_):
    raise AssertionError("a resumed run measures nothing")

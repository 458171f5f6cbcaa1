"""Faults of the machine: a disk that is full at any stage, damaged checkpoints, signals that come twice, a second process.

What holds after each of them: an error that says what, where and what to do, no half file taken for a whole one, and a run that goes on to
the bytes of an undisturbed one.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console as RichConsole

from rewarm import atomic, signals
from rewarm.console import Console
from rewarm.errors import MachineError
from rewarm.progress import Bar
from rewarm.recipe import load_recipe
from rewarm.run import run_recipe

END = "<|endoftext|>"
RECIPE = """\
name: house
model: {base: base}
corpus:
  sources:
    - {name: vi, paths: [new.jsonl], role: new, languages: [vi], licence: MIT}
    - {name: en, paths: [old.jsonl], role: replay, languages: [en], licence: MIT}
  heldout: {share: 0.05, min_mb: 0.01, max_mb: 0.02}
vocab: {extend: true, size: 40, tau: off}
tokens: {row_tokens: 64}
train:
  {tokens: 7680, step_tokens: 256, lr: 1e-3, device: cpu, precision: fp32, deterministic: true, checkpoint_steps: 5, probe_every: off}
evaluate: {max_mb: 0.01, dtype: fp32, prefix: none, samples: 1, sample_tokens: 4}
"""
HEADS, TAILS = "b c d đ g h l m n th tr ngh", "á à ả ãi ạ ăn ấn ậy êu ọc ính ường ước iệt"
WORDS = {"new": [head + tail for head in HEADS.split(" ") for tail in TAILS.split(" ")]}
HEADS, TAILS = "b c d f g l m n p r s t", "ake ent ing old ore and est ill ock ear ay our"
WORDS["old"] = [head + tail for head in HEADS.split(" ") for tail in TAILS.split(" ")]
STAGES = ("corpus", "vocabulary", "tokens", "rows", "train", "mix back", "evaluate", "export")
"""As the run calls them."""


FINAL = ("model.safetensors", "tokenizer.json")


def write_house(folder: Path) -> None:
    """Two texts of made-up words, a Llama of two layers and width 32, and the recipe."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    for role, words in WORDS.items():
        rng = np.random.default_rng(len(words))
        picked = [(rng.random(60) ** 2 * len(words)).astype(int) for _ in range(500)]
        texts = [" ".join(words[i] for i in some) + "." for some in picked]
        (folder / f"{role}.jsonl").write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[END], initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save(str(folder / "base" / "tokenizer.json"))
    (folder / "base" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}))
    (folder / "recipe.yaml").write_text(RECIPE)


class Quiet(Console):
    """Prints nowhere and keeps what was said."""

    def __init__(self) -> None:
        super().__init__(RichConsole(file=io.StringIO()))
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def whole_run(house: Path, run: Path, console: Console, until: str | None = None) -> dict[str, str]:
    """Runs or goes on with a run in this process; SHA-256 of what it trained and exported, by folder and file."""
    run_recipe(load_recipe(house / "recipe.yaml", []), run, console, until)
    files = [file for stage in ("train", "export") for name in FINAL for file in run.glob(f"{stage}-*/model/{name}")]
    return {str(file.relative_to(run)): atomic.sha256_file(file) for file in files}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    write_house(folder)
    (folder / "whole.json").write_text(json.dumps(whole_run(folder, folder / "whole", Quiet())))
    return folder


# A full disk


class Disk:
    """A disk that can be filled to its last bytes, and freed again. Here none is real: what would be flushed to it fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full, sync = False, os.fsync

        def fsync(handle: int) -> None:
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(handle)

        monkeypatch.setattr(os, "fsync", fsync)

    def fill(self, leave: int) -> None:
        self.full = True

    def free(self) -> None:
        self.full = False


class RealDisk:
    """A small tmpfs, filled by a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.ballast = folder / "ballast"

    def fill(self, leave: int) -> None:
        free = shutil.disk_usage(self.ballast.parent).free
        self.ballast.write_bytes(bytes(max(0, free - leave) // 4096 * 4096))

    def free(self) -> None:
        self.ballast.unlink(missing_ok=True)


class Filling(Quiet):
    """Fills the disk at the moment when a line is said that begins so, or a bar of this name has come so far; once."""

    def __init__(self, disk: Disk | RealDisk, when: str, leave: int = 0, step: int | None = None) -> None:
        super().__init__()
        self.disk, self.when, self.leave, self.step = disk, when, leave, step

    def say(self, text: str) -> None:
        super().say(text)
        if self.step is None and text.startswith(self.when):
            self.disk.fill(self.leave)

    @contextmanager
    def bar(self, label: str, total: float | None, unit: str) -> Iterator[Bar]:
        with super().bar(label, total, unit) as bar:
            yield _Counted(self, bar) if label == self.when else bar


class _Counted:
    def __init__(self, filling: Filling, bar: Bar) -> None:
        self.filling, self.bar, self.done = filling, bar, 0.0

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.bar.advance(amount, note)
        before, self.done = self.done, self.done + amount
        step = self.filling.step
        if step is not None and before < step <= self.done:
            self.filling.disk.fill(self.filling.leave)


def fill_everywhere(house: Path, run: Path, disk: Disk | RealDisk, until: str | None = None) -> list[str]:
    """One run, to stage `until` or the end, on a disk that is full at the start, when each stage begins, in the training, and at the end;
    on a real one also half through what each stage writes.

    Returns what was wrong with it, nothing if all is well."""
    wrong: list[str] = []
    expected = json.loads((house / "whole.json").read_text())
    sizes = {path.name.rpartition("-")[0]: sum(f.stat().st_size for f in path.rglob("*")) for path in (house / "whole").glob("*-*/")}
    names = {"vocabulary": "vocab", "mix back": "mixback"}

    def refused(console: Filling, where: str) -> str:
        """Runs until the full disk stops it; what was said."""
        said = ""
        try:
            whole_run(house, run, console, until)
            wrong.append(f"{where}: a full disk was not noticed")
        except MachineError as error:
            said = str(error)
            if error.exit_code != 1 or not error.where or not error.where.startswith(str(run)):
                wrong.append(f"{where}: exit {error.exit_code}, where {error.where}")
            if "no space left" not in said or "free" not in said or "run the same command again" not in said:
                wrong.append(f"{where}: {said}")
        except Exception as error:
            wrong.append(f"{where}: {type(error).__name__}: {error}")
        disk.free()
        if left := [str(path) for path in run.rglob("*") if ".tmp" in path.name]:
            wrong.append(f"{where}: left behind {left}")
        return said

    disk.fill(0)
    refused(Filling(disk, "nothing"), "the start")
    for stage in STAGES[: STAGES.index(until) + 1] if until else STAGES:
        name = names.get(stage, stage)
        refused(Filling(disk, f"{stage} ..."), stage)
        if isinstance(disk, RealDisk):
            refused(Filling(disk, f"{stage} ...", leave=sizes[name] // 2), f"half of {stage}")
        if list(run.glob(f"{name}-*/done.json")):
            wrong.append(f"{stage}: taken for done")
        if stage == "train":
            wrong += _training(run, disk, refused)
    if until is None:
        refused(Filling(disk, "export: "), "summary")
    console = Quiet()
    found = whole_run(house, run, console, until)
    if found != {file: digest for file, digest in expected.items() if file in found or until is None} or len(found) < 2:
        wrong.append(f"the run ended with other bytes: {found}, not {expected}")
    if until == "train" and not any("goes on from the checkpoint of step 10" in line for line in console.lines):
        wrong.append("training did not go on from step 10")
    steps = [json.loads(line)["step"] for line in next(run.glob("train-*/metrics.jsonl")).read_text().splitlines()]
    if steps != list(range(1, 31)):
        wrong.append(f"lines of metrics: {steps}")
    return wrong


def _training(run: Path, disk: Disk | RealDisk, refused: Callable[[Filling, str], str]) -> list[str]:
    """Fills the disk at step 13 of 30, with checkpoints every 5: what is wrong with that."""
    wrong = []
    console = Filling(disk, "train", step=13)
    said = refused(console, "training")
    if "three saves in a row failed" not in said or "the last good one is step 10" not in said or "takes about" not in said:
        wrong.append(f"training: {said}")
    if len([warning for warning in console.warnings if "was not written" in warning]) != 2:
        wrong.append(f"training warned otherwise: {console.warnings}")
    [checkpoints] = run.glob("train-*/checkpoints")
    if sorted(path.name for path in checkpoints.iterdir()) != ["LATEST", "step-10", "step-5"]:
        wrong.append(f"checkpoints: {sorted(checkpoints.iterdir())}")
    return wrong


def test_a_disk_that_is_full_at_every_stage_costs_nothing_that_was_done(house, tmp_path, monkeypatch):
    """Wherever a test runs: every flush to disk fails from some moment on, at each stage once."""
    assert fill_everywhere(house, tmp_path / "run", Disk(monkeypatch), until="train") == []


CHILD = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("faults", sys.argv[1])
faults = importlib.util.module_from_spec(spec); spec.loader.exec_module(faults)
disk = Path(sys.argv[3])
wrong = faults.fill_everywhere(Path(sys.argv[2]), disk / "run", faults.RealDisk(disk))
print("\\n".join(wrong))
sys.exit(len(wrong) > 0)
"""


def on_small_disk(folder: Path, megabytes: int, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell command where `folder` is a tmpfs of this size: in a mount namespace of its own, which ends with it."""
    root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    mount = f'mount -t tmpfs -o size={megabytes}m rewarm "$0" || exit 77; '
    return subprocess.run(
        ["unshare", *root, "--mount", "sh", "-c", mount + command, str(folder), *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`on_small_disk` for a folder `disk`; the test is skipped where a tmpfs cannot be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("unshare") is None or on_small_disk(folder, 1, "true").returncode != 0:
        pytest.skip("needs to mount a small tmpfs: root, or user namespaces (unshare --user --mount)")
    return lambda megabytes, command, *arguments: on_small_disk(folder, megabytes, command, *arguments)


def test_a_real_full_disk_costs_nothing_that_was_done(house, small_disk):
    """On a real file system with no space left, where libraries write that no test double reaches."""
    done = small_disk(8, 'exec "$@" "$0"', sys.executable, "-c", CHILD, __file__, str(house))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_ends_with_1_and_says_what_to_do(house, small_disk):
    """A log on the same disk is the usual case: what cannot be said there is said on stderr, and the exit code stays 1."""
    script = 'head -c 10m /dev/zero > "$0/ballast" 2>/dev/null; "$@" --out "$0/run" > "$0/log"'
    done = small_disk(1, script, sys.executable, "-m", "rewarm.cli", "corpus", str(house / "recipe.yaml"))
    assert done.returncode == 1 and done.stderr.startswith("rewarm: ") and "Traceback" not in done.stderr, done.stderr
    assert "no space left on this disk: 0 B free" in done.stderr and "free some space and run the same command again" in done.stderr
    script = 'head -c 10m /dev/zero > "$0/ballast" 2>/dev/null; "$@" > "$0/log"'
    done = small_disk(1, script, sys.executable, "-m", "rewarm.cli", "recipe")
    assert done.returncode == 1 and "no space left" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_full_cache_stops_no_measurement(tmp_path):
    """Scores of the base are kept in the user's home for other runs: a convenience, not a part of the run."""
    from rewarm.evaluate.measure import Measurement

    def write(path: Path) -> None:
        if path.parent == tmp_path / "cache":
            raise atomic.disk_full(path)
        path.write_text("scores")

    measure = object.__new__(Measurement)
    measure.out, measure.cache = tmp_path, tmp_path / "cache"
    (tmp_path / "scores").mkdir()
    measure._keep([tmp_path / "scores" / "a.parquet", tmp_path / "cache" / "a.parquet"], write)
    assert (tmp_path / "scores" / "a.parquet").read_text() == "scores"
    measure.cache = tmp_path / "scores"  # as where the home cannot be used at all
    with pytest.raises(OSError, match="no such place"):
        measure._keep([tmp_path / "scores" / "b.parquet"], lambda path: (_ for _ in ()).throw(OSError("no such place")))


def test_errors_of_a_full_disk_are_told_from_others():
    """safetensors writes outside of Python: its error is no OSError, and only its text says why."""
    from safetensors import SafetensorError

    assert atomic.is_disk_full(OSError(errno.ENOSPC, "full")) and atomic.is_disk_full(OSError(errno.EDQUOT, "quota"))
    assert atomic.is_disk_full(SafetensorError("I/O error: No space left on device (os error 28)"))
    assert not atomic.is_disk_full(OSError(errno.EACCES, "no")) and not atomic.is_disk_full(SafetensorError("invalid header"))
    assert not atomic.is_disk_full(ValueError("(os error 28)"))
    told = str(atomic.disk_full(Path("/nowhere/at/all/x.bin"), 3_400_000))
    assert "x.bin needs about 3.4 MB" in told and " free" in told
    assert [atomic.size(n) for n in (0, 999, 1000, 340_000, 1_200_000, 3_400_000_000, 123_000_000_000)] == [
        "0 B", "999 B", "1 kB", "340 kB", "1.2 MB", "3.4 GB", "123 GB",
    ]  # fmt: skip


# Signals


@pytest.fixture
def asked():
    """No stop is asked for before or after."""
    signals.clear_stop()
    yield
    signals.clear_stop()


def test_a_second_sigterm_waits_too_and_a_second_ctrl_c_stops_at_once(asked, capfd):
    """A scheduler repeats SIGTERM before it kills; whoever presses Ctrl-C twice means now."""
    signals._ask(signal.SIGTERM, None)
    signals._ask(signal.SIGTERM, None)
    assert signals.stop_requested() == "SIGTERM"
    with pytest.raises(KeyboardInterrupt):
        signals._ask(signal.SIGINT, None)
    assert "stopping at the next safe point" in capfd.readouterr().err


def start(house: Path, run: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rewarm.cli", "run", str(house / "recipe.yaml"), *overrides, "--out", str(run)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def until_training(process: subprocess.Popen[str], run: Path) -> None:
    while process.poll() is None and not any(file.read_text().count("\n") >= 7 for file in run.glob("train-*/metrics.jsonl")):
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()[1]


LONG = "train.tokens=256000"
"""A thousand steps: long enough to be met in the middle."""


def test_signals_that_come_twice_and_a_second_process(house, tmp_path):
    """SIGTERM twice leaves a checkpoint; meanwhile another process is refused the folder; Ctrl-C twice stops at once and costs no more than
    the steps since the last checkpoint."""
    run = tmp_path / "run"
    shutil.copytree(house / "whole", run, ignore=shutil.ignore_patterns("train-*", "mixback-*", "evaluate-*", "export-*"))
    process = start(house, run, LONG)
    until_training(process, run)
    second = start(house, run, LONG)
    said = second.communicate(timeout=120)[1]
    assert second.returncode == 2 and f"in use by process {process.pid}" in said and "Traceback" not in said, said
    process.send_signal(signal.SIGTERM)
    time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "a checkpoint is written" in said and "Traceback" not in said, said
    [latest] = run.glob("train-*/checkpoints/LATEST")
    stopped_at = int(latest.read_text().strip().removeprefix("step-"))
    assert stopped_at >= 7
    process = start(house, run, LONG)
    lines = latest.parent.parent / "metrics.jsonl"
    while process.poll() is None and lines.read_text().count("\n") < stopped_at + 3:
        time.sleep(0.005)
    while process.poll() is None:  # also while it says its last word and goes
        process.send_signal(signal.SIGINT)
        time.sleep(0.005)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "Traceback" not in said, said
    newest = max(int(path.name.removeprefix("step-")) for path in latest.parent.glob("step-*") if path.suffix != ".tmp")
    assert newest >= stopped_at
